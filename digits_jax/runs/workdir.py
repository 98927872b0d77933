"""A run's directory, and `run.json`, which describes the run."""

import contextlib
import fcntl
import hashlib
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import filelock
from ml_collections import FrozenConfigDict

from digits_jax import storage
from digits_jax.bounds import NAME, OBJECT, SHA256, Bounds, integer, list_of, optional
from digits_jax.data import MAX_CLASSES, MAX_SIZE, Dataset
from digits_jax.errors import InUseError, UserError
from digits_jax.runs.code import (
    CODE,
    code_hash,
    describe_changes,
    describe_code,
    last_recorded,
    registering_files,
)
from digits_jax.runs.environment import (
    NUMERICS,
    describe_machine,
    git_changes,
    git_revision,
    unusual_numerics,
)
from digits_jax.runs.history import Row
from digits_jax.runs.identity import Difference, config_hash, differences, differences_to_recorded
from digits_jax.storage import PathLike, Schema, replace_text


def default_workdir(name: str, config: FrozenConfigDict) -> Path:
    """Returns `runs/<name>/<hash of the resolved config>`: the same command finds its run again."""
    return Path("runs") / name / config_hash(config)


def find_workdir(path: PathLike, config: FrozenConfigDict, dataset: Dataset, *, fresh: bool = False) -> PathLike:
    """Returns the directory of a run among `path`, `path-2`, `path-3`, ...: that of the run by today's code.

    Where there is none, the one whose code was not recorded, or else the last one; with `fresh`, the next one.
    """
    today, unknown, last = describe_code(config), None, path
    for number in itertools.count(1):
        # Of several seeds, `path/seed0` becomes `path-2/seed0`: an ensemble is of one code.
        candidate = re.sub(r"/*(/seed\d+)?$", rf"-{number}\1", str(path), count=1) if number > 1 else path
        run = _peek(candidate)
        if run is None:
            return candidate if fresh else unknown or last
        if any(name != "config.seed" for name, *_ in differences_to_run(config, dataset, run)):
            if number == 1:
                return path  # `Workdir.open` reports the difference
            continue
        recorded = last_recorded(run, "code")
        if recorded and not describe_changes(today, recorded):
            return candidate
        last, unknown = candidate, unknown or (None if recorded else candidate)
    raise AssertionError("unreachable")


def _peek(path: PathLike) -> dict[str, Any] | None:
    """Returns the content of a directory's `run.json`, or else of that of another seed; None if there is none."""
    folder = storage.open_path(path)
    if storage.is_bucket(path):
        with contextlib.suppress(Exception):  # reported when the directory is opened
            return storage.parse_json((folder / "run.json").read_text(), _RUN, f"{path}/run.json")
        return None
    others = sorted(folder.parent.glob("seed*/run.json")) if re.fullmatch(r"seed\d+", folder.name) else []
    file = next(filter(os.path.exists, (folder / "run.json", *others)), None)
    return Workdir(file.parent).read_run() if file else None


_FILES = Bounds(
    lambda x: isinstance(x, dict) and all(isinstance(file, str) and file.isprintable() for file in x.values()),
    "files by what they registered",
)
_RESUMED = Bounds(
    lambda x: isinstance(x, dict) and CODE.accepts(x.get("code", {})) and _FILES.accepts(x.get("registered_by", {})),
    "a machine, or code",
)
_RUN: Schema = {
    "config": OBJECT,
    "dataset": {"name": NAME, "sha256": SHA256, "test_examples": integer(0)},
    "image_shape": optional(list_of(integer(1, MAX_SIZE), shortest=3, longest=3)),
    "num_classes": optional(integer(1, MAX_CLASSES)),
    "code": optional(CODE),
    "registered_by": optional(_FILES),
    "resumed_on": optional(list_of(_RESUMED)),
}
_OURS = re.compile(r"lock|run\.json\..*\.tmp")  # of a process that ended before it wrote `run.json`


class Workdir:
    """The directory of one run, and the paths in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run: dict[str, Any] = {}  # the content of `run.json`, after `open` or `read_run`
        self.run_file = path / "run.json"
        self.metrics_file = path / "metrics.jsonl"
        self.result_file = path / "result.json"
        self.divergence_file = path / "diverged.json"
        self.curves = path / "curves.png"
        self.tensorboard = path / "tensorboard"
        self.profile = path / "profile"
        self.checkpoints = path / "checkpoints"
        self._lock = filelock.FileLock(path / "lock", timeout=0.2)  # seconds: `is_locked` has it for an instant

    def open(
        self,
        config: FrozenConfigDict,
        dataset: Dataset,
        *,
        code: str | None = "check",
        extends: dict[str, Any] | None = None,
    ) -> list[str]:
        """Locks the directory; writes `run.json` to a new one, or checks that it holds this run.

        A machine that is not the run's last one is added to `run.json`. Returns warnings of what differs.

        Args:
          extends: what identifies the run that a new one continues.
          code: "accept" also adds code that is not the run's last one; None does not look at it.

        Raises:
          InUseError: another process has locked it.
          UserError: it cannot be written, or holds something else, or a run with another config, other data or, unless
            that is accepted, other code.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()  # the operating system takes it back when this process ends, however it ends
            self._check_contents()
            if self.run_file.exists():
                return self._reopen(config, dataset, code)
            self._write_run(
                {**describe_run(config, dataset), **_describe_files(config)} | ({"extends": extends} if extends else {})
            )
            self._write_changes()
            return [f"{line}: results differ from those of JAX's defaults" for line in unusual_numerics()]
        except filelock.Timeout:
            raise InUseError(
                f"{self.path} is in use by another process: wait for its end, or give another, --workdir=DIR"
            ) from None
        except OSError as error:
            refusal = storage.write_error(self.path, error)
            raise UserError(f"the workdir {refusal}: give another, --workdir=DIR") from None

    def _check_contents(self) -> None:
        found = sorted(path.name for path in self.path.iterdir() if not _OURS.fullmatch(path.name))
        if found and self.run_file.name not in found:
            expected = "an empty directory or that of a run; give another, --workdir=DIR"
            raise UserError(f"{self.path} holds {', '.join(found[:3])} but no run: expected {expected}")
        for path in (
            self.run_file,
            self.metrics_file,
            self.result_file,
            self.curves,
            self.tensorboard,
            self.checkpoints,
        ):
            if path.exists() and path.is_dir() == bool(path.suffix):
                raise UserError(f"{path} is in the way: expected a {'file' if path.suffix else 'directory'}; move it")

    def _reopen(self, config: FrozenConfigDict, dataset: Dataset, policy: str | None) -> list[str]:
        before = self.read_run()
        for field, ours, theirs in differences_to_run(config, dataset, before):
            raise UserError(
                f"{self.path} holds a run with {field} = {theirs!r}, this one has {ours!r}: give another --workdir"
            )
        machine = describe_machine()
        machines = [before, *(before.get("resumed_on") or [])]
        last = {"numerics": {**NUMERICS, "XLA_FLAGS": ""}, **machines[-1]}  # defaults, if an earlier version had none
        changed = differences(machine, {key: last.get(key) for key in machine})
        what = ", ".join(f"{name} from {theirs} to {ours}" for name, ours, theirs in changed)
        warnings = [f"{what}: from here on, the run may not be bit-identical to an uninterrupted one"] * bool(changed)
        if policy and (warning := self._check_code(config, policy)):
            warnings.append(warning)
            machine |= {"git_revision": git_revision(), **_describe_files(config)}
            self._write_changes()
        if warnings:
            self._write_run({**before, "resumed_on": [*machines[1:], machine]})
        return warnings

    def _check_code(self, config: FrozenConfigDict, policy: str) -> str | None:
        """Returns a warning where today's code has to be recorded; raises a UserError if it is other code."""
        recorded = last_recorded(self.run, "code")
        if recorded is None:
            is_finished = self.result_file.exists()
            return None if is_finished else "the code that the run was trained by so far was not recorded; it is now"
        changes = describe_changes(describe_code(config), recorded)
        if changes and policy != "accept":
            raise UserError(
                f"{self.path} was trained by other code ({changes}): --fresh trains anew beside it, --accept_code "
                "continues it and records the change"
            )
        return f"{changes}: from here on, the run is trained by other code" if changes else None

    def _write_changes(self) -> None:
        """Writes how the code differs from its commit to `changes.diff`, or `changes-2.diff` where there is one."""
        if changes := git_changes():
            names = (f"changes{f'-{number}' if number > 1 else ''}.diff" for number in itertools.count(1))
            with contextlib.suppress(OSError):
                replace_text(next(path for name in names if not (path := self.path / name).exists()), changes)

    def _write_run(self, run: dict[str, Any]) -> None:
        replace_text(self.run_file, json.dumps(run, indent=2) + "\n")
        self.run = json.loads(json.dumps(run))

    def close(self) -> None:
        """Unlocks the directory."""
        self._lock.release()

    def is_locked(self) -> bool:
        """Returns whether a living process has locked the directory; shares its lock for an instant to find out."""
        try:
            with os.fdopen(os.open(self._lock.lock_file, os.O_RDONLY | os.O_NONBLOCK)) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        except OSError as error:
            raise UserError(f"{self._lock.lock_file} cannot be read ({error.strerror})") from None
        return False

    @property
    def identity(self) -> dict[str, str]:
        """The facts by which the manifest of a checkpoint names its run, as recorded in `run.json`."""
        config, dataset = self.run["config"], self.run["dataset"]
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
        return {"seed": str(config.get("seed")), "data": dataset["sha256"], "config": digest}

    def read_metrics(self) -> list[Row]:
        """Returns the rows of `metrics.jsonl`, none if it does not exist; raises a UserError if they are not valid."""
        try:
            lines = storage.read_text(self.metrics_file).splitlines()
        except FileNotFoundError:
            return []
        name = f"{self.metrics_file} (removed, it is written again)"
        return [storage.parse_json(line, {}, f"{name}, line {number},") for number, line in enumerate(lines, 1)]

    def read_run(self) -> dict[str, Any]:
        """Returns the content of `run.json`; raises a UserError if there is no such file, or it is not valid."""
        try:
            self.run = storage.read_json(self.run_file, _RUN)
        except FileNotFoundError:
            inside = next((f", such as {file.parent}" for file in sorted(self.path.glob("*/run.json"))), "")
            raise UserError(f"{self.path} has no run.json: expected the directory of a run{inside}") from None
        except UserError as error:
            reason = str(error).removeprefix(f"{self.run_file} ")
            raise UserError(f"{self.run_file} cannot be read ({reason}): expected what a run writes there") from None
        return self.run


def differences_to_run(
    config: FrozenConfigDict, dataset: Dataset | dict[str, Any], recorded: dict[str, Any]
) -> list[Difference]:
    """Returns where a run with a config and a data set, or its description, differs from that of a recorded one."""
    described = dataset if isinstance(dataset, dict) else describe_dataset(dataset)
    data_differences = differences(described, recorded["dataset"], "dataset.")
    return data_differences + differences_to_recorded(config, recorded["config"])  # other data have another mean, too


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Returns what identifies a data set."""
    return {"name": dataset.name, "sha256": dataset.sha256, "test_examples": len(dataset.arrays.test_labels)}


def describe_run(config: FrozenConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Returns what identifies a run and what it was computed with; nothing names the machine."""
    return {
        "config_hash": config_hash(config),
        "config": json.loads(json.dumps(config.to_dict(), sort_keys=True)),
        "dataset": describe_dataset(dataset),
        "image_shape": list(dataset.image_shape),
        "num_classes": dataset.num_classes,
        "git_revision": git_revision(),
        "code_hash": code_hash(describe_code(config)),
        **describe_machine(),
    }


def _describe_files(config: FrozenConfigDict) -> dict[str, Any]:
    registered = registering_files(config)
    return {"code": describe_code(config)} | ({"registered_by": registered} if registered else {})


def describe_code_and_data(config: FrozenConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Returns the part of a run's description that all processes of a program have to share."""
    description = describe_run(config, dataset)
    names = ("config", "dataset", "git_revision", "versions")
    return {**{key: description[key] for key in names}, "code": describe_code(config)}
