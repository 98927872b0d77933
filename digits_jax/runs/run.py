"""One seed's run: its directory, its checkpoints and its metric writers. It saves what it is given."""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from ml_collections import FrozenConfigDict

from digits_jax import data, parallel, storage
from digits_jax.errors import ConfigError, UserError
from digits_jax.evaluate import Scores
from digits_jax.runs.checkpoint import Checkpoints, Progress, state_hash
from digits_jax.runs.code import code_hash, describe_code
from digits_jax.runs.environment import git_revision
from digits_jax.runs.extension import Parent
from digits_jax.runs.history import Row, best_row, score_key
from digits_jax.runs.result import read_result, write_result
from digits_jax.runs.workdir import Workdir, describe_run, find_workdir
from digits_jax.runs.writers import Writer, create_writers
from digits_jax.storage import Mirror, PathLike
from digits_jax.train_step import TrainState


@contextlib.contextmanager
def open_runs(
    configs: Sequence[FrozenConfigDict],
    dataset: data.Dataset,
    workdir_of: Callable[[FrozenConfigDict], PathLike],
    *,
    name: str,
    writers: Sequence[Writer] = (),
    wandb_project: str | None = None,
    code: str = "check",
    parents: Mapping[int, Parent] | None = None,
) -> Iterator[list["Run"]]:
    """Opens a run for each resolved config, and closes all of them on exit; arguments as of `train_loop.train_seeds`.

    Process 0 alone has the directories; the other processes write to temporary ones.
    """
    if code not in ("check", "fresh", "accept"):
        raise ConfigError(f"code is {code!r}: expected 'check', 'fresh' or 'accept'")
    with contextlib.ExitStack() as stack:
        opened = []
        for config in configs:
            workdir = workdir_of(config)
            if not parallel.is_first():
                workdir = stack.enter_context(TemporaryDirectory())
            with parallel.together():
                workdir = find_workdir(workdir, config, dataset, fresh=code == "fresh")
                mirror = stack.enter_context(storage.local_copy(workdir))
                local = mirror.local if mirror else storage.open_path(workdir)
                parent = (parents or {}).get(config.seed)
                run = Run(config, dataset, local, name=name, mirror=mirror, code=code, parent=parent)
                stack.callback(run.close)
                with run.saving("the metrics"):
                    run.writers = [
                        *create_writers(run.folder, config, name=name, wandb_project=wandb_project),
                        *writers,
                    ]
            opened.append(run)
        yield opened


class Run:
    """The run of a resolved config, with its directory open and locked; a UserError if that is not usable."""

    def __init__(
        self,
        config: FrozenConfigDict,
        dataset: data.Dataset,
        workdir: Path,
        *,
        name: str,
        mirror: Mirror | None = None,
        code: str = "check",
        parent: Parent | None = None,
    ) -> None:
        self.config = config
        self.name = name
        self.dataset = dataset
        self.folder = Workdir(workdir)
        self.path = str(mirror.remote if mirror else workdir)  # what a person calls it
        self.profile = self.folder.profile
        self.result: dict[str, Any] | None = None  # the content of `result.json`, once the run is finished
        self.scores: Scores | None = None  # of the latest epoch, where this process has evaluated it
        self.writers: list[Writer] = []  # besides `metrics.jsonl`
        self._mirror, self._parent = mirror, parent
        try:
            extends = parent.facts if parent else None
            self.warnings = self.folder.open(config, dataset, code=code, extends=extends)
            with self.saving("the workdir"):
                revisions = {"git_revision": git_revision(), "code_hash": code_hash(describe_code(config))}
                self._checkpoints = Checkpoints(self.folder.checkpoints, self.folder.identity, code=revisions)
        except BaseException:  # in a notebook, the exception keeps this object, and with it the lock
            self.folder.close()
            raise
        self.warnings += self._checkpoints.set_aside

    def is_finished(self, rows: list[Row]) -> bool:
        """Returns whether a run with these epochs has reached its end, or stopped early."""
        patience = self.config.early_stopping_epochs
        if patience and rows and len(rows) - self._best(rows)["epoch"] >= patience:
            return True
        return len(rows) == sum(self.config.epochs)

    def _best(self, rows: list[Row]) -> Row:
        return best_row(rows, score_key(self.config))

    def restore(self, initial_state: TrainState) -> Progress:
        """Restores the latest checkpoint, or saves the initial state, so that there always is one to fall back on.

        Where the checkpoint of the best epoch is gone (corrupted, or lost by an earlier version), an earlier one is
        restored, and the run trains to the best epoch again. Raises a UserError if none can be restored, or the best
        epoch has still to be scored and cannot be reached.
        """
        start = Progress.at_the_start(initial_state, self.config)
        with parallel.together():
            progress = self._restore(start)
        # What process 0 restored, in all processes.
        arrays, facts = (progress.state, progress.metrics), (progress.seconds, progress.rows)
        (state, metrics), (seconds, rows) = parallel.from_first(arrays, facts)
        if self.is_finished(rows):
            with parallel.together():
                result = read_result(self.folder) if parallel.is_first() else None
            self.result = parallel.from_first((), result)[1]
        return Progress(state, metrics, seconds, rows)

    def _restore(self, start: Progress) -> Progress:
        folder, metrics_file = self.folder.checkpoints, self.folder.metrics_file
        latest = self._checkpoints.restore(start)
        written = self.folder.read_metrics()
        if latest is None:
            if written:
                raise UserError(
                    f"{metrics_file} has epochs but {folder} no checkpoint to resume from; to train from the "
                    f"beginning, remove {self.folder.path}"
                )
            first = self._parent.read(start.state, self.config) if self._parent else [start]
            for progress in first:
                self._checkpoints.save(progress, best=self._best(progress.rows)["step"] if progress.rows else None)
            return first[-1]
        # Fewer were written if a process ended between a checkpoint and its row; more, if a later checkpoint is gone.
        for saved, row in zip(latest.rows, written, strict=False):
            if saved != row:
                what = f"has another epoch {saved['epoch']} than the checkpoint of step {latest.step}"
                raise UserError(f"{metrics_file} {what}: remove it, and the same command writes it again")
        best = self._best(latest.rows)["step"] if latest.rows else 0
        if not latest.rows or self._checkpoints.has(best):
            return latest
        if earlier := self._checkpoints.restore(start, step=best):
            return earlier
        lost = f"{folder} has lost the checkpoint of the best epoch, step {best}, and has none before it"
        if self.config.dataset.validation_examples and not self.folder.result_file.exists():
            raise UserError(f"{lost}: its test score cannot be measured; remove {self.folder.path} to train again")
        self.warnings.append(f"{lost}: only --checkpoint=latest can be loaded; to have it, train in another directory")
        return latest

    def restore_step(self, template: Progress, step: int) -> Progress:
        """Restores the checkpoint of a step; raises a UserError where there is none."""
        with parallel.together():
            restored = self._checkpoints.restore(template, step=step)
            if parallel.is_first() and (restored is None or restored.step != step):
                raise UserError(
                    f"{self.folder.checkpoints} has lost the checkpoint of step {step}: its test score cannot be "
                    "measured; start the same command again"
                )
        progress = restored or template
        return progress._replace(state=parallel.from_first(progress.state)[0])

    def save(self, progress: Progress) -> None:
        """Saves a checkpoint, and the directory to its bucket where it has one."""
        with parallel.together():
            self._checkpoints.save(progress, best=self._best(progress.rows)["step"] if progress.rows else None)
            self._publish()

    def write(self, rows: list[Row]) -> None:
        """Writes the rows of all epochs so far to `metrics.jsonl`, TensorBoard and the other writers."""
        with parallel.together(), self.saving("the metrics"):
            for writer in self.writers:
                writer.write(rows)
            # Last: its number of rows tells the next process what the writers have.
            storage.replace_text(self.folder.metrics_file, "".join(json.dumps(row) + "\n" for row in rows))
            self._publish()

    @contextlib.contextmanager
    def saving(self, what: str) -> Iterator[None]:
        """Turns the operating system's refusal to write into one line."""
        try:
            yield
        except OSError as error:
            refusal = storage.write_error(Path(str(error.filename or self.folder.path)), error)
            remedy = "checkpoints are intact: make room, then start the same command again"
            raise UserError(f"{what} cannot be saved: {refusal}; {remedy}") from None

    def write_result(self, progress: Progress, *, final: Row, best: Row, misclassified: dict[str, list[int]]) -> None:
        """Plots the learning curves and writes `result.json`.

        Args:
          progress: at the end of the run.
          final, best: the rows of the last and the best epoch, with the scores that are measured at the end only.
          misclassified: the indices of images that the final state misclassifies, by what it was evaluated on.
        """
        from digits_jax.runs.curves import plot_curves  # takes 0.6 s, which a start need not wait for

        selected_by, rows = score_key(self.config), progress.rows
        title = f"{self.name} on {self.dataset.name}, seed {self.config.seed}"
        scored = {
            split: len(self.dataset.split(split)[1]) for split in ("validation", "test") if split in misclassified
        }
        result: dict[str, Any] = {"selected_by": selected_by, "scored": scored}
        for split in scored:
            result[f"{split}_errors"] = misclassified[split]
            wrong = np.isin(np.arange(scored[split]), misclassified[split])
            for group, images in self.dataset.groups(split).items():
                final = {**final, f"{split}_{group}/accuracy": 1 - float(wrong[images].mean())}
        result |= {"final": final, "best": best, "epochs": rows}
        result["state_sha256"] = state_hash(progress.state)
        with parallel.together(), self.saving("the result"):
            plot_curves(rows, best_epoch=best["epoch"], selected_by=selected_by, title=title, path=self.folder.curves)
            self.result = write_result(self.folder, {**describe_run(self.config, self.dataset), **result})
            self._publish()

    def write_divergence(self, step: int, reason: str) -> None:
        """Writes `diverged.json`: the step of the checkpoint that training diverged from, and how."""
        with contextlib.suppress(OSError, UserError):  # such as a full disk: the divergence is the error to report
            storage.replace_text(self.folder.divergence_file, json.dumps({"step": step, "reason": reason}) + "\n")
            self._publish()

    def _publish(self) -> None:
        if self._mirror:
            self._mirror.push()

    def close(self) -> None:
        """Closes checkpoints and writers, and unlocks the directory."""
        self.folder.close()
        for writer in self.writers:
            writer.close()
