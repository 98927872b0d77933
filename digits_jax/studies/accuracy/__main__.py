"""Plots accuracy against time: `python -m digits_jax.studies.accuracy`

Rewrites the plot and tables of `docs/accuracy.md` from the results of `configs/sweeps/accuracy.py` and
`configs/sweeps/reproduction.py`, from `docs/speed_run.json` (`digits_jax.studies.benchmark.speed_run`), and from
evaluations of ensembles by `digits_jax.apps.evaluate` (`docs/accuracy_ensembles/*.json`).
"""

from pathlib import Path

from digits_jax import cli
from digits_jax.runs.console import console
from digits_jax.storage import replace_text
from digits_jax.studies.accuracy.page import plot_points, read_data, sections
from digits_jax.studies.docs import DOCS, with_sections


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    page, data = docs / "accuracy.md", read_data(docs)
    replace_text(page, with_sections(page, sections(data)))
    plot_points(data.points).savefig(docs / "accuracy.png")
    console.print(f"{len(data.points)} configs in {page}")


if __name__ == "__main__":
    cli.run(main)
