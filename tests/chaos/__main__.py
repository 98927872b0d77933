"""Kills and damages runs and prints what came of it: `python -m tests.chaos`

python -m tests.chaos --sigkill=50 --sigterm=20 --sigint=20 --damages=200 --seed=0
"""

import random
import signal
import tempfile
import time
from collections import Counter
from pathlib import Path

from absl import flags
from rich.console import Console
from rich.table import Table

from digits_jax import cli
from tests.chaos import trials

SIGKILL = flags.DEFINE_integer("sigkill", 50, "runs killed by SIGKILL", lower_bound=0)
SIGTERM = flags.DEFINE_integer("sigterm", 20, "runs stopped by SIGTERM", lower_bound=0)
SIGINT = flags.DEFINE_integer("sigint", 20, "runs stopped by SIGINT", lower_bound=0)
DAMAGES = flags.DEFINE_integer("damages", 200, "checkpoints damaged", lower_bound=0)
SEED = flags.DEFINE_integer("seed", 0, "of the random moments and damages")


def main(argv: list[str]) -> int:
    draw = random.Random(SEED.value)
    table = Table("what", "trials", "ended bit-identical", "found", "where", box=None)
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        hashes = set()
        for number in range(3):
            begin = time.monotonic()
            trials.finish(root / f"undisturbed{number}")
            seconds = time.monotonic() - begin
            hashes.add(trials.outcome(root / f"undisturbed{number}")["result"]["state_sha256"])
        expected = trials.outcome(root / "undisturbed0")
        table.add_row("left alone, fresh processes", "3", f"{4 - len(hashes)}", "", f"{seconds:.1f} s each")
        failures += len(hashes) - 1

        counts = {signal.SIGKILL: SIGKILL.value, signal.SIGTERM: SIGTERM.value, signal.SIGINT: SIGINT.value}
        for signum, count in counts.items():
            same, where = 0, Counter[str]()
            for number in range(count):
                workdir = root / f"{signum.name}{number}"
                for _ in range(draw.choice((1, 1, 2, 3))):
                    where[trials.kill(workdir, draw, signum, seconds=seconds)] += 1
                trials.finish(workdir)
                same += trials.outcome(workdir) == expected
            table.add_row(signum.name, str(count), str(same), "", _listed(where))
            failures += count - same

        trials.wait_for_epochs(root / "original", 2)
        for number, damage in enumerate(trials.DAMAGES):
            count = len(range(number, DAMAGES.value, len(trials.DAMAGES)))
            same, found, where = 0, 0, Counter[str]()
            for trial in range(count):
                workdir = root / f"{damage}{trial}"
                noticed, what = trials.damage_and_go_on(root / "original", workdir, damage, draw)
                same += trials.outcome(workdir) == expected
                found += noticed
                where["arrays" if "arrays" in what else "sums" if "SHA256SUMS" in what else "other"] += 1
            table.add_row(damage, str(count), str(same), str(found), _listed(where))
            failures += 2 * count - same - found
    Console(width=120).print(table)
    return int(failures > 0)


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    cli.run(main)
