"""What a sweep found, as a page: `python -m digits_jax.studies.report runs/sweeps/hidden_dropout`

From result files alone, wherever they lie. Writes `report.md` with its figures and the same as one self-contained
`report.html`: into `runs/reports`, where it also shows the test images that most runs get wrong, or into `--page`, a
folder to publish, where it only names them.
"""

import io
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from digits_jax import cli
from digits_jax.data import Arrays, load_configured
from digits_jax.errors import ConfigError, UserError
from digits_jax.pages import digits_gallery, to_html
from digits_jax.runs.console import console
from digits_jax.storage import replace_text
from digits_jax.studies.report.page import build_page, most_missed
from digits_jax.studies.report.results import read_results
from digits_jax.studies.report.study import Study, create_study

PAGE = flags.DEFINE_string("page", None, "folder to publish; default: runs/reports/<sweep>, with pictures of digits")
METRICS = flags.DEFINE_list("metrics", [], "what is compared, of the final epoch; default: accuracies on test images")
ACCURACY = flags.DEFINE_float(
    "accuracy", None, "test accuracy that 'time to accuracy' waits for", lower_bound=0, upper_bound=1
)


def write_report(
    study: Study,
    folder: Path,
    *,
    metrics: Sequence[str] = (),
    accuracy: float | None = None,
    test_set: Arrays | None = None,
) -> None:
    """Writes `report.md`, its figures and `report.html` into a folder.

    Args:
      study: as from `create_study`.
      folder: made where it is missing.
      metrics, accuracy: as for `build_page`.
      test_set: for pictures of the most missed images in `report.html`; None: no pictures.

    Raises:
      UserError: a run has no such metric, or the folder cannot be written.
    """
    markdown, figures = build_page(study, metrics=metrics, accuracy=accuracy)
    images = {}
    for name, figure in figures.items():
        file = io.BytesIO()
        figure.savefig(file, format="png")
        images[name] = file.getvalue()
    appendix = ""
    if test_set:
        appendix = digits_gallery(
            "The most missed",
            (
                (
                    test_set.test_images[index],
                    f"{index}: a {test_set.test_labels[index]}<br>{count} of {len(study.results)}",
                )
                for index, count in most_missed(study.results)
            ),
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "report.md", markdown)
        replace_text(folder / "report.html", to_html(markdown, images, appendix=appendix))
        for name, data in images.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}): give another --page") from None


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise ConfigError(
            "no results given; for example: python -m digits_jax.studies.report runs/sweeps/hidden_dropout"
        )
    study = create_study(read_results(argv[1:]))
    folder = Path(PAGE.value or Path("runs/reports") / study.name)
    write_report(
        study,
        folder,
        metrics=METRICS.value,
        accuracy=ACCURACY.value,
        test_set=None if PAGE.value else _load_arrays(study),
    )
    console.print(f"{len(study.results)} runs in {folder / 'report.html'} and {folder / 'report.md'}")


def _load_arrays(study: Study) -> Arrays | None:
    """The data set, for its pictures; None where it is not at hand."""
    try:
        dataset = load_configured(ConfigDict(study.results[0]["config"]["dataset"]))
    except UserError as error:
        console.print(f"no pictures of digits: {error}")
        return None
    return dataset.arrays if dataset.sha256 == study.results[0]["dataset"]["sha256"] else None


if __name__ == "__main__":
    cli.run(main, positional=True)
