"""Summaries of runs and the differences of two, read from their directories; checkpoints are not verified."""

import ast
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from digits_jax.bounds import TEXT, integer, number, optional
from digits_jax.config import fields
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs.checkpoint import saved_steps
from digits_jax.runs.history import best_row, score_key
from digits_jax.runs.identity import Difference, changed_fields, differences, from_recorded, upgrade
from digits_jax.runs.registration import register
from digits_jax.runs.result import read_result
from digits_jax.runs.workdir import Workdir
from digits_jax.storage import Schema, check_fields, read_json

Summary = dict[str, Any]  # the columns, `reason` of divergence or corruption, `config` (changed fields), `fields` (all)
COLUMNS = ("path", "seed", "epochs", "num_epochs", "accuracy", "best", "selected_by", "time", "state")
_ACCURACY = optional(number(0, 1))
_ROW: Schema = {  # bounded, so that sums are finite
    "epoch": integer(1), "step": integer(1), "test/accuracy": _ACCURACY, "validation/accuracy": _ACCURACY,
    "train/seconds": optional(number(0, 1e9)),
}  # fmt: skip
Condition = tuple[str, tuple[Any, ...]]  # a column or config field, and its values


def find_runs(folder: Path) -> Iterator[Path]:
    """Yields the directories with a `run.json` in and below a folder, sorted, without those below one."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        if "run.json" in files:
            folders.clear()
            yield Path(root)


def summarize(path: Path) -> Summary:
    """Returns the summary of a run; of one that cannot be read, with the state "corrupted"."""
    try:
        return {"path": str(path), **_read(Workdir(path))}
    except UserError as error:
        return {
            **dict.fromkeys(COLUMNS),
            "path": str(path),
            "state": "corrupted",
            "reason": str(error),
            "config": {},
            "fields": {},
        }


def _read(workdir: Workdir) -> Summary:
    register(run := workdir.read_run(), workdir.path)
    config = from_recorded(run["config"])
    result = read_result(workdir, verify_checkpoint=False) or {}
    key, reason, rows = score_key(config), None, result.get("epochs") or workdir.read_metrics()
    try:
        for row in rows:
            check_fields(row, _ROW)
    except ValueError as error:
        raise UserError(f"{workdir.path} has an epoch that cannot be read ({error})") from None
    best, final = (best_row(rows, key), rows[-1]) if rows else ({}, {})
    if result:
        state, best, final = "finished", result["best"], result["final"]
    elif workdir.is_locked():
        state = "training"
    else:
        state = "diverged" if (reason := _divergence(workdir)) else "stopped"
    return {
        "seed": config.seed,
        "epochs": len(rows),
        "num_epochs": sum(config.epochs),
        "accuracy": final.get("test/accuracy"),  # only at the end where images are held out
        "best": best.get("test/accuracy"),
        "selected_by": key.removesuffix("/accuracy"),
        "time": round(sum(row.get("train/seconds", 0.0) for row in rows), 3),
        "state": state,
        "reason": reason,
        "state_sha256": result.get("state_sha256"),
        "config": changed_fields(config),
        "fields": flatten_dict(config.to_dict(), sep="."),
    }


def _divergence(workdir: Workdir) -> str | None:
    """Returns how a run diverged; None if it did not, or has trained further since."""
    try:
        recorded = read_json(workdir.divergence_file, {"step": integer(0), "reason": TEXT})
    except FileNotFoundError:
        return None
    return recorded["reason"] if recorded["step"] in saved_steps(workdir.checkpoints)[-1:] else None


def parse_condition(text: str) -> Condition:
    """Parses "FIELD=VALUE", with a value as in Python, JSON or on the command line; else raises a ConfigError."""
    name, equals, value = text.partition("=")
    if not equals or name not in (*COLUMNS, *fields()):
        known = f"a config field, such as model.batch_norm, or one of {', '.join(COLUMNS)}"
        raise ConfigError(f"--where is {text!r}: expected FIELD=VALUE, where FIELD is {known}")
    for parse in (ast.literal_eval, json.loads):
        try:
            parsed = parse(value)
            return name, (value, parsed, (parsed,))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return name, (value, (value,))


def fulfills(run: Summary, condition: Condition) -> bool:
    """Returns whether a run has one of the values; by a name of both a column and a config field, in either."""
    name, values = condition
    return any(name in known and known[name] in values for known in (run, run["fields"]))


def compare(*paths: Path) -> list[Difference]:
    """Returns where two runs differ: config, data, versions, code, metrics; a UserError if one is corrupted."""
    described = []
    for workdir in map(Workdir, paths):
        summary = _read(workdir)
        described.append({**workdir.run, **summary, "config": upgrade(workdir.run["config"])})
    ours, theirs = described
    return differences(ours, theirs)
