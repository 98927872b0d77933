"""The code that computes a run: the files that it is in, by their SHA-256, and where it differs.

Comments, docstrings, blank lines and spaces do not count. Of installed packages, `run.json` records the versions.
"""

import ast
import functools
import hashlib
import inspect
import linecache
import re
import sys
import sysconfig
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

import digits_jax
from digits_jax.bounds import SHA256, Bounds
from digits_jax.config import SECTIONS
from digits_jax.metrics import CALLBACKS, METRICS
from digits_jax.tables import Table

Code = dict[str, str]  # the hash of each file, by names such as "digits_jax/models.py"
CODE = Bounds(
    lambda x: isinstance(x, dict) and all(name.isprintable() and SHA256.accepts(x[name]) for name in x),
    "files and their SHA-256",
)
TABLES: dict[str, Table] = {
    "MODELS": SECTIONS["model"], "LOSSES": SECTIONS["loss"], "SCHEDULES": SECTIONS["schedule"],
    "OPTIMIZERS": SECTIONS["optimizer"], "AUGMENTATIONS": SECTIONS["augment"], "METRICS": METRICS,
    "CALLBACKS": CALLBACKS,
}  # fmt: skip

_PACKAGE = Path(digits_jax.__file__).resolve().parent
_SOURCES = ("*.py", "ops/*.py", "parallel/mesh.py", "parallel/replicas.py")
_NO_PART = ("__init__", "api", "bounds", "cli", "config", "errors", "main", "pages", "tables")
_NOT_USERS = re.compile(  # the package's and installed files
    rf"[/\\](site|dist)-packages[/\\]|^({re.escape(str(_PACKAGE))}|{re.escape(sysconfig.get_path('stdlib'))})[/\\]"
)


def describe_code(config: ConfigDict | FrozenConfigDict) -> Code:
    """Returns the hashes of the files that compute a run: the package's, and the user's that the config makes use of.

    A user's file is named by its path from the current directory, one elsewhere by its name alone.
    """
    code = dict(_package_code())
    for _, table, name in _used(config):
        code |= {_name(path): digest for path, digest in _users_code(table[name], table.files.get(name)).items()}
    return code


def registering_files(config: ConfigDict | FrozenConfigDict) -> dict[str, str]:
    """Returns which of the user's files registered what a config uses, such as {"MODELS['mixer']": "my/mixer.py"}."""
    files = {label: Path(table.files[name]).resolve() for label, table, name in _used(config) if name in table.files}
    script = getattr(sys.modules["__main__"], "__file__", None)  # is not to be run again by who reads the run
    scripts = [Path(script).resolve()] if script else []
    return {label: _name(file) + " (a script)" * (file in scripts) for label, file in files.items() if is_users(file)}


def _used(config: ConfigDict | FrozenConfigDict) -> list[tuple[str, Table, str]]:
    """Returns the entries that a config names: in words, the table, and the name in it."""
    names = {id(table): SECTIONS.chosen(config, section) for section, table in SECTIONS.items()}
    names |= {id(METRICS): config.metrics, id(CALLBACKS): config.callbacks}
    return [(f"{label}[{name!r}]", table, name) for label, table in TABLES.items() for name in names[id(table)]]


def code_hash(code: Code) -> str:
    """Returns one hash for all files, whatever their names."""
    return hashlib.sha256("\n".join(sorted(set(code.values()))).encode()).hexdigest()


def describe_changes(ours: Code, theirs: Code) -> str | None:
    """Returns in words which files differ, or None if none does; one that was only renamed does not."""
    pairs = (ours, theirs), (theirs, ours)
    names = sorted({name for a, b in pairs for name, digest in a.items() if digest not in b.values()})
    if not names:
        return None
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} differ{'s' if len(names) == 1 else ''}"


def last_recorded(run: Mapping[str, Any], field: str) -> Any:
    """Returns a field that `run.json` has of the start and of each resumption that changed it: the last; else None."""
    return next((part[field] for part in [*reversed(run.get("resumed_on") or []), run] if field in part), None)


@functools.cache
def _package_code() -> Code:
    files = sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern))
    counted = [path for path in files if path.parent != _PACKAGE or path.stem not in _NO_PART]
    return {path.relative_to(_PACKAGE.parent).as_posix(): hash_program(read_source(path)) for path in counted}


@functools.cache  # by the entry: the code that was loaded counts, whatever has become of its file
def _users_code(entry: Any, registered_in: str | None) -> dict[Path, str]:
    """Returns the hashes of the user's files of an entry: where it is defined and registered, and what these import."""
    while isinstance(entry, functools.partial):
        entry = entry.func
    try:
        defined_in = inspect.getsourcefile(inspect.unwrap(entry))
    except (TypeError, OSError):  # a class of a file that is no module
        defined_in = None
    queue, found = [Path(file).resolve() for file in (registered_in, defined_in) if file], {}
    while queue:
        path = queue.pop()
        if path not in found and is_users(path) and (source := read_source(path)):
            found[path] = hash_program(source)
            queue += _imports(source)
    return found


def _imports(source: str) -> Iterator[Path]:
    """Yields the files of the modules that a program imports by an absolute name."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        files = (getattr(sys.modules.get(name), "__file__", None) for name in names)
        yield from (Path(file).resolve() for file in files if file)


def is_users(path: Path) -> bool:
    """Returns whether a file is neither the package's nor an installed one."""
    return not _NOT_USERS.search(str(path))


def _name(path: Path) -> str:
    folders = [folder for folder in (Path.cwd(), _PACKAGE.parent) if path.is_relative_to(folder)]
    return path.relative_to(folders[0]).as_posix() if folders else path.name


def read_source(path: Path) -> str:
    """Returns the text of a Python file, or of a notebook's cell; "" if there is none."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return "".join(linecache.getlines(str(path)))


def hash_program(source: str) -> str:
    """Returns the SHA-256 of a program without comments, docstrings and layout."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # edited since it was loaded, and no program any more
        return hashlib.sha256(source.encode()).hexdigest()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = node.body[ast.get_docstring(node) is not None :]
    # Which quotes are used depends on the version of Python.
    return hashlib.sha256(ast.unparse(tree).replace('"', "'").encode()).hexdigest()
