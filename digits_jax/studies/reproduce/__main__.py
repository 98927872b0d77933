"""Compares the post's log with ours: `python -m digits_jax.studies.reproduce`

Rewrites `docs/reproduction.md` and the README's table from the results of the sweeps `reproduction(_causes)`.
"""

from pathlib import Path

from digits_jax import cli
from digits_jax.studies.docs import DOCS, README, replace_sections
from digits_jax.studies.reproduce.page import plot_experiment, read_data, readme_section, sections
from digits_jax.studies.reproduce.post_log import EXPERIMENTS


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    page, data = docs / "reproduction.md", read_data(docs)
    replace_sections(page, sections(data))
    replace_sections(Path(README.value), {"results": readme_section(data)})
    for name in EXPERIMENTS:
        plot_experiment(data, name).savefig(docs / f"reproduction/{name}.png")
    cli.console.print(f"{sum(map(len, data.results.values()))} runs in {page}")


if __name__ == "__main__":
    cli.run(main)
