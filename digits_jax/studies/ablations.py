"""Writes all reports under `docs/ablations`, and their index: `python -m digits_jax.studies.ablations`

Each folder there holds the results of one sweep. Train a sweep with `--results=docs/ablations` to add to them.
"""

from pathlib import Path

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.pages import escape
from digits_jax.storage import replace_text
from digits_jax.studies.docs import DOCS
from digits_jax.studies.report.page import build_page, write_page
from digits_jax.studies.report.study import Study, read_study, training_images
from digits_jax.studies.results import FILE

_INTRODUCTION = """# Ablations

The questions that were asked of these networks, and the answers. An answer gives the mean paired difference in the
accuracy of the final epoch of each variant, with its confidence interval over seeds and images; the intervals of a
report hold simultaneously with 95% confidence. Studies that a config was chosen by, and the ablation of that config,
are scored on held-out training images by other writers, the others on the test images. Each report has all numbers,
learning curves and commands. Its results are in `results.jsonl` beside it.

```bash
python -m digits_jax.studies.sweep --sweep=configs/sweeps/NAME.py --results=docs/ablations  # trains what is missing
python -m digits_jax.studies.ablations                                                      # writes these pages
```
"""


def read_studies(folder: Path) -> list[Study]:
    """Reads the studies in the subfolders of a folder; raises a UserError if there are none."""
    studies = [read_study(file) for file in sorted(folder.glob(f"*/{FILE}"))]
    if not studies:
        raise UserError(f"{folder} has no folders with a {FILE} (train a sweep with --results={folder})")
    return studies


def index(studies: list[Study], reports: list[str]) -> str:
    """Returns the index of the reports, with the question and the answer of each, which are their first lines."""
    entries = []
    for study, report in zip(studies, reports, strict=True):
        title, answer, *_ = report.split("\n\n")
        name = study.sweep.name
        entries.append(
            f"## [{title.removeprefix('# ')}]({name}/report.md)\n\n{answer}\n\n"
            f"{len(study.results)} runs on {training_images(study.results)} training images, "
            f"from [`configs/sweeps/{name}.py`](../../configs/sweeps/{name}.py).\n\n"
            f"![Differences to {escape(study.baseline.name)} with their confidence intervals]({name}/differences.png)\n"
        )
    return "\n".join([_INTRODUCTION, *entries])


def main(argv: list[str]) -> None:
    folder = Path(DOCS.value) / "ablations"
    studies = read_studies(folder)
    pages = [build_page(study) for study in studies]
    for study, page in zip(studies, pages, strict=True):
        write_page(folder / study.sweep.name, *page)
    replace_text(folder / "README.md", index(studies, [markdown for markdown, _ in pages]))
    cli.console.print(f"{len(studies)} reports and their index in {folder / 'README.md'}")


if __name__ == "__main__":
    cli.run(main)
