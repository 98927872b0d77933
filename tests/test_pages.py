"""Every generated page under `docs/`, and the README's table, from the committed data: as it is committed."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from absl.testing import flagsaver

from digits_jax.studies import ablations, accuracy, fonts, scaling, scenes
from digits_jax.studies.benchmark import page as benchmark
from digits_jax.studies.docs import with_sections
from digits_jax.studies.report.page import build_page
from digits_jax.studies.reproduce import page as reproduce
from tests.chaos import page as chaos

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def _ablations(_: Path) -> Iterator[tuple[Path, str]]:
    folder = DOCS / "ablations"
    studies = ablations.read_studies(folder)
    reports = [build_page(study)[0] for study in studies]
    yield folder / "README.md", ablations.index(studies, reports)
    for study, report in zip(studies, reports, strict=True):
        yield folder / study.sweep.name / "report.md", report
    assert len(reports) == len([*folder.glob("*/report.md")])


def _accuracy(_: Path) -> Iterator[tuple[Path, str]]:
    data, readme = accuracy.read_data(DOCS), ROOT / "README.md"
    yield DOCS / "accuracy.md", with_sections(DOCS / "accuracy.md", accuracy.sections(data))
    yield readme, with_sections(readme, {"beyond": accuracy.readme_section(data)})


def _reproduction(_: Path) -> Iterator[tuple[Path, str]]:
    data, page, readme = reproduce.read_data(DOCS), DOCS / "reproduction.md", ROOT / "README.md"
    yield page, with_sections(page, reproduce.sections(data))
    yield readme, with_sections(readme, {"results": reproduce.readme_section(data)})


def _reliability(_: Path) -> Iterator[tuple[Path, str]]:
    page = DOCS / "reliability.md"
    yield page, with_sections(page, {"chaos": chaos.section(DOCS / "reliability.jsonl")})


def _by_command(page: str, main: Callable[[list[str]], None]) -> Callable[[Path], Iterator[tuple[Path, str]]]:
    """Returns what a command writes that has no function for its text: it rewrites a copy of the page."""

    def generate(copy: Path) -> Iterator[tuple[Path, str]]:
        for file in (DOCS / page, *DOCS.glob("*.json")):
            shutil.copy(file, copy)
        for folder in ("benchmarks", "scaling"):
            shutil.copytree(DOCS / folder, copy / folder)
        with flagsaver.flagsaver(docs=str(copy)):
            main([""])
        yield DOCS / page, (copy / page).read_text()

    return generate


@pytest.mark.usefixtures("parsed_flags")
@pytest.mark.parametrize(
    "generate",
    [
        pytest.param(_ablations, id="ablations"),
        pytest.param(_accuracy, id="accuracy"),
        pytest.param(_reproduction, id="reproduction"),
        pytest.param(_reliability, id="reliability"),
        pytest.param(_by_command("scaling.md", scaling.main), id="scaling"),
        pytest.param(_by_command("benchmarks.md", benchmark.main), id="benchmarks"),
        pytest.param(_by_command("predict.md", fonts.main), id="predict"),
        pytest.param(_by_command("predict.md", scenes.main), id="scenes"),
    ],
)
def test_a_page_is_what_its_data_give(generate: Callable[[Path], Iterator[tuple[Path, str]]], tmp_path: Path) -> None:
    for path, text in generate(tmp_path):
        assert text == path.read_text(), f"{path} differs from its data"
