"""Orbax checkpoints with SHA-256 manifests; keeps those of the last two epochs, the best and the latest."""

import errno
import glob
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from ml_collections import FrozenConfigDict

from digits_jax import storage
from digits_jax.errors import UserError
from digits_jax.metrics import Metrics
from digits_jax.runs.history import HISTORY, Row
from digits_jax.train_step import TrainState

_LEFTOVER = ".orbax-checkpoint-tmp"  # in the name of what Orbax has not finished
_MARGIN = 2_000_000  # bytes for what a checkpoint holds besides its arrays


class Progress(NamedTuple):
    """The state of a run between two compiled calls: all that it takes to resume it."""

    state: TrainState
    metrics: Metrics  # of the current epoch so far
    seconds: float  # of training in the current epoch so far
    rows: list[Row]  # one per finished epoch

    @classmethod
    def at_the_start(cls, state: TrainState, config: FrozenConfigDict) -> "Progress":
        """Returns the progress of a run that has not taken a step."""
        return cls(state=state, metrics=Metrics.zero(config.metrics), seconds=0.0, rows=[])

    @property
    def step(self) -> int:
        """The number of training steps taken."""
        return int(self.state.step)


def state_hash(state: TrainState) -> str:
    """Returns the SHA-256 of all bits of a state: equal for two runs that end alike."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


class Checkpoints:
    """The checkpoints of one run, one directory per step.

    A manifest vouches for each: for its files, for the run that it belongs to, by the facts in `identity`, and for the
    state in it, which was read back before. Those that are corrupted, incomplete or of another run are moved to a
    directory `damaged` beside theirs and never deleted. If all are, opening them raises a UserError: nothing is
    silently trained again.
    """

    def __init__(
        self, folder: Path, identity: Mapping[str, str] | None = None, *, code: Mapping[str, str | None] | None = None
    ) -> None:
        self._folder = folder
        self._identity = dict(identity or {})  # see `Workdir.identity`
        self._code = {name: value for name, value in (code or {}).items() if value}  # recorded, but not compared
        self.set_aside: list[str] = []  # what is wrong with which checkpoints, a sentence each
        _check_path(folder)
        self._check()
        folder.mkdir(parents=True, exist_ok=True)

    def _check(self) -> None:
        self._remove_leftovers()
        steps = saved_steps(self._folder)
        for step in steps:
            if wrong := storage.find_damage(self._folder / str(step), self._identity):
                self._set_aside(step, wrong)
        # A run saves its state at step 0. Where only that one is damaged, nothing has been trained yet.
        if len(self.set_aside) == len(steps) and any(steps):
            raise UserError(
                f"{'; '.join(self.set_aside)}: no checkpoint is left to resume from; "
                f"to train from the beginning, remove {self._folder.parent}"
            )

    def _remove_leftovers(self) -> None:
        """Removes what a process left that ended, or a disk that was full, during a save."""
        for leftover in self._folder.glob(f"*{_LEFTOVER}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _set_aside(self, step: int, wrong: str) -> None:
        damaged = self._folder.parent / "damaged"
        try:
            damaged.mkdir(exist_ok=True)
            place = next(path for n in range(1, 1_000) if not (path := damaged / f"{step}-{n}").exists())
            os.replace(self._folder / str(step), place)
        except OSError as error:
            raise UserError(storage.write_error(damaged, error)) from None
        self.set_aside.append(f"the checkpoint of step {step} {wrong} and is now {place}")

    def save(self, progress: Progress, *, best: int | None) -> None:
        """Saves the progress, then deletes all checkpoints but it, those of the last two epochs and the best.

        What was written is read back and compared before the manifest vouches for it. One in mid-epoch is kept while it
        is the latest: an interrupted and resumed run ends with the same checkpoints as an uninterrupted one. `best` is
        the step of the best epoch so far, None before the end of the first.

        Raises a UserError if other values come back, or the disk is full or cannot be written. Earlier checkpoints are
        left as they were.
        """
        step, folder = progress.step, self._folder / str(progress.step)
        if self.has(step) or jax.process_index() != 0:  # Orbax writes NumPy arrays in process 0 only
            return
        # As NumPy arrays, which are of no device: any number of devices and processes can resume from them.
        arrays = jax.device_get({"state": progress.state, "metrics": progress.metrics})
        needed = _MARGIN + sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
        contents = ocp.args.Composite(
            arrays=ocp.args.StandardSave(arrays),
            history=ocp.args.JsonSave({"seconds": progress.seconds, "rows": progress.rows}),
        )
        facts = {**self._identity, **self._code, "state": state_hash(arrays["state"])}
        try:
            # Asked first, because TensorStore's threads print a page when a write fails.
            if shutil.disk_usage(self._folder).free < needed:
                raise OSError(errno.ENOSPC, "there is too little room")
            with _checkpointer() as checkpointer:
                checkpointer.save(folder.absolute(), contents)
            if state_hash(_read_arrays(folder, progress).state) != facts["state"]:
                raise UserError(f"{folder} holds other values than were saved: expected a sound disk, give another")
            storage.write_manifest(folder, facts)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError):
                # TensorStore raises it for what the operating system refuses, with the code in its text.
                code = re.search(r"os_error_code='(\d+)'", str(error))
                if code is None:
                    raise
                error = OSError(int(code[1]), os.strerror(int(code[1])))
            shutil.rmtree(folder, ignore_errors=True)  # what is incomplete would keep the disk full
            self._remove_leftovers()
            refusal = storage.write_error(self._folder, error, needed=needed)
            raise UserError(
                f"the checkpoint of step {step} is not saved: {refusal}; earlier ones are intact: make room, then "
                "start the same command again"
            ) from None
        ends = [0, *(row["step"] for row in progress.rows)]
        for old in set(saved_steps(self._folder)) - {*ends[-2:], step, step if best is None else best}:
            # Renamed first, because a kill would leave half of it.
            os.replace(self._folder / str(old), self._folder / f"{old}{_LEFTOVER}")
            self._remove_leftovers()

    def has(self, step: int) -> bool:
        """Returns whether there is a checkpoint of this step."""
        return step in saved_steps(self._folder)

    def restore(self, template: Progress, *, step: int | None = None) -> Progress | None:
        """Restores the latest checkpoint, or with `step` the latest up to it; returns None where there is none.

        Raises a UserError as `read_checkpoint`.
        """
        steps = [saved for saved in saved_steps(self._folder) if step is None or saved <= step]
        return read_checkpoint(self._folder / str(max(steps)), template) if steps else None


def saved_steps(folder: Path) -> list[int]:
    """Returns the steps of a folder's checkpoints, sorted."""
    return sorted(int(path.name) for path in folder.glob("*") if re.fullmatch("0|[1-9][0-9]{0,17}", path.name))


def read_checkpoint(folder: Path, template: Progress) -> Progress:
    """Reads a checkpoint that is as it was written; see `storage.find_damage`.

    Raises a UserError if it is of another model than the `template`, or of another step than its folder says, or has
    another state than its manifest says.
    """
    read, history = _read_arrays(folder, template), read_history(folder)
    state, metrics = jax.tree.map(jnp.asarray, (read.state, read.metrics))
    progress = Progress(state, metrics, history["seconds"], history["rows"])
    if progress.step != int(folder.name):
        raise UserError(f"{folder} holds step {progress.step}: expected {folder.name}; put it back")
    found = state_hash(read.state)
    if (expected := storage.read_facts(folder).get("state", found)) != found:
        raise UserError(f"{folder} holds a state with SHA-256 {found}: expected {expected}, as its manifest says")
    return progress


def read_history(folder: Path) -> dict[str, Any]:
    """Returns what a checkpoint has besides its arrays, `seconds` and `rows`; a UserError if they are not valid."""
    try:
        history = storage.read_json(folder / "history" / "metadata", HISTORY)
    except FileNotFoundError:
        raise UserError(f"{folder} has no history: it is no checkpoint of this project") from None
    if any(row["epoch"] != n or row["step"] > int(folder.name) for n, row in enumerate(history["rows"], 1)):
        raise UserError(f"{folder} has epochs that do not end at its step: put it back where it belongs")
    return history


def _check_path(folder: Path) -> None:
    path = folder.absolute()
    if glob.has_magic(str(path)):  # Orbax takes the path for a pattern, and restores nothing
        raise UserError(f"{path} has one of *, ? and [, with which nothing can be restored: give another path")


def _read_arrays(folder: Path, template: Progress) -> Progress:
    """Returns the template with the state and metrics of a checkpoint, as NumPy arrays."""
    _check_path(folder)
    shapes = {"state": template.state, "metrics": template.metrics}
    hook, sys.unraisablehook = sys.unraisablehook, lambda unraisable: None
    with _checkpointer() as checkpointer:
        try:
            metadata = checkpointer.metadata(folder.absolute()).item_metadata["arrays"]
            check_arrays(metadata, shapes, folder)  # before anything of their size is made
            arrays = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), shapes)
            args = ocp.args.Composite(arrays=ocp.args.StandardRestore(arrays))
            restored = checkpointer.restore(folder.absolute(), args=args).arrays
        except UserError:
            raise
        except Exception as error:  # a library may raise anything on a file that it did not write
            time.sleep(0.1)  # TensorStore's other reads still report to a closed loop, a traceback each
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"{folder} cannot be read ({reason})") from None
        finally:
            sys.unraisablehook = hook
    return template._replace(**restored)


def _checkpointer() -> ocp.Checkpointer:
    """Returns a checkpointer that does not wait for the other processes: each has a directory of its own."""
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=str(process)
    )
    handler = ocp.CompositeCheckpointHandler(
        arrays=ocp.StandardCheckpointHandler(),
        history=ocp.JsonCheckpointHandler(),
        composite_options=ocp.CompositeOptions(multiprocessing_options=alone),
    )
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def check_arrays(saved: Any, expected: Any, place: Path) -> None:
    """Raises a UserError if an array of a checkpoint, or its description, is not as expected; it names the `place`."""
    found_by_name = dict(_by_name(saved))
    for name, leaf in _by_name(expected):
        found = found_by_name.pop(name, None)
        if found is None or tuple(found.shape) != leaf.shape or found.dtype != leaf.dtype:
            what = "nothing" if found is None else f"{found.dtype}{list(found.shape)}"
            raise UserError(f"{place} has {what} as {name}: expected {leaf.dtype}{list(leaf.shape)}")
    if found_by_name:
        raise UserError(f"{place} has {min(found_by_name)}, which this model has not")


def _by_name(tree: Any) -> list[tuple[str, Any]]:
    """Returns the leaves of a tree with their paths: attributes of a state and keys of a saved one read the same."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(re.sub(r"\W+", "/", jax.tree_util.keystr(path)).strip("/"), leaf) for path, leaf in leaves]
