"""One run, of one seed: its folder, its checkpoints and writers, and how far it is."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from digits_jax.config import config_hash
from digits_jax.data import Dataset
from digits_jax.errors import DivergedError, UserError
from digits_jax.experiment import Experiment, Scores, build, evaluate
from digits_jax.metrics import best_row, score_key
from digits_jax.parallel import distributed
from digits_jax.replay import diagnosis
from digits_jax.runs.checkpoint import Checkpoints, Progress
from digits_jax.runs.workdir import Workdir
from digits_jax.runs.writers import JsonlWriter, TensorBoardWriter, WandbWriter, Writer
from digits_jax.storage import Mirror, write_error
from digits_jax.train_step import TrainState

Row = dict[str, Any]


class Run:
    """A run that is open: begun anew, or gone on with from its latest checkpoint.

    Args:
      config: resolved.
      dataset: its data.
      workdir: its folder; made where it is missing.
      name: what to call the experiment in plots and on the terminal.
      writers: of its rows, besides those of the folder.
      wandb_project: of Weights & Biases, to log to as well.
      mirror: the folder's, where it is the copy of one on a bucket.

    Raises:
      UserError: the folder is not usable.
    """

    def __init__(
        self,
        config: FrozenConfigDict,
        dataset: Dataset,
        workdir: Path,
        *,
        name: str,
        writers: Sequence[Writer] = (),
        wandb_project: str | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        self.config = config
        self.name = name
        self.dataset = dataset
        self.folder = Workdir(Path(workdir))
        self._mirror = mirror
        self.place = str(mirror.remote if mirror else workdir)  # what a person calls its folder
        self.experiment: Experiment = build(config, dataset)
        with distributed.together():
            self.folder.open(config, dataset)
            # What a person should know of how the run was found.
            self.warnings = self.folder.record_machine()
            self._checkpoints = Checkpoints(self.folder.checkpoints)
            self.warnings += self._checkpoints.set_aside
            self.progress = self._go_on()
            self._writers = [*self._create_writers(wandb_project), *writers]
        self.progress = self._of_first(self.progress)
        # What `result.json` says, once the run is finished.
        self.result = distributed.from_first((), self.folder.read_result() if self.is_finished else None)[1]
        self.scores: Scores | None = None  # of the latest epoch, where this process has evaluated it

    def _of_first(self, progress: Progress) -> Progress:
        """What process 0 restored, in all processes."""
        arrays, facts = (progress.state, progress.metrics), (progress.seconds, progress.rows)
        (state, metrics), (seconds, rows) = distributed.from_first(arrays, facts)
        return Progress(state, metrics, seconds, rows)

    def _go_on(self) -> Progress:
        """Restores the latest checkpoint, or saves the initial state, so that there always is one to fall back on.

        Where the checkpoint of the best epoch is gone (damaged, or lost by an earlier version), an earlier one is
        restored, and the run trains to the best epoch again.

        Raises:
          UserError: there is nothing to restore from, or the best epoch has still to be scored and cannot be reached.
        """
        start = Progress.at_the_start(self.experiment.initial_state)
        latest = self._checkpoints.restore(start)
        if latest is None:
            if self.folder.has_metrics:
                raise UserError(
                    f"{self.folder.metrics_file} has epochs but {self.folder.checkpoints} no checkpoint to go on from; "
                    f"to train from the beginning, remove {self.folder.path}"
                )
            self._checkpoints.save(start, best=None)
            return start
        best = best_row(latest.rows, score_key(self.config))["step"] if latest.rows else 0
        if not latest.rows or self._checkpoints.has(best):
            return latest
        if earlier := self._checkpoints.restore(start, step=best):
            return earlier
        folder = self.folder.checkpoints
        lost = f"{folder} has lost the checkpoint of the best epoch, step {best}, and has none before it"
        if self.experiment.at_the_end and not self.folder.result_file.exists():
            raise UserError(f"{lost}: its test score cannot be measured; remove {self.folder.path} to train again")
        self.warnings.append(f"{lost}: only --checkpoint=latest can be loaded; to have it, train in another folder")
        return latest

    def _create_writers(self, wandb_project: str | None) -> list[Writer]:
        writers: list[Writer] = [
            JsonlWriter(self.folder.metrics_file),
            TensorBoardWriter(self.folder.tensorboard, self.config.to_dict()),
        ]
        if wandb_project:
            writers.append(
                WandbWriter(
                    project=wandb_project,
                    run_id=config_hash(self.config),
                    name=f"{self.name} {config_hash(self.config)}",
                    config=self.config.to_dict(),
                    folder=self.folder.path,
                )
            )
        return writers

    def diagnose(self) -> DivergedError:
        """Why a run cannot go on whose progress has numbers that are not finite."""
        start = self._checkpoints.restore(Progress.at_the_start(self.experiment.initial_state))
        assert start is not None  # a run has one from its beginning
        last = int(self.progress.state.step)
        return diagnosis(self.config, self.dataset, start, self.folder.path, last=last)

    @property
    def rows(self) -> list[Row]:
        """One of metrics for each finished epoch."""
        return self.progress.rows

    @property
    def is_finished(self) -> bool:
        patience = self.config.early_stopping_epochs
        if self.rows and patience and len(self.rows) - self.best_row()["epoch"] >= patience:
            return True
        return len(self.rows) == self.experiment.num_epochs

    def best_row(self) -> Row:
        return best_row(self.rows, score_key(self.config))

    def _publish(self) -> None:
        if self._mirror:
            self._mirror.push()

    def save(self) -> None:
        """Saves a checkpoint, and the folder to its bucket where it has one."""
        with distributed.together():
            self._checkpoints.save(self.progress, best=self.best_row()["step"] if self.rows else None)
            self._publish()

    def write(self) -> None:
        with distributed.together():
            for writer in self._writers:
                try:
                    writer.write(self.rows)
                except OSError as error:
                    size = len(json.dumps(self.rows))
                    raise UserError(
                        f"the metrics are not saved: {write_error(self.folder.path, error, needed=size)}; checkpoints "
                        "are intact: mend this, then start the same command again"
                    ) from None
            self._publish()

    def finish(self) -> None:
        """Scores what is scored at the end only, and leaves `result.json` and the curves."""
        if self.result:
            return  # it says which code and versions it is from: these may be others
        final, best, state = self.rows[-1], self.best_row(), self.progress.state
        best_state = state
        if self.experiment.at_the_end and best is not final:
            with distributed.together():
                restored = self._checkpoints.restore(self.progress, step=best["step"])
                if distributed.is_first() and (restored is None or int(restored.state.step) != best["step"]):
                    raise UserError(
                        f"{self.folder.checkpoints} has lost the checkpoint of the best epoch, step {best['step']}: "
                        "its test score cannot be measured; start the same command again"
                    )
            best_state = self._of_first(restored or self.progress).state
        at_the_end = self.experiment.at_the_end
        final_scores, best_scores = (evaluate(at_the_end, [s])[0] for s in (state, best_state))
        latest = self.scores or evaluate(self.experiment.after_each_epoch, [state])[0]
        from digits_jax.runs.curves import plot_curves  # takes 0.6 s, which a start need not wait for

        plot_curves(
            self.rows,
            best_epoch=best["epoch"],
            selected_by=score_key(self.config),
            title=f"{self.name} on {self.dataset.name}, seed {self.config.seed}",
            path=self.folder.curves,
        )
        self.result = self.folder.write_result(
            self.config,
            self.dataset,
            {
                "selected_by": score_key(self.config),
                "final": {**final, **final_scores.metrics},
                "best": {**best, **best_scores.metrics},
                "epochs": self.rows,
                "test_errors": (latest.wrong | final_scores.wrong)["test"],
                "state_sha256": _sha256(state),
            },
        )
        with distributed.together():
            self._publish()

    def close(self) -> None:
        self._checkpoints.close()
        self.folder.close()
        for writer in self._writers:
            writer.close()


def _sha256(state: TrainState) -> str:
    """Of all bits of a state: two runs that end alike have the same."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()
