"""README.md and the pages under docs/: what they name exists, and the code they show runs."""

import functools
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import digits_jax
from digits_jax import config, load_model, metrics
from digits_jax.train_loop import train_and_evaluate

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / ".github/CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
EXTENDING = (ROOT / "docs/extending.md").read_text()

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
        if field == "augment.mixup_alpha":  # of an example
            continue
        functools.reduce(getattr, field.split("."), config.load_config("vgg"))


def test_the_index_has_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"({page.name})" not in index] == ["README.md"]


@pytest.mark.parametrize("page", ["README.md", "docs/sweeps.md"])
def test_the_ablation_is_the_one_in_configs(page: str) -> None:
    assert (ROOT / "configs/sweeps/hidden_dropout.py").read_text() in blocks(ROOT / page, "python")


EXAMPLES = dict(re.findall(r"`my/(\w+)\.py`:\n\n```python\n(.*?)^```$", EXTENDING, re.MULTILINE | re.DOTALL))
EXAMPLES["distilled"] = (ROOT / "docs/distilled.py").read_text()


def test_each_example_is_a_config_file() -> None:
    assert len(EXAMPLES) - 1 == len(blocks(ROOT / "docs/extending.md", "python"))


@pytest.mark.parametrize(
    "name",
    [name if name in ("mixup", "distilled") else pytest.param(name, marks=pytest.mark.slow) for name in EXAMPLES],
)
def test_the_extensions_train(name: str, tmp_path: Path, vgg_config: ConfigDict, trained: Path) -> None:
    """Trains each config file of docs/extending.md, on few images, and a small model where it brings none."""
    (tmp_path / f"{name}.py").write_text(EXAMPLES[name])
    tables: list[dict[str, Any]] = [*config.SECTIONS.values(), metrics.METRICS, metrics.CALLBACKS]
    before = [(dict(table), dict(getattr(table, "arguments", {}))) for table in tables]
    try:
        example = config.load_config(str(tmp_path / f"{name}.py"))
        changes: dict[str, Any] = {"epochs": (2,), "batch_size": 16, "learning_rates": (0.001,)}
        if name == "wide":
            changes["model.widths"] = ((4,), (4,))
        elif example.model.name == "vgg":
            changes["model.name"] = "linear"
        if name == "distilled":
            changes["loss.teacher"] = str(trained)
        config.override(example, changes)
        example.dataset.update(vgg_config.dataset.to_dict())
        rows = train_and_evaluate(example, tmp_path / "run")
        load_model(tmp_path / "run").predict(np.zeros((1, 28, 28, 1), np.uint8))
    finally:
        for table, (entries, arguments) in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
            if arguments:
                table.arguments = arguments  # type: ignore[attr-defined]
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
    if name == "watched":
        assert {"train/gradient_norm", "train/relative_update", "norm/Dense_0"} < set(rows[0])


def test_the_citation_has_the_version() -> None:
    assert f"version: {digits_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
