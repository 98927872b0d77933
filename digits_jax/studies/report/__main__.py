"""Writes the report of a sweep's results: `python -m digits_jax.studies.report runs/sweeps/hidden_dropout`

Writes `report.md` with its plots and one self-contained `report.html`, which shows misclassified images if `--page`,
a folder to publish, is not given.
"""

from pathlib import Path

from absl import flags

from digits_jax import cli, data
from digits_jax.errors import ConfigError, UserError
from digits_jax.studies.report.page import build_page, gallery, write_page
from digits_jax.studies.report.study import Study, read_study

PAGE = cli.DEFINE_path("page", None, "folder to publish; default: runs/reports/<sweep>, with pictures of digits")
METRICS = flags.DEFINE_list("metrics", [], "what to compare, of the final epoch; default: all accuracies")
ACCURACY = flags.DEFINE_float("accuracy", None, "for 'time to test accuracy'", lower_bound=0, upper_bound=1)


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        example = "python -m digits_jax.studies.report runs/sweeps/hidden_dropout"
        raise ConfigError(f"no results given; for example: {example}")
    study = read_study(*argv[1:])
    folder = Path(PAGE.value or Path("runs/reports", study.sweep.name))
    markdown, plots = build_page(study, metrics=METRICS.value, accuracy=ACCURACY.value)
    write_page(folder, markdown, plots, appendix="" if PAGE.value else _pictures(study))
    cli.console.print(f"{len(study.results)} runs in {folder / 'report.html'} and {folder / 'report.md'}")


def _pictures(study: Study) -> str:
    """Returns the gallery of misclassified images; empty if this machine does not have the data of all runs."""
    try:
        dataset = data.load(study.results[0]["dataset"]["name"])  # no path from a file that anyone may have written
    except UserError as error:
        cli.console.print(f"no pictures of digits: {error}")
        return ""
    same = study.split == "test" and study.images("test") == (
        dataset.name, dataset.sha256, len(dataset.arrays.test_labels)
    )  # fmt: skip
    return gallery(study.results, dataset.arrays) if same else ""


if __name__ == "__main__":
    cli.run(main, positional=True)
