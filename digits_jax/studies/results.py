"""Results of finished runs: `results.jsonl`, one file per study, read back as dictionaries or as a table.

A finished run of `digits_jax.main` leaves a `result.json` in its workdir (`runs/workdir.py` lists its fields). A sweep
collects those of its runs in `<results>/<sweep>/results.jsonl`, small enough to commit, and adds `study` to each: the
sweep's name, question, baseline and variants (name -> overrides), the run's variant, and the command that trains it.

The first line of `results.jsonl`, the head, stores once what runs share. Each further line is a run.

    sweep, question, baseline   of the sweep
    runs                        the fields that are equal in all runs
    variants                    by name, in the sweep's order: `overrides`, and the fields equal in its runs, `runs`

A run's fields are those of `runs`, of its variant's `runs` and of its own line, merged in this order, nested
dictionaries too. Lines are shorter than `result.json` in five fields:

    epochs        `columns` names the metrics, `rows` has a list per epoch; null where an epoch lacks the metric
    final, best   the number of the epoch, and what its row lacks
    test_errors   for each misclassified test image, the number of correctly classified ones since the last, as unsigned
                  base64 VLQ: digits of 5 bits, the lowest first, 32 added to all but the last (source maps' encoding
                  without its sign bit)
    command       ends in "{seed}" instead of the seed
    config.seed   is `seed`
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from digits_jax.errors import UserError
from digits_jax.storage.disk import replace_text

FILE = "results.jsonl"
Result = dict[str, Any]  # as in `result.json`, and `study` if a sweep asked for the run

_NEEDED = ("config_hash", "config", "dataset", "final", "best", "epochs", "test_errors")
_STUDY = ("sweep", "question", "baseline", "variants")  # of `study`: what all runs of a sweep share
_OWN = ("variant", "seed", "config_hash", "state_sha256", "final", "best", "test_errors", "rows")  # never in the head
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"  # base64's, RFC 4648
_SEED = "--config.seed="


def read_results(paths: Iterable[str | Path]) -> list[Result]:
    """Reads the results in files, and in all `results.jsonl` and `result.json` below folders; each run once.

    Raises:
      UserError: a path does not exist, holds no results or a corrupted file, or two configs are one variant and seed.
    """
    found: list[Result] = []
    for path in map(Path, paths):
        files = sorted([*path.glob(f"**/{FILE}"), *path.glob("**/result.json")]) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} holds no results: expected the {FILE} of a sweep, or runs with a result.json")
        for file in files:
            found += read_file(file) if file.suffix == ".jsonl" else [read_result(file)]
    return list(_by_run(found).values())


def read_result(file: Path) -> Result:
    """Reads the `result.json` of a run.

    Raises:
      UserError: it cannot be read, or has not the fields of a result.
    """
    try:
        return _checked(json.loads(file.read_text()))
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read as a result ({error})") from None


def read_file(file: Path) -> list[Result]:
    """Reads a `results.jsonl`. A last line without its end is reported and ignored: its run counts as unfinished.

    Raises:
      UserError: the file cannot be read, a line is corrupted, or two configs are one variant and seed.
    """
    number = 1
    try:
        first, *lines = file.read_text().splitlines(keepends=True) or [""]
        head = json.loads(first)
        results = []
        for number, line in enumerate(lines, 2):
            if number > len(lines) and not line.endswith("\n"):
                from digits_jax.runs import console  # late: it imports JAX, which reading a file does without

                console.warn(f"{file}, line {number} is truncated: its run is left out")
                break
            results.append(_checked(_decode(head, json.loads(line))))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{file}, line {number} cannot be read as a result ({reason})") from None
    return list(_by_run(results, file).values())


def add_results(file: Path, results: list[Result]) -> None:
    """Adds the results of finished runs of one sweep to its `results.jsonl`, or replaces those it has of the same runs.

    The file is replaced atomically and under a lock, so that several processes can add to it. What its head says of the
    sweep is taken from the new results. Runs are sorted by variant and seed: the file does not depend on the order.

    Raises:
      UserError: the file is corrupted or cannot be written, or two configs are one variant and seed.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_suffix(".lock")):
            old = read_file(file) if file.exists() else []
            replaced = {_config_text(result) for result in results}
            kept = [result for result in old if _config_text(result) not in replaced]
            text = _to_text(list(_by_run([*kept, *results], file).values()))
            if not file.exists() or file.read_text() != text:
                replace_text(file, text)
    except OSError as error:
        raise UserError(f"{file} cannot be written ({error.strerror}): give another --results") from None


def load_runs(path: str | Path) -> Any:
    """Returns all epochs of the results in a file or folder as a tidy table, for notebooks.

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
            **study.get("variants", {}).get(study.get("variant"), {}),
        }
        rows += [{**run, **row} for row in result["epochs"]]
    return pd.DataFrame(rows)


def _checked(result: Any) -> Result:
    missing = [key for key in _NEEDED if not isinstance(result, dict) or key not in result]
    if missing:
        raise ValueError(f"it has no {missing[0]!r}")
    return result


def _config_text(result: Result) -> str:
    return json.dumps(result["config"], sort_keys=True)


def _by_run(results: Iterable[Result], file: Path | None = None) -> dict[Any, Result]:
    """Returns results by sweep, variant and seed; of equal runs the last.

    Raises:
      UserError: two of them have different configs.
    """
    found: dict[Any, Result] = {}
    for result in results:
        study, seed = result.get("study"), result["config"]["seed"]
        key = (study["sweep"], study["variant"], seed) if study else _config_text(result)
        if key in found and not _same_config(found[key], result):
            raise UserError(
                f"{file or study['sweep']} has two configs for variant {study['variant']!r} with seed {seed}, "
                f"{found[key]['config_hash']} and {result['config_hash']}: expected one, delete the other"
            )
        found[key] = result
    return found


def _same_config(a: Result, b: Result) -> bool:
    if a["config"] == b["config"]:
        return True
    from digits_jax.config import config_hash, from_recorded  # late: they import JAX

    return config_hash(from_recorded(a["config"])) == config_hash(from_recorded(b["config"]))


def _to_text(results: list[Result]) -> str:
    """Returns the content of a `results.jsonl`."""
    study = results[-1]["study"]
    variants = {**study["variants"]}
    for result in results:  # those of variants that the sweep no longer has stay
        name = result["study"]["variant"]
        variants.setdefault(name, result["study"]["variants"][name])
    order = list(variants)
    lines = [_encode(result) for result in results]
    lines.sort(key=lambda line: (order.index(line["variant"]), line["seed"]))
    shared = _common(lines)
    lines = [_minus(line, shared) for line in lines]
    head = {**{key: study[key] for key in _STUDY}, "runs": shared, "variants": {}}
    for name, overrides in variants.items():
        ours = _common([line for line in lines if line["variant"] == name])
        head["variants"][name] = {"overrides": overrides} | ({"runs": ours} if ours else {})
    lines = [_minus(line, head["variants"][line["variant"]].get("runs", {})) for line in lines]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in (head, *lines))


def _encode(result: Result) -> dict[str, Any]:
    """Returns a result as the merged fields of a line."""
    epochs = result["epochs"]
    columns = list(dict.fromkeys(key for row in epochs for key in row))
    config, study = dict(result["config"]), result["study"]
    seed = config.pop("seed")
    fields = {key: value for key, value in result.items() if key not in ("config", "study", "epochs")}
    command = study["command"]
    fields |= {
        "config": config,
        "command": command.removesuffix(str(seed)) + "{seed}" if command.endswith(f"{_SEED}{seed}") else command,
        **{key: _less(result[key], epochs[result[key]["epoch"] - 1]) for key in ("final", "best")},
        "test_errors": _to_vlq(result["test_errors"]),
        "columns": columns,
        "rows": [[row.get(key) for key in columns] for row in epochs],
    }
    ordered = json.loads(json.dumps(fields, sort_keys=True))  # the file does not depend on who wrote which field first
    return {"variant": study["variant"], "seed": seed, **ordered}


def _less(row: dict[str, Any], of: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key == "epoch" or key not in of or of[key] != value}


def _decode(head: dict[str, Any], line: dict[str, Any]) -> Result:
    variants = {name: variant["overrides"] for name, variant in head["variants"].items()}
    run = _merge(_merge(head["runs"], head["variants"][line["variant"]].get("runs", {})), line)
    columns, command, seed, variant = (run.pop(key) for key in ("columns", "command", "seed", "variant"))
    if command.endswith(f"{_SEED}{{seed}}"):
        command = command.removesuffix("{seed}") + str(seed)
    epochs = [
        {key: value for key, value in zip(columns, row, strict=True) if value is not None} for row in run.pop("rows")
    ]
    return {
        **run,
        "config": {**run["config"], "seed": seed},
        **{key: {**epochs[run[key]["epoch"] - 1], **run[key]} for key in ("final", "best")},
        "test_errors": list(_from_vlq(run["test_errors"])),
        "epochs": epochs,
        "study": {**{key: head[key] for key in _STUDY}, "variants": variants, "variant": variant, "command": command},
    }


def _common(runs: list[dict[str, Any]], *, own: Iterable[str] = _OWN) -> dict[str, Any]:
    """Returns what all runs have in common, except fields that a line always has."""
    common: dict[str, Any] = {}
    for key, value in runs[0].items() if runs else ():
        if key in own or any(key not in run for run in runs):
            continue
        values = [run[key] for run in runs]
        if all(isinstance(value, dict) for value in values):
            if shared := _common(values, own=()):
                common[key] = shared
        elif len({json.dumps(value) for value in values}) == 1:  # unlike ==, it tells 1 from 1.0
            common[key] = value
    return common


def _minus(run: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `_merge` needs to make the run of `common`."""
    rest = {}
    for key, value in run.items():
        if key not in common:
            rest[key] = value
        elif isinstance(value, dict) and (less := _minus(value, common[key])):
            rest[key] = less
    return rest


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merge(old[key], value) for key, value in new.items() if isinstance(old.get(key), dict)}
    return {**old, **new, **both}


def _to_vlq(indices: Iterable[int]) -> str:
    """Encodes increasing indices, as the module's docstring describes."""
    text, expected = "", 0
    for index in indices:
        gap, expected = index - expected, index + 1
        if gap < 0:
            raise ValueError(f"test_errors has {index} after {expected - 1 - gap}: expected increasing indices")
        while gap >= 32:
            text += _DIGITS[32 + gap % 32]
            gap //= 32
        text += _DIGITS[gap]
    return text


def _from_vlq(text: str) -> Iterator[int]:
    index, gap, shift = 0, 0, 0
    for character in text:
        digit = _DIGITS.index(character)
        gap += digit % 32 << shift
        shift += 5
        if digit < 32:
            index += gap
            yield index
            index, gap, shift = index + 1, 0, 0
