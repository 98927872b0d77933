"""The effects: loops over epochs, evaluates, writes, saves."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import console, datasets, input_pipeline
from digits_jax.checkpoint import Checkpoints, Progress
from digits_jax.config import config_hash, resolve, validate
from digits_jax.errors import UserError
from digits_jax.experiment import Evaluations, Experiment, build
from digits_jax.interrupts import Interrupted, StopRequest
from digits_jax.metrics import Metrics
from digits_jax.profiling import StepProfiler
from digits_jax.train_step import TrainState, create_keys
from digits_jax.workdir import Workdir
from digits_jax.writers import JsonlWriter, TensorBoardWriter, WandbWriter, Writer

Row = dict[str, Any]


def train_and_evaluate(
    config: ConfigDict | FrozenConfigDict,
    workdir: Path,
    *,
    name: str | None = None,
    dataset: datasets.Dataset | None = None,
    writers: Sequence[Writer] = (),
    wandb_project: str | None = None,
    profile_steps: int = 0,
) -> list[Row]:
    """Trains a config to its end, going on from the workdir's latest checkpoint where there is one.

    Args:
      config: fields as in `configs/default.py`.
      workdir: the run's folder; made where it is missing.
      name: what to call the experiment on the terminal and in plots; else the model's name.
      dataset: its data where they are already loaded.
      writers: of the rows, besides those of the workdir.
      wandb_project: of Weights & Biases, to log to as well.
      profile_steps: how many of the first steps to trace with `jax.profiler`, into `workdir/profile`.

    Returns:
      One row of metrics per epoch, as in `metrics.jsonl`.

    Raises:
      UserError: the config, the data or the workdir is not usable.
      Interrupted: Ctrl-C; everything is saved.
    """
    validate(config)
    dataset = dataset or datasets.load(config.dataset)
    config = resolve(config, dataset)
    name = name or config.model.name
    folder = Workdir(Path(workdir))
    folder.open(config, dataset)
    experiment = build(config, dataset)
    checkpoints = Checkpoints(folder.checkpoints)
    start = Progress(state=experiment.initial_state, metrics=Metrics.zero(), seconds=0.0, rows=[])
    progress = checkpoints.restore(start) or start
    _announce(name, experiment, dataset, progress, folder)
    profiler = StepProfiler(folder.profile, steps=profile_steps)
    writers = [*_create_writers(name, config, folder, wandb_project), *writers]
    with StopRequest() as stop, contextlib.ExitStack() as at_exit:
        for close in (checkpoints.close, profiler.close, *(writer.close for writer in writers)):
            at_exit.callback(close)
        _write(writers, progress.rows)  # an earlier process may have ended between a checkpoint and its row
        while not _is_finished(experiment, progress.rows):
            progress = _train_epoch(experiment, progress, stop, profiler)
            if int(progress.metrics.count) < experiment.feed.num_examples:
                checkpoints.save(progress, score=None)
                raise Interrupted
            progress = _finish_epoch(experiment, progress)
            checkpoints.save(progress, score=progress.rows[-1][experiment.score_key])
            _write(writers, progress.rows)
        result = _final_result(experiment, progress, checkpoints)
    folder.write_result(config, dataset, result)
    from digits_jax.curves import plot_curves  # takes 0.6 s, which a start need not wait for

    plot_curves(
        progress.rows,
        best_epoch=result["best"]["epoch"],
        selected_by=result["selected_by"],
        title=f"{name} on {dataset.name}, seed {config.seed}",
        path=folder.curves,
    )
    console.show_result(result, progress.rows, folder.path)
    return progress.rows


def _create_writers(name: str, config: FrozenConfigDict, folder: Workdir, wandb_project: str | None) -> list[Writer]:
    writers: list[Writer] = [
        JsonlWriter(folder.metrics_file),
        TensorBoardWriter(folder.tensorboard, config.to_dict()),
    ]
    if wandb_project:
        writers.append(
            WandbWriter(
                project=wandb_project,
                run_id=config_hash(config),
                name=f"{name} {config_hash(config)}",
                config=config.to_dict(),
                folder=folder.path,
            )
        )
    return writers


def _write(writers: Sequence[Writer], rows: list[Row]) -> None:
    for writer in writers:
        try:
            writer.write(rows)
        except OSError as error:
            raise UserError(f"the metrics cannot be written ({error}); checkpoints are intact: make room") from None


def best_row(rows: list[Row], score_key: str) -> Row:
    """The first epoch with the highest score."""
    return max(rows, key=lambda row: row[score_key])


def _is_finished(experiment: Experiment, rows: list[Row]) -> bool:
    patience = experiment.config.early_stopping_epochs
    if rows and patience and len(rows) - best_row(rows, experiment.score_key)["epoch"] >= patience:
        return True
    return len(rows) == experiment.num_epochs


def _train_epoch(experiment: Experiment, progress: Progress, stop: StopRequest, profiler: StepProfiler) -> Progress:
    """The rest of the epoch that `progress` is in, or the part of it until a stop is requested."""
    state, metrics = progress.state, progress.metrics
    epoch = len(progress.rows)
    num_examples = experiment.feed.num_examples
    batches = input_pipeline.epoch_batches(
        create_keys(experiment.config.seed).order,
        epoch,
        num_examples=num_examples,
        batch_size=experiment.config.batch_size,
    )
    first_step = int(state.step) - epoch * experiment.steps_per_epoch
    # A call of no steps only compiles, so that the clock measures training.
    with console.compiling():
        for call in experiment.feed.empty_calls(batches):
            state, metrics = experiment.train_steps(state, metrics, *call)
    begin = time.perf_counter() - progress.seconds
    label = f"epoch {epoch + 1}/{experiment.num_epochs}"
    remaining = num_examples * (experiment.num_epochs - epoch)
    with console.progress_bar(label, total=num_examples, remaining=remaining) as bar:
        for call in experiment.feed.calls(batches, first_step=first_step):
            if stop.requested:
                break
            previous = metrics
            profiler.before_call()
            state, metrics = experiment.train_steps(state, metrics, *call)
            profiler.after_call(call.stop - call.start, metrics)
            # Waits for the call before this one, while this one runs: never more than two are under way.
            bar(jax.device_get(previous), seconds=time.perf_counter() - begin)
        jax.block_until_ready(metrics)
    return progress._replace(state=state, metrics=metrics, seconds=time.perf_counter() - begin)


def _finish_epoch(experiment: Experiment, progress: Progress) -> Progress:
    """Evaluates, adds the epoch's row and starts the next epoch's sums."""
    state = progress.state
    rate = float(experiment.schedule(state.step - 1))
    row = {
        "epoch": len(progress.rows) + 1,
        "step": int(state.step),
        "train/learning_rate": float(f"{rate:.6g}"),  # float32 would print 0.00999999
        **progress.metrics.compute("train"),
        **_evaluate(experiment.after_each_epoch, state),
        "train/seconds": round(progress.seconds, 3),
    }
    _show_epoch(experiment, row)
    return Progress(state=state, metrics=Metrics.zero(), seconds=0.0, rows=[*progress.rows, row])


def _evaluate(evaluations: Evaluations, state: TrainState) -> dict[str, float]:
    return {key: value for prefix, on in evaluations.items() for key, value in on(state)[0].compute(prefix).items()}


def _final_result(experiment: Experiment, progress: Progress, checkpoints: Checkpoints) -> dict[str, Any]:
    """All epochs' rows, the final and the best completed by what is scored at the end only, and the images missed."""
    final, best = progress.rows[-1], best_row(progress.rows, experiment.score_key)
    best_state = progress.state
    if experiment.at_the_end and best is not final:
        restored = checkpoints.restore(progress, step=best["step"])
        assert restored is not None
        best_state = restored.state
    _, wrong = (experiment.after_each_epoch | experiment.at_the_end)["test"](progress.state)
    return {
        "selected_by": experiment.score_key,
        "final": {**final, **_evaluate(experiment.at_the_end, progress.state)},
        "best": {**best, **_evaluate(experiment.at_the_end, best_state)},
        "epochs": progress.rows,
        "test_errors": np.flatnonzero(wrong).tolist(),
    }


def _show_epoch(experiment: Experiment, row: Row) -> None:
    speed = experiment.feed.num_examples / max(row["train/seconds"], 1e-3)  # seconds are rounded to milliseconds
    console.show_epoch(row, num_epochs=experiment.num_epochs, images_per_second=speed)


def _announce(
    name: str, experiment: Experiment, dataset: datasets.Dataset, progress: Progress, folder: Workdir
) -> None:
    held_out = len(dataset.validation_labels)
    console.console.print(
        f"{name} on {dataset.name}: {experiment.feed.num_examples:,} images to train on, "
        + (f"{held_out:,} of the training images held out to select the epoch, " if held_out else "")
        + f"{len(dataset.arrays.test_labels):,} to test, on {jax.devices()[0].device_kind}; run in {folder.path}\n"
    )
    console.show_layers(experiment.model, dataset.image_shape)
    if _is_finished(experiment, progress.rows):
        console.console.print("this run is finished; nothing is left to train")
    elif int(progress.state.step):
        console.console.print(f"going on from step {int(progress.state.step):,} ({len(progress.rows)} epochs done)")
    console.show_header(["train", *experiment.after_each_epoch])
    for row in progress.rows:
        _show_epoch(experiment, row)
