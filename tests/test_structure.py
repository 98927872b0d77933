"""The shape of the package: who may import whom, how long the core is, how docstrings begin."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "digits_jax"
CORE = (
    "main", "config", "models", "losses", "metrics", "optimizer", "augment", "input_pipeline", "train_step", "evaluate",
    "experiment", "train_loop",
)  # fmt: skip
# A file imports only what stands below it, or from its own package.
LAYERS = (
    {"studies"}, {"apps"}, {"main", "api"}, {"train_loop"}, {"runs"}, {"experiment"}, {"evaluate"}, {"train_step"},
    {"config"}, {"input_pipeline"}, {"models", "losses", "metrics", "optimizer", "augment"},
    {"averaging", "transfer", "test_time"}, {"data"}, {"parallel"}, {"ops", "pages", "cli"}, {"storage"}, {"tables"},
    {"errors", "bounds"},
)  # fmt: skip
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
FRAGMENTS = {
    "As", "By", "For", "From", "How", "In", "Of", "That", "Those", "To", "Until", "What", "When", "Where", "Whether",
    "Which", "Who", "Whose", "Why", "With",
}  # fmt: skip
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path.relative_to(PACKAGE).parts[0] != "configs")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_parts(path: Path) -> Iterator[tuple[int, str]]:
    """Yields each part of the package, or other top-level module, that a file imports anywhere, with its line."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            bare = node.module == "digits_jax"
            names = [f"digits_jax.{alias.name}" for alias in node.names] if bare else [node.module]
        else:
            continue
        for name in names:
            top, *rest = name.split(".")
            yield node.lineno, rest[0] if top == "digits_jax" and rest else top


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path: Path) -> None:
    part = part_of(path)
    for line, imported in imported_parts(path):
        assert imported != "configs", f"{path}:{line}"
        if part == "__init__":  # of load_model and train, which are imported when they are asked for
            assert imported in ("typing", "runs", "api"), f"{path}:{line}"
        elif imported in LEVELS and imported != part:
            assert LEVELS[imported] > LEVELS[part], f"{path}:{line} imports {imported}"


def test_every_part_has_its_place() -> None:
    assert {part_of(path) for path in FILES} - {"__init__"} == set(LEVELS)


def test_the_core_is_short() -> None:
    lines = {name: len((PACKAGE / f"{name}.py").read_text().splitlines()) for name in CORE}
    assert sum(lines.values()) <= 1_600, lines


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_docstrings_start_with_a_verb_or_a_noun(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            docstring = ast.get_docstring(node)
            if docstring:
                assert docstring.split()[0].strip('"`,') not in FRAGMENTS, f"{path}:{node.lineno}: {docstring}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_flags_for_paths_expand_the_home_directory(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("DEFINE_string"):
            words = ast.unparse(node).lower()
            assert not any(word in words for word in ("folder", "directory", "file")), f"{path}:{node.lineno}"
