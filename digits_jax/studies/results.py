"""Results of finished runs: `results.jsonl`, one file per sweep, and the table of them for notebooks.

It collects the `result.json` of the sweep's runs (`runs/workdir.py` lists the fields), with two more fields each:
`sweep`, the fields of the `Sweep`, and `variant`, the name of the run's. The first line stores once what runs share,
under `sweep`, `runs` (fields that are equal in all runs) and `variants` (by name, fields that are equal in its runs).
Each further line is a run: its fields are those of `runs`, of its variant and of the line, merged in this order, nested
dictionaries too. Three are shorter than in `result.json`:

    epochs        `columns` names the metrics, `rows` has a list per epoch; null where an epoch lacks the metric
    final, best   the number of the epoch, and the metrics that its row lacks
    test_errors, validation_errors
                  for each misclassified image, the number of correctly classified ones since the last, as unsigned
                  base64 VLQ: digits of 5 bits, the lowest first, with 32 added to all but the last (the encoding of
                  source maps, without its sign bit)

A run that diverged has a line as well, with its config, data and code, and how it diverged: statistics over the other
seeds would not tell that it is missing.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from digits_jax import cli
from digits_jax.bounds import NAME, OBJECT, SHA256, TEXT, Bounds, integer, list_of, number, optional
from digits_jax.errors import ConfigError, UserError
from digits_jax.storage import Schema, check_fields, is_bucket, parse_json, read_text, replace_text, write_error
from digits_jax.studies.sweep import Sweep, check_sweep

FILE = "results.jsonl"
SPLITS = ("validation", "test")  # that a run may be scored on
Result = dict[str, Any]

# The fields that readers rely on. Numbers are bounded so that statistics of them are finite.
_RESULT: Schema = {
    "config_hash": TEXT, "config": {"seed": integer(0), "dataset": {"train_examples": integer(1)}},
    "dataset": {"name": NAME, "sha256": SHA256, "test_examples": integer(1)},
    "cpu": TEXT, "cores": integer(1), "versions": {"jax": TEXT}, "git_revision": optional(TEXT),
    "code_hash": optional(SHA256),
    "final": {"epoch": integer(1)}, "best": {"epoch": integer(1)}, "epochs": list_of(OBJECT, shortest=1),
}  # fmt: skip
_DIVERGED: Schema = {
    "variant": TEXT, "diverged": TEXT,
    **{key: _RESULT[key] for key in ("config_hash", "config", "dataset", "git_revision", "code_hash")},
}  # fmt: skip
_METRIC = number(-1e100, 1e100)
_METRICS = {"accuracy": number(0, 1), "seconds": number(0, 1e9)}  # by the end of their name
_VLQ = re.compile("([g-z0-9+/]{0,6}[A-Za-f])*")
_ENCODED: Schema = {"columns": list_of(TEXT), "rows": list_of(list_of(optional(_METRIC)))}
_ERRORS = Bounds(lambda x: isinstance(x, str) and _VLQ.fullmatch(x) is not None, "unsigned base64 VLQ")
# Never in the first line.
_OWN = ("variant", "config_hash", "state_sha256", "final", "best", "validation_errors", "test_errors", "rows")
_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"  # base64's, RFC 4648


def read_results(paths: Iterable[str | Path]) -> list[Result]:
    """Reads the results in files, and in all `results.jsonl` and `result.json` below folders; each run once.

    Raises a UserError if a path does not exist or has no results; and as `read_result` and `read_file`.
    """
    return read_runs(paths)[0]


def read_diverged(paths: Iterable[str | Path]) -> list[Result]:
    """Reads which runs diverged from the same files: `config`, `dataset`, `variant`, `sweep`, and how, `diverged`."""
    return read_runs(paths)[1]


def read_runs(paths: Iterable[str | Path]) -> tuple[list[Result], list[Result]]:
    """Reads both: the results of finished runs, and the records of diverged ones."""
    runs: list[Result] = []
    for file in _files(paths):
        runs += _read(file) if file.suffix == ".jsonl" else [read_result(file)]
    runs = _each_once(runs)
    return [run for run in runs if "diverged" not in run], [run for run in runs if "diverged" in run]


def _files(paths: Iterable[str | Path]) -> Iterator[Path]:
    for path in map(Path, paths):
        files = sorted([*path.glob(f"**/{FILE}"), *path.glob("**/result.json")]) if path.is_dir() else [path]
        if not files:
            raise UserError(f"{path} holds no results: expected the {FILE} of a sweep, or runs with a result.json")
        yield from files


def read_result(file: Path) -> Result:
    """Reads the `result.json` of a run; raises a UserError if it cannot be read, or a field is missing or wrong."""
    try:
        text = file.read_text() if is_bucket(file) else read_text(file)
        result = _checked(parse_json(text, _RESULT, str(file)))
        result.pop("checksum", None)  # of that file only
        return result
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({getattr(error, 'strerror', error)})") from None


def read_file(file: Path) -> list[Result]:
    """Reads the finished runs of a `results.jsonl`.

    A truncated last line is reported and ignored, so that its run counts as unfinished. Raises a UserError if the file
    cannot be read, a line is corrupted, or a variant has two configs.
    """
    return [run for run in _read(file) if "diverged" not in run]


def _read(file: Path) -> list[Result]:
    results, where = [], str(file)
    try:
        first, *lines = read_text(file).splitlines(keepends=True) or [""]
        where = f"{file}, line 1"
        head = parse_json(first, {"sweep": OBJECT, "runs": OBJECT, "variants": OBJECT}, where)
        head["sweep"] = check_sweep(head["sweep"], "sweep.")
        for index, line in enumerate(lines, 2):
            where = f"{file}, line {index}"
            if line.endswith("\n"):
                results.append(_decode(head, parse_json(line, {"variant": TEXT}, where)))
            else:
                cli.warn(f"{where} is truncated: its run is ignored")
    except (OSError, ValueError) as error:
        raise UserError(f"{where} cannot be read ({getattr(error, 'strerror', error)})") from None
    return _each_once(results, file)


def add_results(file: Path, results: list[Result]) -> None:
    """Adds results of a sweep, also of diverged runs, to its `results.jsonl`, in place of those of the same runs.

    The file is replaced atomically and under a lock, so that several processes can add to it. Its `sweep` becomes that
    of the new results; runs of variants that this no longer has are kept. Runs are sorted by variant and seed: the
    content does not depend on the order of the calls. Without results, it only checks that it can write there. Raises
    a UserError if it cannot; and as `read_file`.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(file.with_suffix(".lock")):
            before = _read(file) if file.exists() else []
            if not results:
                return
            kept = [old for old in before if all(old["config"] != new["config"] for new in results)]
            text = _to_text(_each_once([*kept, *results], file))
            if not file.exists() or text != file.read_text():
                replace_text(file, text)
    except OSError as error:
        raise UserError(f"{write_error(file, error)}: give another --results") from None


def load_runs(path: str | Path) -> Any:
    """Returns the results in a file or folder, for notebooks: a pandas.DataFrame with a row for each epoch of a run.

    The columns are `sweep`, `variant`, `seed`, `config_hash`, `epoch`, the metrics, and the fields
    that the variant changes (nan where a variant does not).
    """
    try:
        import pandas as pd
    except ImportError:
        raise UserError("load_runs needs pandas: ./launch.sh setup notebook") from None
    rows = []
    for result in read_results([path]):
        run = {"sweep": None, "variant": None, "seed": result["config"]["seed"], "config_hash": result["config_hash"]}
        if "sweep" in result:
            sweep, variant = Sweep(**result["sweep"]), result["variant"]
            run |= {"sweep": sweep.name, "variant": variant, **sweep.overrides(variant)}
        rows += [{**run, **row} for row in result["epochs"]]
    return pd.DataFrame(rows)


def _checked(result: Result) -> Result:
    """Returns a result; raises a ValueError that names a field which is missing or out of bounds."""
    check_fields(result, _RESULT)
    if "sweep" in result:
        check_fields(result, {"variant": TEXT})
        result["sweep"] = check_sweep(result["sweep"], "sweep.")
    epochs, num_scored = result["epochs"], scored(result)
    after_each = "validation/accuracy" if "validation/accuracy" in epochs[0] else "test/accuracy"
    rows = [(f"epochs.{n}", row, integer(n, n), ["train/seconds", after_each]) for n, row in enumerate(epochs, 1)]
    rows += [
        (key, result[key], integer(1, len(epochs)), [f"{split}/accuracy" for split in num_scored])
        for key in ("final", "best")
    ]
    for where, row, epoch, needed in rows:
        metrics = {name: _METRICS.get(re.split("[/_]", name)[-1], _METRIC) for name in (*row, *needed)}
        check_fields(row, {**metrics, "epoch": epoch}, f"{where}.")
    for split, count in num_scored.items():
        check_fields(result, {f"{split}_errors": _indices(count)})
    return result


def scored(result: Result) -> dict[str, int]:
    """Returns on how many "validation" and "test" images a run was scored; early runs name only the latter."""
    counts = result.get("scored", {"test": result["dataset"]["test_examples"]})
    check_fields({"scored": counts}, {"scored": dict.fromkeys(counts if isinstance(counts, dict) else "", integer(1))})
    return {split: counts[split] for split in SPLITS if split in counts}


def _indices(count: int) -> Bounds:
    index = integer(0, count - 1)
    expected = f"a list of distinct items, each {index.expected}"
    return Bounds(lambda x: isinstance(x, list) and len({*filter(index.accepts, x)}) == len(x), expected)


def _each_once(results: Iterable[Result], file: Path | None = None) -> list[Result]:
    """Returns the last result of each run; raises a UserError if a variant has two configs, but for the seed."""
    found: dict[Any, Result] = {}
    first_of: dict[Any, Result] = {}
    for result in results:
        config, variant, sweep = result["config"], result.get("variant"), result.get("sweep", {}).get("name")
        if sweep:
            first = first_of.setdefault((sweep, variant), result)
            if not _same_config(first["config"], {**config, "seed": first["config"]["seed"]}):
                two = " and ".join(f"{r['config_hash']!r} with seed {r['config']['seed']}" for r in (first, result))
                raise UserError(
                    f"{file or sweep} has two configs for variant {variant!r}, {two}: expected one, delete the others"
                )
        found[(sweep, variant, config["seed"]) if sweep else json.dumps(config, sort_keys=True)] = result
    return list(found.values())


def _same_config(a: dict[str, Any], b: dict[str, Any]) -> bool:
    from digits_jax.runs.identity import config_hash, from_recorded  # late: they import JAX

    try:
        return a == b or config_hash(from_recorded(a)) == config_hash(from_recorded(b))
    except ConfigError:  # of another version
        return False


def _to_text(results: list[Result]) -> str:
    sweep = results[-1]["sweep"]
    order = list(dict.fromkeys([*sweep["variants"], *(result["variant"] for result in results)]))
    results = sorted(results, key=lambda r: (order.index(r["variant"]), r["config"]["seed"]))
    runs = [_encode(result) for result in results if "diverged" not in result]
    diverged = [{key: result[key] for key in _DIVERGED} for result in results if "diverged" in result]
    shared = _common(runs)
    runs = [_minus(run, shared) for run in runs]
    of_variant = {name: _common([run for run in runs if run["variant"] == name]) for name in order}
    head = {"sweep": sweep, "runs": shared, "variants": of_variant}
    lines = [head, *(_minus(run, of_variant[run["variant"]]) for run in runs), *diverged]
    return "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)


def _encode(result: Result) -> dict[str, Any]:
    epochs = result["epochs"]
    columns = list(dict.fromkeys(key for row in epochs for key in row))
    fields = {key: value for key, value in result.items() if key not in ("sweep", "variant", "epochs")}
    for key in ("final", "best"):
        row = epochs[result[key]["epoch"] - 1]
        fields[key] = {name: value for name, value in result[key].items() if name == "epoch" or row.get(name) != value}
    for split in scored(result):
        fields[f"{split}_errors"] = _to_vlq(sorted(result[f"{split}_errors"]))
    fields |= {"columns": columns, "rows": [[row.get(key) for key in columns] for row in epochs]}
    ordered = json.loads(json.dumps(fields, sort_keys=True))  # whatever the order in which the fields were written
    return {"variant": result["variant"], **ordered}


def _decode(head: dict[str, Any], line: dict[str, Any]) -> Result:
    """Returns the run of a line; raises a ValueError that names a field which is missing or out of bounds."""
    if "diverged" in line:
        check_fields(line, _DIVERGED)
        return {**line, "sweep": head["sweep"]}
    check_fields(head["variants"], {line["variant"]: OBJECT}, "variants.")
    run = _merge(_merge(head["runs"], head["variants"][line["variant"]]), line)
    check_fields(run, {**_ENCODED, "final": _RESULT["final"], "best": _RESULT["best"]})
    columns, rows = run.pop("columns"), run.pop("rows")
    epochs = [{key: value for key, value in zip(columns, row, strict=True) if value is not None} for row in rows]
    for key in ("final", "best"):
        epoch = run[key]["epoch"]
        run[key] = {**dict(*epochs[epoch - 1 : epoch]), **run[key]}
    for key in (f"{split}_errors" for split in SPLITS if f"{split}_errors" in run):
        check_fields(run, {key: _ERRORS})
        run[key] = list(_from_vlq(run[key]))
    return _checked({**run, "epochs": epochs, "sweep": head["sweep"]})


def _common(runs: list[dict[str, Any]], own: Iterable[str] = _OWN) -> dict[str, Any]:
    """Returns what runs have in common, leaving out the fields `own`."""
    common: dict[str, Any] = {}
    for key in runs[0] if runs else ():
        if key in own or any(key not in run for run in runs):
            continue
        values = [run[key] for run in runs]
        if all(isinstance(value, dict) for value in values):
            common |= {key: shared} if (shared := _common(values, ())) else {}
        elif len({json.dumps(value) for value in values}) == 1:  # unlike ==, it tells 1 from 1.0
            common[key] = values[0]
    return common


def _minus(run: Mapping[str, Any], common: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `_merge` has to add to `common` to make the run."""
    rest = {}
    for key, value in run.items():
        if key not in common:
            rest[key] = value
        elif isinstance(value, dict) and (different := _minus(value, common[key])):
            rest[key] = different
    return rest


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {key: _merge(old[key], value) for key, value in new.items() if type(old.get(key)) is type(value) is dict}
    return {**old, **new, **both}


def _to_vlq(indices: Iterable[int]) -> str:
    text, start = "", 0
    for index in indices:
        gap, start = index - start, index + 1
        while gap >= 32:
            text += _DIGITS[32 + gap % 32]
            gap //= 32
        text += _DIGITS[gap]
    return text


def _from_vlq(text: str) -> Iterator[int]:
    index, shift = 0, 0
    for digit in map(_DIGITS.index, text):
        index += digit % 32 << shift
        shift += 5
        if digit < 32:
            yield index
            index, shift = index + 1, 0
