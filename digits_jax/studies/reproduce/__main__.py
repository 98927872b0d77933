"""Compares the post's log with ours: `python -m digits_jax.studies.reproduce`

Rewrites the plots and tables of `docs/reproduction.md`, and the results table of the README, from the results of
`configs/sweeps/reproduction.py` and `configs/sweeps/reproduction_causes.py`.
"""

from pathlib import Path

from absl import flags

from digits_jax import cli
from digits_jax.runs.console import console
from digits_jax.storage import replace_text
from digits_jax.studies.docs import DOCS, with_sections
from digits_jax.studies.reproduce import EXPERIMENTS
from digits_jax.studies.reproduce.page import PROTOCOLS, read_data, readme_section, sections
from digits_jax.studies.reproduce.plots import plot_experiment

README = flags.DEFINE_string("readme", "README.md", "file with the results table")


def main(argv: list[str]) -> None:
    docs, readme = Path(DOCS.value), Path(README.value)
    page, data = docs / "reproduction.md", read_data(docs)
    replace_text(page, with_sections(page, sections(data)))
    replace_text(readme, with_sections(readme, {"results": readme_section(data)}))
    for name in EXPERIMENTS:
        logged, stated = (data.runs(name, protocol) for protocol in PROTOCOLS[:2])
        plot_experiment(name, data.post[name], logged, stated).savefig(docs / f"reproduction/{name}.png")
    console.print(f"{sum(map(len, data.results.values()))} runs in {page}")


if __name__ == "__main__":
    cli.run(main)
