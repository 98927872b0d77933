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
from digits_jax.runs.identity import Difference, config_hash, differences, differences_to_recorded
from digits_jax.storage import num_cores, replace_text

_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
GIT_REVISION = "DIGITS_JAX_GIT_REVISION"  # environment variable, see `git_revision`
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

    def open(self, config: FrozenConfigDict, dataset: Dataset) -> list[str]:
        """Locks the directory; writes `run.json` to a new one, or checks that it holds this run.

        A machine that is not the run's last one is added to `run.json`. Returns warnings of what differs.

        Raises:
          InUseError: another process has locked it.
          UserError: it cannot be written, or holds a run with another config or other data.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()  # the operating system takes it back when this process ends, however it ends
            if self.run_file.exists():
                return self._reopen(config, dataset)
            self._write_run(describe_run(config, dataset))
            return []
        except filelock.Timeout:
            raise InUseError(
                f"{self.path} is in use by another process: wait for its end, or give another, --workdir=DIR"
            ) from None
        except OSError as error:
            refusal = storage.write_error(self.path, error)
            raise UserError(f"the workdir {refusal}: give another, --workdir=DIR") from None

    def _reopen(self, config: FrozenConfigDict, dataset: Dataset) -> list[str]:
        before = self.read_run()
        for field, ours, theirs in differences_to_run(config, dataset, before):
            raise UserError(
                f"{self.path} holds a run with {field} = {theirs!r}, this one has {ours!r}: give another --workdir"
            )
        machine = describe_machine()
        machines = [before, *before.get("resumed_on", [])]
        changed = differences(machine, {key: machines[-1].get(key) for key in machine})
        if not changed:
            return []
        self._write_run({**before, "resumed_on": [*machines[1:], machine]})
        what = ", ".join(f"{name} from {theirs} to {ours}" for name, ours, theirs in changed)
        return [f"{what}: from here on, the run may not be bit-identical to an uninterrupted one"]

    def _write_run(self, run: dict[str, Any]) -> None:
        replace_text(self.run_file, json.dumps(run, indent=2) + "\n")

    def close(self) -> None:
        """Unlocks the directory."""
        self._lock.release()

    def write_result(self, config: FrozenConfigDict, dataset: Dataset, result: dict[str, Any]) -> dict[str, Any]:
        """Writes `result.json`, one field or epoch per line, and returns its content: run, machine and `result`."""
        result = {**describe_run(config, dataset), **result}
        rows = ",\n".join(f"  {json.dumps(row)}" for row in result["epochs"])
        fields = [f' "{key}": {json.dumps(value)}' for key, value in result.items() if key != "epochs"]
        replace_text(self.result_file, "{\n" + ",\n".join([*fields, f' "epochs": [\n{rows}\n ]']) + "\n}\n")
        return result

    def read_result(self) -> dict[str, Any] | None:
        """Returns what `write_result` wrote; None where there is no such file, or a corrupted one."""
        try:
            return json.loads(self.result_file.read_text())
        except (OSError, ValueError):
            return None

    def read_run(self) -> dict[str, Any]:
        """Returns the content of `run.json`; raises a UserError if there is no such file, or a corrupted one."""
        try:
            run = json.loads(self.run_file.read_text())
            if not all(isinstance(run.get(key), dict) for key in ("config", "dataset")):
                raise ValueError("it has no config or no dataset")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.run_file} cannot be read ({error}): expected what a run writes there, or another directory"
            ) from None
        return run


def differences_to_run(config: FrozenConfigDict, dataset: Dataset, recorded: dict[str, Any]) -> list[Difference]:
    """Returns where a run differs from that of a `run.json` or `result.json`."""
    data_differences = differences(describe_dataset(dataset), recorded["dataset"], "dataset.")
    return differences_to_recorded(config, recorded["config"]) + data_differences


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

    The environment variable `DIGITS_JAX_GIT_REVISION` names it for a copy of a clone's code.
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
