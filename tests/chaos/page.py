"""Rewrites the table of trials in `docs/reliability.md`: `python -m tests.chaos.page`"""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from digits_jax import cli
from digits_jax.pages import markdown_table
from digits_jax.studies.docs import DOCS, replace_sections
from tests.chaos.trials import KINDS


def section(file: Path) -> str:
    """Returns the section, from the file that `python -m tests.chaos` writes."""
    machine, *trials = map(json.loads, file.read_text().splitlines())
    rows = []
    for kind, (promise, _, _) in KINDS.items():
        mine = [trial for trial in trials if trial["kind"] == kind]
        if mine:
            kept = sum(trial["kept"] for trial in mine)
            rows.append((kind, promise, _listed(mine), str(len(mine)), str(kept)))
    kept, minutes = sum(trial["kept"] for trial in trials), sum(trial["seconds"] for trial in trials) / 60
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("python", "jax", "flax", "orbax-checkpoint")
    )
    header = ("event", "promise", "where", "trials", "kept")
    hardware = f"{machine['cores']} core(s) of an {machine['cpu']}, {versions}, seed {machine['seed']}"
    summary = f"{kept} of {len(trials)} trials kept the promise, in {minutes:.0f} minutes on {hardware}."
    return f"{summary}\n\n{markdown_table(header, rows, text_columns=3)}"


def _listed(trials: list[dict[str, Any]]) -> str:
    places = [re.sub(r"^\d+ ", "", where) for trial in trials for where in trial["where"].split("; ")]
    return "; ".join(f"{count}x {where}" for where, count in sorted(Counter(places).items()))


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    replace_sections(docs / "reliability.md", {"chaos": section(docs / "reliability.jsonl")})


if __name__ == "__main__":
    cli.run(main)
