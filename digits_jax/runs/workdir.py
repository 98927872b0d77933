"""A run's directory, and `run.json`, which describes the run."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

import filelock
import jax
from ml_collections import FrozenConfigDict

import digits_jax
from digits_jax import storage
from digits_jax.data import Dataset
from digits_jax.errors import InUseError, UserError
from digits_jax.runs.identity import config_hash, differences, differences_to_recorded, to_json
from digits_jax.storage import num_cores, replace_text

_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
GIT_REVISION = "DIGITS_JAX_GIT_REVISION"  # environment variable with the code's revision, for a copy outside a clone
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def default_workdir(name: str, config: FrozenConfigDict) -> Path:
    """Returns `runs/<name>/<hash of the resolved config>`: the same command finds its run again."""
    return Path("runs") / name / config_hash(config)


class Workdir:
    """The directory of one run, and the paths in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.run_file = path / "run.json"
        self.metrics_file = path / "metrics.jsonl"
        self.result_file = path / "result.json"
        self.curves = path / "curves.png"
        self.tensorboard = path / "tensorboard"
        self.profile = path / "profile"
        self.checkpoints = path / "checkpoints"
        self._lock = filelock.FileLock(path / "lock", timeout=0)

    def open(self, config: FrozenConfigDict, dataset: Dataset) -> None:
        """Locks the directory; writes `run.json` to a new one, or checks that it holds this run.

        Raises:
          InUseError: another process has locked it.
          UserError: it cannot be written, or holds a run with another config or other data.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()  # the operating system takes it back when this process ends, however it ends
            if self.run_file.exists():
                self._check_same_run(config, dataset)
            else:
                _write_json(self.run_file, describe_run(config, dataset))
        except filelock.Timeout:
            raise InUseError(
                f"{self.path} is in use by another process: wait for its end, or give another, --workdir=DIR"
            ) from None
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        """Unlocks the directory."""
        self._lock.release()

    @property
    def has_metrics(self) -> bool:
        """True once an epoch is finished."""
        return self.metrics_file.exists() and self.metrics_file.stat().st_size > 0

    def write_result(self, config: FrozenConfigDict, dataset: Dataset, result: dict[str, Any]) -> dict[str, Any]:
        """Writes `result.json`, which is all of a finished run that is kept in a study, and returns its content.

        Args:
          config: the resolved config.
          dataset: its data.
          result: `selected_by`, the rows `final` and `best`, all rows as `epochs`, `test_errors`, the indices of the
            test images that the final state misclassifies, and `state_sha256`, that of the final state's bits.
        """
        result = {**describe_run(config, dataset), **result}
        write_result_file(self.result_file, result)
        return result

    def read_result(self) -> dict[str, Any] | None:
        """Returns what `write_result` wrote; None where there is no such file, or a corrupted one."""
        try:
            return json.loads(self.result_file.read_text())
        except (OSError, ValueError):
            return None

    def read_run(self) -> dict[str, Any]:
        """Returns the content of `run.json`.

        Raises:
          UserError: there is no such file, or a corrupted one.
        """
        try:
            run = json.loads(self.run_file.read_text())
            if not all(isinstance(run.get(key), dict) for key in ("config", "dataset")):
                raise ValueError("it has no config or no dataset")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.run_file} cannot be read ({error}): expected what a run writes there, or another directory"
            ) from None
        return run

    def record_machine(self) -> list[str]:
        """Adds this machine to `run.json` if the run was on another one before; returns warnings of what differs.

        Raises:
          UserError: the directory cannot be written.
        """
        before = self.read_run()
        machine = describe_machine()
        machines = [before, *before.get("resumed_on", [])]
        changed = [
            f"{name} from {theirs} to {ours}"
            for name, ours, theirs in differences(machine, {key: machines[-1].get(key) for key in machine})
        ]
        if not changed:
            return []
        try:
            _write_json(self.run_file, {**before, "resumed_on": [*machines[1:], machine]})
        except OSError as error:
            raise self._unwritable(error) from None
        return [f"{', '.join(changed)}: from here on, the run may not be bit-identical to an uninterrupted one"]

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"the workdir {storage.write_error(self.path, error)}: give another, --workdir=DIR")

    def _check_same_run(self, config: FrozenConfigDict, dataset: Dataset) -> None:
        for field, ours, theirs in differences_to_run(config, dataset, self.read_run()):
            raise UserError(
                f"{self.path} holds a run with {field} = {theirs!r}, this one has {ours!r}: give another --workdir"
            )


def write_result_file(path: Path, result: dict[str, Any]) -> None:
    """Writes a result as JSON with one field or epoch per line."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in result["epochs"])
    fields = [f' "{key}": {json.dumps(value)}' for key, value in result.items() if key != "epochs"]
    replace_text(path, "{\n" + ",\n".join([*fields, f' "epochs": [\n{rows}\n ]']) + "\n}\n")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    replace_text(path, json.dumps(content, indent=2) + "\n")


def differences_to_run(
    config: FrozenConfigDict, dataset: Dataset, recorded: dict[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Returns where a run differs from that of a `run.json` or `result.json`: (name, value, recorded value)."""
    data_differences = differences(describe_dataset(dataset), recorded["dataset"], "dataset.")
    return differences_to_recorded(config, recorded["config"]) + data_differences


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    """Returns what identifies a data set."""
    return {"name": dataset.name, "sha256": dataset.sha256, "test_examples": len(dataset.arrays.test_labels)}


def describe_run(config: FrozenConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Returns what identifies a run and what it was computed with; nothing names the machine."""
    return {
        "config_hash": config_hash(config),
        "config": json.loads(to_json(config)),
        "dataset": describe_dataset(dataset),
        "image_shape": list(dataset.image_shape),
        "num_classes": dataset.num_classes,
        "git_revision": git_revision(),
        **describe_machine(),
    }


def describe_code_and_data(config: FrozenConfigDict, dataset: Dataset) -> dict[str, Any]:
    """Returns the part of a run's description that all processes of a program have to share."""
    description = describe_run(config, dataset)
    return {key: description[key] for key in ("config", "dataset", "git_revision", "versions")}


def describe_machine() -> dict[str, Any]:
    """Returns the hardware and versions of this machine; nothing that names it."""
    return {
        "devices": [device.device_kind for device in jax.devices()],
        "cpu": _cpu_model(),
        "cores": num_cores(),
        "versions": {
            "digits_jax": digits_jax.__version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
    }


def _cpu_model() -> str:
    """Returns the processor's name and its widest vectors, which decide how XLA computes."""
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        described = ""
    found = re.search(r"model name\s*: (.*)", described)
    vectors = next((f" with {name}" for flag, name in _VECTORS.items() if f" {flag} " in described), "")
    return (found[1] if found else platform.processor()) + vectors


def git_revision() -> str | None:
    """Returns the commit that the code comes from, with "+changes" if files differ from it; None outside a clone.

    For a copy of a clone's code, the environment variable `GIT_REVISION` names it.
    """
    if GIT_REVISION in os.environ:
        return os.environ[GIT_REVISION]
    git = ["git", "-C", str(Path(digits_jax.__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changes.strip() else "")
