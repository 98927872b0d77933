"""`result.json`: what a finished run ended with, and the checks before one is believed."""

import hashlib
import json
from typing import Any

from digits_jax.bounds import FINITE, OBJECT, SHA256, Bounds, integer, list_of, number, optional
from digits_jax.errors import UserError
from digits_jax.runs.checkpoint import read_history, saved_steps
from digits_jax.runs.history import ROW, Row, best_row
from digits_jax.runs.identity import from_recorded
from digits_jax.runs.workdir import Workdir, differences_to_run
from digits_jax.storage import Schema, check_fields, find_damage, read_facts, read_json, replace_text

_METRIC = Bounds(lambda x: x in ("test/accuracy", "validation/accuracy"), "test/accuracy or validation/accuracy")
_SCORED = Bounds(
    lambda x: isinstance(x, dict) and bool(x) and all(k in ("validation", "test") and n > 0 for k, n in x.items()),
    "the number of validation or test images",
)
_RESULT: Schema = {
    "config": OBJECT,
    "dataset": {"test_examples": integer(0)},
    "selected_by": _METRIC,
    "final": {"epoch": integer(1), "step": integer(1)},
    "best": {"epoch": integer(1), "step": integer(1)},
    "epochs": list_of(ROW, shortest=1),
    "state_sha256": SHA256,
    "code_hash": optional(SHA256),
}


def write_result(workdir: Workdir, result: dict[str, Any]) -> dict[str, Any]:
    """Writes `result.json`, one field or epoch per line, and returns its content.

    Its field `checksum` is the SHA-256 of the others: an edited file is not believed.
    """
    result = json.loads(json.dumps(result))
    result["checksum"] = _checksum(result)
    rows = ",\n".join(f"  {json.dumps(row)}" for row in result["epochs"])
    fields = [f' "{key}": {json.dumps(value)}' for key, value in result.items() if key != "epochs"]
    replace_text(workdir.result_file, "{\n" + ",\n".join([*fields, f' "epochs": [\n{rows}\n ]']) + "\n}\n")
    return result


def scored(result: dict[str, Any]) -> dict[str, int]:
    """Returns on how many "validation" and "test" images a run was scored; early runs name only the latter."""
    return result.get("scored", {"test": result["dataset"]["test_examples"]})


def _checksum(result: dict[str, Any]) -> str:
    fields = {key: value for key, value in result.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def read_result(workdir: Workdir, *, step: int | None = None, verify_checkpoint: bool = True) -> dict[str, Any] | None:
    """Returns the content of `result.json`, or None if there is none.

    Raises a UserError if it is not what the run wrote: it was edited, or contradicts itself, `run.json`,
    `metrics.jsonl` or, with `verify_checkpoint`, the checkpoint of a step, the latest by default.
    """
    try:
        result = read_json(workdir.result_file, _RESULT)
        check_fields(result, {"scored": _SCORED} if "scored" in result else {})
        for split in scored(result):
            accuracy = {f"{split}/accuracy": number(0, 1)}
            check_fields(result, {f"{split}_errors": list_of(integer(0)), "final": accuracy, "best": accuracy})
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UserError(f"{workdir.result_file} cannot be read ({error})") from None
    if wrong := _contradiction(workdir, result) or (verify_checkpoint and _unconfirmed(workdir, result, step)):
        raise UserError(f"{workdir.result_file} {wrong}: remove it, and the command of the run writes it again")
    return result


def _contradiction(workdir: Workdir, result: dict[str, Any]) -> str | None:
    if result.get("checksum", checksum := _checksum(result)) != checksum:
        return "was edited: its checksum is not that of its fields"
    config = from_recorded(workdir.run["config"])
    for field, ours, theirs in differences_to_run(config, workdir.run["dataset"], result):
        return f"has {field} = {theirs!r}, and {workdir.run_file.name} {ours!r}"
    rows, key, final, best = result["epochs"], result["selected_by"], result["final"], result["best"]
    if any(key not in row for row in rows) or not _extends(final, rows[-1]) or not _extends(best, best_row(rows, key)):
        return "contradicts itself: its final or best epoch is not that of its epochs"
    for split, count in scored(result).items():
        errors = result[f"{split}_errors"]
        if len(set(errors)) != count - round(count * final[f"{split}/accuracy"]):
            return f"has {len(errors)} {split} errors, which are not those of its final {split} accuracy"
    if (written := workdir.read_metrics()) != rows[: len(written)]:
        return f"has other epochs than {workdir.metrics_file.name}"
    return None


def _unconfirmed(workdir: Workdir, result: dict[str, Any], step: int | None) -> str | None:
    rows = result["epochs"]
    if steps := [step] if step is not None else saved_steps(workdir.checkpoints)[-1:]:
        folder = workdir.checkpoints / str(steps[0])
        if wrong := find_damage(folder, workdir.identity):
            return f"cannot be confirmed: the checkpoint of step {folder.name} {wrong}"
        saved = read_history(folder)["rows"]
        is_last, state = len(saved) == len(rows), read_facts(folder).get("state", result["state_sha256"])
        if saved != rows[: len(saved)] or (is_last and state != result["state_sha256"]):
            return f"has other epochs or another final state than the checkpoint of step {folder.name}"
    return None


def _extends(scored: Row, row: Row) -> bool:
    """Returns whether a row of a result is that of an epoch, with scores that are measured at the end only."""
    return all(FINITE.accepts(value) for value in scored.values()) and {**scored, **row} == scored
