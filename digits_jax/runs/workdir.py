"""A run's directory, and `run.json`, which describes the run."""

import hashlib
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
from digits_jax.bounds import NAME, OBJECT, SHA256, integer, list_of, optional
from digits_jax.data import MAX_CLASSES, MAX_SIZE, Dataset
from digits_jax.errors import InUseError, UserError
from digits_jax.runs.history import Row
from digits_jax.runs.identity import Difference, config_hash, differences, differences_to_recorded
from digits_jax.storage import Schema, num_cores, replace_text

_VECTORS = {"avx512f": "AVX-512", "avx2": "AVX2"}
GIT_REVISION = "DIGITS_JAX_GIT_REVISION"  # environment variable, see `git_revision`
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_NUMERICS = {  # JAX's settings that change a run's bits, with their defaults
    "jax_enable_x64": False,
    "jax_default_matmul_precision": None,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_numpy_dtype_promotion": "standard",
}
_SAME_BITS_FLAGS = ("--xla_dump", "--xla_force_host_platform_device_count")  # devices are recorded anyway


def default_workdir(name: str, config: FrozenConfigDict) -> Path:
    """Returns `runs/<name>/<hash of the resolved config>`: the same command finds its run again."""
    return Path("runs") / name / config_hash(config)


_RUN: Schema = {
    "config": OBJECT,
    "dataset": {"name": NAME, "sha256": SHA256, "test_examples": integer(0)},
    "image_shape": optional(list_of(integer(1, MAX_SIZE), shortest=3, longest=3)),
    "num_classes": optional(integer(1, MAX_CLASSES)),
    "resumed_on": optional(list_of(OBJECT)),
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
          UserError: it cannot be written, or holds something else, or a run with another config or other data.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()  # the operating system takes it back when this process ends, however it ends
            self._check_contents()
            if self.run_file.exists():
                return self._reopen(config, dataset)
            self._write_run(describe_run(config, dataset))
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

    def _reopen(self, config: FrozenConfigDict, dataset: Dataset) -> list[str]:
        before = self.read_run()
        for field, ours, theirs in differences_to_run(config, dataset, before):
            raise UserError(
                f"{self.path} holds a run with {field} = {theirs!r}, this one has {ours!r}: give another --workdir"
            )
        machine = describe_machine()
        machines = [before, *(before.get("resumed_on") or [])]
        last = {"numerics": {**_NUMERICS, "XLA_FLAGS": ""}, **machines[-1]}  # defaults, if an earlier version had none
        changed = differences(machine, {key: last.get(key) for key in machine})
        if not changed:
            return []
        self._write_run({**before, "resumed_on": [*machines[1:], machine]})
        what = ", ".join(f"{name} from {theirs} to {ours}" for name, ours, theirs in changed)
        return [f"{what}: from here on, the run may not be bit-identical to an uninterrupted one"]

    def _write_run(self, run: dict[str, Any]) -> None:
        replace_text(self.run_file, json.dumps(run, indent=2) + "\n")
        self.run = json.loads(json.dumps(run))

    def close(self) -> None:
        """Unlocks the directory."""
        self._lock.release()

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
        except (FileNotFoundError, UserError) as error:
            reason = (
                "no such file" if isinstance(error, FileNotFoundError) else str(error).removeprefix(f"{self.run_file} ")
            )
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
        "numerics": describe_numerics(),
        "versions": {
            "digits_jax": digits_jax.__version__,
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _PACKAGES},
        },
    }


def describe_numerics() -> dict[str, Any]:
    """Returns the settings that decide how JAX and XLA compute on this machine."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_SAME_BITS_FLAGS)]
    return {**{name: getattr(jax.config, name) for name in _NUMERICS}, "XLA_FLAGS": " ".join(sorted(set(flags)))}


def unusual_numerics() -> list[str]:
    """Returns the settings of JAX, such as "jax_enable_x64 is True", that differ from their defaults."""
    given = describe_numerics()
    return [f"{name} is {given[name]}" for name, default in _NUMERICS.items() if given[name] != default]


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
