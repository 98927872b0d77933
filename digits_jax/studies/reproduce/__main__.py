"""The post's log beside ours: `python -m digits_jax.studies.reproduce`

Rewrites the plots and tables of `docs/reproduction.md`, and the results table of the README, from the result files of
`configs/sweeps/reproduction.py` and `configs/sweeps/reproduction_causes.py`.
"""

import csv
from pathlib import Path

from absl import flags

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.runs.console import console
from digits_jax.studies.docs import DOCS, replace_section
from digits_jax.studies.report.study import describe, read_variants
from digits_jax.studies.reproduce import page as page
from digits_jax.studies.reproduce.plots import plot_experiment
from digits_jax.studies.reproduce.post_log import EXPERIMENTS, read_post_log

README = flags.DEFINE_string("readme", "README.md", "file with the results table")


def read_reasons(path: Path) -> dict[tuple[str, int, str], str]:
    """Why figures lie outside, by (experiment, epoch, figure).

    Raises:
      UserError: the file cannot be read, or is no such table.
    """
    try:
        with path.open(newline="") as file:
            return {(r["experiment"], int(r["epoch"]), r["figure"]): r["why"] for r in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error!r}): expected experiment,epoch,figure,why") from None


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    folder = docs / "reproduction"
    post = read_post_log(folder / "post_log.csv")
    results, causes = (read_variants(docs / name) for name in ("reproduction", "reproduction_causes"))
    all_results = [result for runs in results.values() for result in runs]
    for name in EXPERIMENTS:
        for protocol in page.PROTOCOLS[:2]:
            if len(results.get(f"{name}, {protocol}", [])) < 2:
                raise UserError(f"{folder} has fewer than 2 runs of '{name}, {protocol}': run the sweep's others first")
    sections = {
        "runs": describe(all_results),
        "score": page.score_table(post, results),
        "outliers": page.outliers_table(post, results, read_reasons(folder / "outliers.csv")),
        "causes": page.causes_table(post, results, causes),
        "validation": page.validation_table(post, results),
        "conclusions": page.conclusions_table(results),
        "schedule": page.schedule_table(results),
        "as stated": page.headline_table(results, "as stated"),
        "as logged": page.headline_table(results, "as logged"),
    }
    for name in EXPERIMENTS:
        logged, stated = (page.runs_of(results, f"{name}, {protocol}") for protocol in page.PROTOCOLS[:2])
        plot_experiment(name, post[name], logged, stated).savefig(folder / f"{name}.png")
        sections[f"figures {name}"] = page.figures_table(post[name], logged, stated)
    for section, text in sections.items():
        replace_section(docs / "reproduction.md", section, text)
    replace_section(Path(README.value), "results", f"{sections['as stated']}\n{page.score_in_words(post, results)}")
    console.print(f"{len(all_results)} runs in {docs / 'reproduction.md'}")


if __name__ == "__main__":
    cli.run(main)
