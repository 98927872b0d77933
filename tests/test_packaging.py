"""What pyproject.toml installs: the packages that the code imports, and the files of the wheel."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED_BY_OTHERS = {"importlib-resources", "jaxlib"}  # and imported by no file here
# The core runs without the extras. Functions may import more: what is missing is then reported in one line.
EXTRAS_ONLY = ("apps", "studies", "pages.py")


def names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-") for requirement in requirements}  # type: ignore[index]


@functools.cache
def distributions() -> Mapping[str, list[str]]:
    """Returns the distributions that install each top-level module."""
    return importlib.metadata.packages_distributions()


def imported(path: Path, *, late: bool) -> Iterator[str]:
    """Yields the distributions that a file imports, outside of functions or also within them."""
    module = ast.parse(path.read_text())
    for node in ast.walk(module) if late else module.body:
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [str(node.module)]
        else:
            continue
        for top in {name.partition(".")[0] for name in modules} - sys.stdlib_module_names - {"digits_jax"}:
            yield min(distributions().get(top, [top]), key=len).lower().replace("_", "-")


def core() -> list[Path]:
    files = (ROOT / "digits_jax").rglob("*.py")
    return [path for path in files if path.relative_to(ROOT / "digits_jax").parts[0] not in EXTRAS_ONLY]


def test_the_core_imports_what_is_always_installed() -> None:
    required = names(PROJECT["dependencies"])
    assert len(required) <= 15
    early = {name for path in core() for name in imported(path, late=False)}
    assert early <= required
    assert required - {name for path in core() for name in imported(path, late=True)} == NEEDED_BY_OTHERS


def test_whatever_is_imported_is_declared() -> None:
    extras = names([requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra])
    declared = names(PROJECT["dependencies"]) | extras
    for path in (ROOT / "digits_jax").rglob("*.py"):
        assert set(imported(path, late=False)) <= declared, path


def test_extras_name_extras_that_exist() -> None:
    extras = PROJECT["optional-dependencies"]
    for requirement in [requirement for extra in extras.values() for requirement in extra]:
        if own := re.fullmatch(r"digits_jax\[([\w,]+)\]", requirement):
            assert set(own[1].split(",")) <= extras.keys(), requirement


@pytest.mark.slow
def test_the_wheel(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="needs hatchling: ./launch.sh setup dev")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=120)
    [wheel] = tmp_path.glob("*.whl")
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    code = {path.relative_to(ROOT).as_posix() for path in (ROOT / "digits_jax").rglob("*.py")}
    configs = {f"digits_jax/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").rglob("*.py")}
    assert "digits_jax/configs/bn_dropout.py" in configs
    assert {name for name in found if name.endswith(".py")} == code | configs
    assert {name.partition("/")[0] for name in found} == {"digits_jax"}
    weights = {f"digits_jax/weights/{name}" for name in ("SHA256SUMS", "fast.json", "fast.md", "fast.npz", "rows.npz")}
    assert {name for name in found if "/weights/" in name} == weights
