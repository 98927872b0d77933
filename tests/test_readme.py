"""README.md and the pages under docs/: what they name exists, and the code they show runs."""

import functools
import importlib.util
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

import digits_jax
from digits_jax import augment, config, losses, models, optimizer
from digits_jax.train import train_and_evaluate

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / ".github/CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
TABLES: dict[str, dict[str, Any]] = {
    "MODELS": models.MODELS,
    "LOSSES": losses.LOSSES,
    "SCHEDULES": optimizer.SCHEDULES,
    "OPTIMIZERS": optimizer.OPTIMIZERS,
    "AUGMENTATIONS": augment.AUGMENTATIONS,
}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def blocks(page: Path, language: str) -> list[str]:
    """Returns the fenced code blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Returns the anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_readme_is_short() -> None:
    assert (ROOT / "README.md").stat().st_size <= 6656


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', page.read_text())
    for link in (markdown or html for markdown, html in links):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@each_page
def test_paths_exist(page: Path) -> None:
    text = re.sub(r"\w+://\S+", "", page.read_text())
    for path in re.findall(r"(?<![\w/.~-])((?:docs|digits_jax|configs|tests)/[\w./-]*\w)", text):
        assert (ROOT / path).exists(), path


@each_page
def test_commands_exist(page: Path) -> None:
    for module in re.findall(r"python -m ((?:digits_jax|tests)[\w.]*)", page.read_text()):
        spec = importlib.util.find_spec(module)
        assert spec, module
        assert not spec.submodule_search_locations or importlib.util.find_spec(f"{module}.__main__"), module


@each_page
def test_configs_and_fields_exist(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    text = page.read_text()
    for name in re.findall(r"--config=([\w/.:]+)", text):
        if not name.startswith("my/"):  # the reader's own
            config.load_config(name)
    for field in re.findall(r"--config\.(\w+(?:\.\w+)*)", text):
        functools.reduce(getattr, field.split("."), config.load_config("vgg"))


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"({page.name})" not in index] == ["README.md"]


@pytest.mark.parametrize("page", ["README.md", "docs/sweeps.md"])
def test_the_ablation_is_the_one_in_configs(page: str) -> None:
    assert (ROOT / "configs/sweeps/hidden_dropout.py").read_text() in blocks(ROOT / page, "python")


@pytest.mark.parametrize(
    "changes",
    [
        {"model.name": "residual_vgg", "model.widths": ((4, 4), (4,))},
        {
            "model.name": "linear",
            "loss": "focal",
            "schedule": "exponential",
            "learning_rates": (0.001,),
            "epochs": (2,),
            "optimizer": "lion",
            "augment.name": "noise",
        },
    ],
    ids=["model", "others"],
)
def test_the_extensions_train(
    changes: dict[str, Any], tmp_path: Path, vgg_config: ConfigDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs the blocks of docs/extending.md and trains with what they register."""
    for code in blocks(ROOT / "docs/extending.md", "python"):
        if found := re.search(r'^([A-Z]+)\["(\w+)"\] = ', code, re.MULTILINE):
            table, name = found.groups()
            monkeypatch.setitem(TABLES[table], name, None)  # so that it is gone after the test
            (tmp_path / f"{name}.py").write_text(code)
            runpy.run_path(str(tmp_path / f"{name}.py"))
    vgg_config.update_from_flattened_dict(changes)
    rows = train_and_evaluate(vgg_config, tmp_path / "run")
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]


def test_the_citation_has_the_version() -> None:
    assert f"version: {digits_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
