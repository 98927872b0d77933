"""Checkpoints with Orbax: the latest, to go on from, and the best."""

import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from digits_jax.errors import UserError
from digits_jax.metrics import Metrics
from digits_jax.train_step import TrainState

_MARGIN = 2_000_000  # bytes for what a checkpoint holds besides its arrays


class Progress(NamedTuple):
    """All that a run has to remember: restored, it goes on as if it had never stopped."""

    state: TrainState
    metrics: Metrics  # of the current epoch so far
    seconds: float  # of training in the current epoch so far
    rows: list[dict[str, Any]]  # of metrics.jsonl, one per finished epoch


class Checkpoints:
    """The checkpoints of one run, one folder per step."""

    def __init__(self, folder: Path) -> None:
        # Orbax's `best_fn` with `max_to_keep` would delete the newest checkpoint whenever the metric worsens.
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(1),
                checkpoint_managers.BestN(
                    n=1, get_metric_fn=_best_first_key, reverse=False, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(preservation_policy=policy, enable_async_checkpointing=False)
        self._folder = folder
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, progress: Progress, *, score: float | None) -> None:
        """Saves; `score` ranks the checkpoint, None (in mid-epoch) leaves it out of the ranking.

        Raises:
          UserError: the disk is full, or cannot be written. Earlier checkpoints are left as they were.
        """
        step = int(progress.state.step)
        if step in self._manager.all_steps():
            return
        self._check_room(step, progress)
        contents = ocp.args.Composite(
            arrays=ocp.args.StandardSave({"state": progress.state, "metrics": progress.metrics}),
            history=ocp.args.JsonSave({"seconds": progress.seconds, "rows": progress.rows}),
        )
        try:
            self._manager.save(step, args=contents, metrics=None if score is None else {"score": score, "step": step})
        except (OSError, ValueError) as error:
            # TensorStore raises a ValueError for what the operating system refuses, with the code in its text.
            code = re.search(r"os_error_code='(\d+)'", str(error))
            if isinstance(error, ValueError) and code is None:
                raise
            for leftover in self._folder.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(leftover, ignore_errors=True)  # it would keep the disk full
            reason = os.strerror(int(code[1])) if code else getattr(error, "strerror", None) or error
            raise UserError(
                f"the checkpoint of step {step} cannot be written to {self._folder} ({reason}); earlier ones are "
                "intact: make room, then start the same command again"
            ) from None

    def _check_room(self, step: int, progress: Progress) -> None:
        # Asked first, because TensorStore's threads print a page when a write fails.
        needed = _MARGIN + sum(leaf.nbytes for leaf in jax.tree.leaves((progress.state, progress.metrics)))
        free = shutil.disk_usage(self._folder).free
        if free < needed:
            raise UserError(
                f"the checkpoint of step {step} needs {needed / 1e6:.1f} MB but {self._folder} has {free / 1e6:.1f} MB "
                "free; earlier ones are intact: make room, then start the same command again"
            )

    def restore(self, template: Progress, *, step: int | None = None) -> Progress | None:
        """A checkpoint in the shapes and on the devices of `template`, or None where there is none.

        Args:
          template: any state of the same experiment.
          step: which one; None: the latest.
        """
        step = self._manager.latest_step() if step is None else step
        if step is None:
            return None
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, {"state": template.state, "metrics": template.metrics})
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(arrays=ocp.args.StandardRestore(shapes), history=ocp.args.JsonRestore()),
        )
        return Progress(**restored.arrays, **restored.history)

    def close(self) -> None:
        self._manager.close()


def _best_first_key(metrics: dict[str, float]) -> tuple[float, float]:
    # Orbax keeps the largest. Among equal scores the first epoch is the best one.
    return metrics["score"], -metrics["step"]
