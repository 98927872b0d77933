"""All reports under `docs/ablations`, and their index: `python -m digits_jax.studies.ablations`

Each folder there holds the result files of one sweep. Run a sweep with `--results=docs/ablations` to add to them.
"""

from pathlib import Path

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.runs.console import console
from digits_jax.storage import replace_text
from digits_jax.studies.docs import DOCS
from digits_jax.studies.report.__main__ import write_report
from digits_jax.studies.report.results import read_results
from digits_jax.studies.report.study import Study, create_study

_INTRODUCTION = """# Ablations

What was asked of these networks, and what the runs answer. An answer names each variant's mean paired difference in
final test accuracy with its interval; the intervals of a report hold together with 95 % confidence. Each report has all
figures, learning curves and the commands; its result files lie beside it.

    python -m digits_jax.studies.sweep --sweep=configs/sweeps/NAME.py --results=docs/ablations    # what is missing
    python -m digits_jax.studies.ablations                                                        # these pages
"""


def index(studies: list[Study], folder: Path) -> str:
    """The index of the reports in a folder, whose first lines are question and answer."""
    entries = []
    for study in studies:
        title, answer, *_ = (folder / study.name / "report.md").read_text().split("\n\n")
        sizes = sorted({result["config"]["dataset"]["train_examples"] for result in study.results})
        entries.append(
            f"## [{title.removeprefix('# ')}]({study.name}/report.md)\n\n{answer}\n\n"
            f"{len(study.results)} runs on {' or '.join(f'{size:,}' for size in sizes)} training images, "
            f"from [`configs/sweeps/{study.name}.py`](../../configs/sweeps/{study.name}.py).\n\n"
            f"![Differences to {study.baseline.name} with their intervals]({study.name}/differences.png)\n"
        )
    return "\n".join([_INTRODUCTION, *entries])


def main(argv: list[str]) -> None:
    folder = Path(DOCS.value) / "ablations"
    studies = [create_study(read_results([found])) for found in sorted(folder.glob("*/"))]
    if not studies:
        raise UserError(f"{folder} has no folders of result files (run a sweep with --results={folder})")
    for study in studies:
        write_report(study, folder / study.name)
    replace_text(folder / "README.md", index(studies, folder))
    console.print(f"{len(studies)} reports and their index in {folder / 'README.md'}")


if __name__ == "__main__":
    cli.run(main)
