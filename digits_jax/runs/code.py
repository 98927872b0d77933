"""The code that computes a run: the files that it is in, by the SHA-256 of their tokens, and where it differs.

Comments, docstrings, blank lines and spaces do not count. Of installed packages, `run.json` records the versions.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import io
import itertools
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
from digits_jax import augment, cli, losses, models, optimizer
from digits_jax.bounds import SHA256, Bounds
from digits_jax.errors import UserError
from digits_jax.runs.identity import from_recorded, upgrade
from digits_jax.storage import PathLike, is_bucket, open_path

Code = dict[str, str]  # the hash of each file, by names such as "digits_jax/models.py"
CODE = Bounds(
    lambda x: isinstance(x, dict) and all(name.isprintable() and SHA256.accepts(x[name]) for name in x),
    "files and their SHA-256",
)

_PACKAGE = Path(digits_jax.__file__).resolve().parent
_SOURCES = ("*.py", "ops/*.py", "parallel/mesh.py", "parallel/replicas.py")
_NOT_COUNTED = {f"digits_jax/{name}.py" for name in ("__init__", "bounds", "cli", "config", "errors", "main", "pages")}
_NOT_USERS = re.compile(  # the package's and installed files
    rf"[/\\](site|dist)-packages[/\\]|^({re.escape(str(_PACKAGE))}|{re.escape(sysconfig.get_path('stdlib'))})[/\\]"
)


def _used(config: ConfigDict | FrozenConfigDict) -> list[tuple[str, str, Mapping[str, Any], str]]:
    """Returns each function that a config uses: in words, its table's name, its table, and its name there."""
    used: list[tuple[str, str, Mapping[str, Any], str]] = [
        ("model", "MODELS", models.MODELS, config.model.name),
        ("loss", "LOSSES", losses.LOSSES, config.loss),
        ("schedule", "SCHEDULES", optimizer.SCHEDULES, config.schedule),
        ("optimizer", "OPTIMIZERS", optimizer.OPTIMIZERS, config.optimizer),
        ("augmentation", "AUGMENTATIONS", augment.AUGMENTATIONS, config.augment.name),
    ]
    return [(f"{kind} {name!r}", table_name, table, name) for kind, table_name, table, name in used]


def describe_code(config: ConfigDict | FrozenConfigDict) -> Code:
    """Returns the hashes of the files that compute a run: the package's, and the user's that the config makes use of.

    A user's file is named by its path from the current directory, one elsewhere by its name alone.
    """
    code = dict(_package_code())
    for _, table_name, table, name in _used(config):
        code |= {_name(path): digest for path, digest in _users_code(table_name, name, table[name])[1].items()}
    return code


def registering_files(config: ConfigDict | FrozenConfigDict) -> dict[str, str]:
    """Returns which of the user's files registered what a config uses, such as {"model 'mixer'": "my/mixer.py"}."""
    files = {label: _users_code(table_name, name, table[name])[0] for label, table_name, table, name in _used(config)}
    script = getattr(sys.modules["__main__"], "__file__", None)  # is not to be run again by who reads the run
    scripts = [Path(script).resolve()] if script else []
    return {label: _name(file) + " (a script)" * (file in scripts) for label, file in files.items() if file}


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


def read_config(run: Mapping[str, Any], workdir: PathLike) -> FrozenConfigDict:
    """Returns the config in the content of a `run.json`; imports the user's files that registered what it uses.

    A warning names the files that have changed since. Raises a UserError if what it uses cannot be registered; and as
    `identity.from_recorded`.
    """
    registered = last_recorded(run, "registered_by") or {}
    for label, table_name, table, name in _used(ConfigDict(upgrade(run["config"]))):
        if label in registered and name not in table:
            path = _trusted(registered[label], workdir)
            if path and _registers(path, table_name, name):
                _import(path)
            if name not in table:
                raise UserError(
                    f"{label} was registered by {registered[label]}: start the command from the directory of your "
                    "project, with the run in another one below it, or import that file first"
                )
    config, recorded = from_recorded(run["config"]), last_recorded(run, "code")
    if recorded and (changes := describe_changes(describe_code(config), recorded)):
        cli.warn(f"{workdir} was trained by other code ({changes}): its predictions may differ")
    return config


def _trusted(name: str, workdir: PathLike) -> Path | None:
    """Returns the path of a Python file that a run names, or None if the run's author may have put it there.

    That is a file outside of the current directory, or in the same part of it as the run: what was downloaded with a
    run is not executed.
    """
    here, relative = Path.cwd().resolve(), Path(name)
    path = (here / relative).resolve()
    is_below = path.is_relative_to(here) and not relative.is_absolute() and ".." not in relative.parts
    if not is_below or path.suffix != ".py" or not path.is_file():
        return None
    if not is_bucket(workdir):
        run = open_path(workdir).resolve()
        part = next((folder for folder in (run, *run.parents) if folder.parent == here), run)
        if here.is_relative_to(run) or path.is_relative_to(part):
            return None
    return path


def _import(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None  # noqa: PT018
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    except Exception as error:  # it is a program: it may raise anything
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(f"{path}, which registered what the run uses, cannot be imported ({reason})") from None


@functools.cache
def _package_code() -> Code:
    files = sorted(path for pattern in _SOURCES for path in _PACKAGE.glob(pattern))
    names = {path.relative_to(_PACKAGE.parent).as_posix(): path for path in files}
    return {name: hash_tokens(_source(path)) for name, path in names.items() if name not in _NOT_COUNTED}


@functools.cache  # by the function: the code that was loaded counts, whatever has become of its file
def _users_code(table_name: str, name: str, function: Any) -> tuple[Path | None, dict[Path, str]]:
    """Returns the user's file that registered a function, and the hashes of it, the function's and all they import.

    None and {} for a function of the package that no user's file has registered.
    """
    modules = (getattr(module, "__file__", None) or "" for module in list(sys.modules.values()))
    loaded = {*cli.config_files, *(file for file in modules if file.endswith(".py") and not _NOT_USERS.search(file))}
    files = [path for path in sorted({Path(file).resolve() for file in loaded}) if _is_users(path)]
    files = [path for path in files if _registers(path, table_name, name)]
    while isinstance(function, functools.partial):
        function = function.func
    try:
        source = Path(inspect.getsourcefile(inspect.unwrap(function)) or "").resolve()
    except (TypeError, OSError):  # a class of a file that is no module
        source = _PACKAGE
    if _is_users(source) and _source(source):
        files.append(source)
    found: dict[Path, str] = {}
    queue = [*files]
    while queue:
        path = queue.pop()
        if path not in found:
            found[path] = hash_tokens(_source(path))
            queue += _imports(path)
    return (files[0] if files else None), found


def _registers(path: Path, table_name: str, name: str) -> bool:
    """Returns whether a file has the statement TABLE["name"] = ..."""
    statement = rf"^\s*(\w+\.)*{table_name}\[[\"']{re.escape(name)}[\"']\]\s*=[^=]"
    return re.search(statement, _source(path), re.MULTILINE) is not None


def _imports(path: Path) -> Iterator[Path]:
    """Yields the user's files that a file imports, of those beside it and below the current directory."""
    try:
        tree = ast.parse(_source(path))
    except SyntaxError:
        return
    for node in ast.walk(tree):
        folders: list[Any] = sys.path
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module or ''}.{alias.name}" for alias in node.names)]
            folders = [path.parents[node.level - 1]] if node.level else sys.path
        else:
            continue
        for folder, name in itertools.product(folders, names):
            place = Path(folder, *name.split("."))
            for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
                found = file.resolve()
                is_near = found.is_relative_to(path.parent) or found.is_relative_to(Path.cwd())
                if is_near and _is_users(found) and found.is_file():
                    yield found


def _is_users(path: Path) -> bool:
    """Returns whether a file is neither the package's nor an installed one."""
    return not _NOT_USERS.search(str(path))


def _name(path: Path) -> str:
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else path.name


def _source(path: Path) -> str:
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return "".join(linecache.getlines(str(path)))  # a notebook's cell; else nothing


def hash_tokens(source: str) -> str:
    """Returns the SHA-256 of a program's tokens, the same in all versions of Python."""
    digest, statement, start, depth = hashlib.sha256(), [], (0, 0), 0
    offsets = [0, 0, *itertools.accumulate(len(line) + 1 for line in source.split("\n"))]  # of lines, counted from 1
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            kind = tokenize.tok_name[token.type]
            opens, closes = kind.endswith("STRING_START"), kind.endswith("STRING_END")
            if opens and depth == 0:  # from Python 3.12 on, an f-string is several tokens
                start = token.start
            depth += opens - closes
            if depth or kind in ("COMMENT", "NL"):
                continue
            if kind in ("INDENT", "DEDENT"):
                digest.update(f"{kind}\0".encode())
            elif kind not in ("NEWLINE", "ENDMARKER"):
                (row, column), (last, end) = start, token.end
                text = source[offsets[row] + column : offsets[last] + end] if closes else token.string
                statement.append((kind == "STRING" or closes, text))
            else:
                if not all(is_string for is_string, _ in statement):  # else a docstring
                    digest.update(("\0".join(text for _, text in statement) + "\n\0").encode())
                statement = []
    except (tokenize.TokenError, SyntaxError):  # edited since it was loaded, and no program any more
        digest.update(source.encode())
    return digest.hexdigest()
