"""Kills and damages runs at random: `python -m tests.chaos --results=docs/reliability.jsonl`

Adds a line per trial to the file, and leaves out those that it has: the same command continues. `python -m
tests.chaos.page` rewrites the table in `docs/reliability.md`.
"""

import json
import random
import tempfile
import time
from pathlib import Path

from absl import flags

from digits_jax import cli
from digits_jax.runs.environment import describe_machine, git_revision
from tests.chaos.trials import KINDS, Runs

RESULTS = flags.DEFINE_string("results", "chaos.jsonl", "file to add the trials to")
KINDS_FLAG = flags.DEFINE_list("kinds", list(KINDS), "which kinds of trials")
TRIALS = flags.DEFINE_integer("trials", None, "of each kind; default: as many as the table in docs/reliability.md has")
SEED = flags.DEFINE_integer("seed", 0, "of the random moments and damages")


def main(argv: list[str]) -> int:
    file = Path(RESULTS.value)
    if not file.exists():
        machine = {**describe_machine(), "git_revision": git_revision(), "seed": SEED.value}
        file.write_text(json.dumps(machine) + "\n")
    done = {(trial["kind"], trial["number"]) for trial in map(json.loads, file.read_text().splitlines()[1:])}
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        for kind in KINDS_FLAG.value:
            for number in range(TRIALS.value or KINDS[kind].count):
                if (kind, number) in done:
                    continue
                begin, draw = time.monotonic(), random.Random(f"{SEED.value} {kind} {number}")
                try:
                    kept, where = KINDS[kind].run(runs, runs.root / f"{kind} {number}", draw)
                except (RuntimeError, OSError, LookupError, ValueError) as error:
                    kept, where = False, f"{type(error).__name__}: {error}"[:300]
                failures += not kept
                trial = {"kind": kind, "number": number, "kept": kept, "where": where}
                with file.open("a") as lines:
                    lines.write(json.dumps({**trial, "seconds": round(time.monotonic() - begin, 1)}) + "\n")
                cli.console.print(f"{kind} {number}: {'kept' if kept else 'BROKEN'}, {where}")
    return int(failures > 0)


if __name__ == "__main__":
    cli.run(main)
