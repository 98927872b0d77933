"""What a run's folder holds, and what `run.json` says about the run."""

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
from digits_jax.config import config_hash, differences, differences_to_recorded, to_json
from digits_jax.data import Dataset
from digits_jax.errors import InUseError, UserError
from digits_jax.storage import num_cores, replace_text, write_error

_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
GIT_REVISION = "DIGITS_JAX_GIT_REVISION"  # of the code, where it is a copy outside of a clone
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def default_workdir(name: str, config: FrozenConfigDict) -> Path:
    """`runs/<name>/<hash of the resolved config>`: the same command finds its run again."""
    return Path("runs") / name / config_hash(config)


class Workdir:
    """The folder of one run, and the names of what it holds."""

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
        """Writes `run.json` into a new folder, or checks that the folder's run is this one; keeps others out.

        Raises:
          InUseError: another process has it.
          UserError: the folder cannot be written, or holds a run of another config or other data.
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
                f"{self.path} is in use by another process: wait for its end, or give another, --workdir=FOLDER"
            ) from None
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        self._lock.release()

    @property
    def has_metrics(self) -> bool:
        return self.metrics_file.exists() and self.metrics_file.stat().st_size > 0

    def write_result(self, config: FrozenConfigDict, dataset: Dataset, result: dict[str, Any]) -> dict[str, Any]:
        """Writes `result.json`, all that is worth keeping of a finished run in a few kilobytes, and returns it.

        Args:
          config: the resolved config.
          dataset: its data.
          result: `selected_by`, the rows `final` and `best`, all rows as `epochs`, `test_errors`, the indices of the
            test images that the final epoch gets wrong, and `state_sha256`, that of the final state's bits.
        """
        result = {**describe_run(config, dataset), **result}
        write_result_file(self.result_file, result)
        return result

    def read_result(self) -> dict[str, Any] | None:
        """What `write_result` wrote; None where there is no such file, or a damaged one."""
        try:
            return json.loads(self.result_file.read_text())
        except (OSError, ValueError):
            return None

    def read_run(self) -> dict[str, Any]:
        """What `run.json` says.

        Raises:
          UserError: there is no such file, or a damaged one.
        """
        try:
            run = json.loads(self.run_file.read_text())
            if not all(isinstance(run.get(key), dict) for key in ("config", "dataset")):
                raise ValueError("it has no config or no dataset")
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(
                f"{self.run_file} cannot be read ({error}): expected what a run writes there, or another folder"
            ) from None
        return run

    def record_machine(self) -> list[str]:
        """Adds this machine to `run.json` where the run was on another one before, and warns of what is different.

        Bits can then be others.

        Raises:
          UserError: the folder cannot be written.
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
        return [f"{', '.join(changed)}: from here on the run's bits may be others than they would have been"]

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"the workdir {write_error(self.path, error)}: give another, --workdir=FOLDER")

    def _check_same_run(self, config: FrozenConfigDict, dataset: Dataset) -> None:
        for field, ours, theirs in differences_to_run(config, dataset, self.read_run()):
            raise UserError(
                f"{self.path} holds a run with {field} = {theirs!r}, this one has {ours!r}: give another --workdir"
            )


def write_result_file(path: Path, result: dict[str, Any]) -> None:
    """A field a line, an epoch a line: short, and still to be read in a diff."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in result["epochs"])
    fields = [f' "{key}": {json.dumps(value)}' for key, value in result.items() if key != "epochs"]
    replace_text(path, "{\n" + ",\n".join([*fields, f' "epochs": [\n{rows}\n ]']) + "\n}\n")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    replace_text(path, json.dumps(content, indent=2) + "\n")


def differences_to_run(
    config: FrozenConfigDict, dataset: Dataset, recorded: dict[str, Any]
) -> list[tuple[str, Any, Any]]:
    """The fields in which a run differs from that of a `run.json` or `result.json`: (name, value, recorded value)."""
    of_data = differences(describe_dataset(dataset), recorded["dataset"], "dataset.")
    return differences_to_recorded(config, recorded["config"]) + of_data


def describe_dataset(dataset: Dataset) -> dict[str, Any]:
    return {"name": dataset.name, "sha256": dataset.sha256, "test_examples": len(dataset.arrays.test_labels)}


def describe_run(config: FrozenConfigDict, dataset: Dataset) -> dict[str, Any]:
    """All that made the run what it is, and nothing that names the machine."""
    return {
        "config_hash": config_hash(config),
        "config": json.loads(to_json(config)),
        "dataset": describe_dataset(dataset),
        "image_shape": list(dataset.image_shape),
        "num_classes": dataset.num_classes,
        "git_revision": git_revision(),
        **describe_machine(),
    }


def describe_machine() -> dict[str, Any]:
    """Its hardware and versions; nothing that names it."""
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
    """Its name and its widest vectors, which decide how XLA computes and are not the same for all of a name."""
    try:
        described = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        described = ""
    found = re.search(r"model name\s*: (.*)", described)
    vectors = next((f" with {name}" for flag, name in _VECTORS.items() if f" {flag} " in described), "")
    return (found[1] if found else platform.processor()) + vectors


def git_revision() -> str | None:
    """The commit that the code comes from, with "+changes" where files differ from it; None outside a clone.

    A copy of a clone's code has it in the environment, as `GIT_REVISION`.
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
