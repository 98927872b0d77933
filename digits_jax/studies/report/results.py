"""Result files: what a finished run leaves behind, small enough to be committed; read back as dictionaries or a table.

A run of `digits_jax.main` leaves `result.json` in its workdir (`workdir.py` says what it holds). A sweep copies it to
`<results>/<sweep>/<hash>.json` and adds `study`: the sweep's name, question and baseline, the run's variant, its
overrides and command.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from digits_jax.errors import UserError

_NEEDED = ("config_hash", "config", "dataset", "final", "best", "epochs", "test_errors")


def read_result(file: Path) -> dict[str, Any]:
    """One result file.

    Raises:
      UserError: it cannot be read, or is no result file.
    """
    try:
        result = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a result file ({error})") from None
    missing = [key for key in _NEEDED if not isinstance(result, dict) or key not in result]
    if missing:
        raise UserError(f"{file} is no result file: it has no {missing[0]!r}")
    return result


def read_results(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """The results in files and folders (their `*.json`, and those of runs below), each run of a sweep once.

    Raises:
      UserError: there is no such path, no result in it, or a damaged one.
    """
    results: dict[tuple[str | None, str], dict[str, Any]] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted([*path.glob("*.json"), *path.glob("**/result.json")])
            files = [file for file in files if file.name != "run.json"]
        else:
            files = [path]
        if not files:
            raise UserError(f"{path} holds no result files: expected those that a sweep or a finished run leaves")
        for file in files:
            result = read_result(file)
            results.setdefault((result.get("study", {}).get("sweep"), result["config_hash"]), result)
    return list(results.values())


def load_runs(path: str | Path) -> Any:
    """All epochs of the results in a file or folder as a tidy table, for notebooks.

    Returns:
      A pandas.DataFrame with a row for each epoch of each run: `sweep`, `variant`, `seed`, `config_hash`, `epoch`, the
      metrics under their own names, and the fields that the sweep changed (nan where a variant does not).

    Raises:
      UserError: as `read_results`; or pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError:
        raise UserError("load_runs needs pandas: ./launch.sh setup notebook") from None
    rows = []
    for result in read_results([path]):
        study = result.get("study", {})
        run = {
            "sweep": study.get("sweep"),
            "variant": study.get("variant"),
            "seed": result["config"]["seed"],
            "config_hash": result["config_hash"],
            **study.get("overrides", {}),
        }
        rows += [{**run, **row} for row in result["epochs"]]
    return pd.DataFrame(rows)
