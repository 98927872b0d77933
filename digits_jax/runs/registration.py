"""The config of a recorded run, after the user's own files have registered what it names."""

import functools
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import FrozenConfigDict

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.runs.code import TABLES, describe_changes, describe_code, last_recorded, read_source
from digits_jax.runs.identity import from_recorded
from digits_jax.storage import PathLike, is_bucket, open_path

_warn_once = functools.cache(cli.warn)  # a sweep reads the same teacher for each of its runs


def read_config(run: Mapping[str, Any], workdir: PathLike) -> FrozenConfigDict:
    """Returns the config in the content of a `run.json`, as `register` and `identity.from_recorded`.

    A warning names the files that have changed since.
    """
    register(run, workdir)
    config, recorded = from_recorded(run["config"]), last_recorded(run, "code")
    if recorded and (changes := describe_changes(describe_code(config), recorded)):
        _warn_once(f"{workdir} was trained by other code ({changes}): its predictions may differ")
    return config


def register(run: Mapping[str, Any], workdir: PathLike) -> None:
    """Imports the user's files that registered what a run uses; raises a UserError if they cannot be imported."""
    for label, file in (last_recorded(run, "registered_by") or {}).items():
        table_name, _, name = label.removesuffix("']").partition("['")
        table: Mapping[str, Any] = TABLES.get(table_name, {})
        if name in table:
            continue
        path = _trusted(file, workdir)
        if path and _registers(path, table_name, name):
            _import(path)
        if name not in table:
            raise UserError(
                f"{label} was registered by {file}: start the command from the directory of your project, with the "
                "run in another one below it, or import that file first"
            )


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


def _registers(path: Path, table_name: str, name: str) -> bool:
    """Returns whether a file has the statement TABLE["name"] = ...: no other one is executed because a run names it."""
    statement = rf"^\s*(\w+\.)*{table_name}\[[\"']{re.escape(name)}[\"']\]\s*=[^=]"
    return re.search(statement, read_source(path), re.MULTILINE) is not None
