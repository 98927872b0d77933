"""The effects: builds everything, loops over epochs, evaluates, writes, saves."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import console, datasets, input_pipeline, models, optimizer
from digits_jax.checkpoint import Checkpoints, Progress
from digits_jax.config import resolve, validate
from digits_jax.interrupts import Interrupted, StopRequest
from digits_jax.metrics import Metrics, write_jsonl
from digits_jax.train_step import (
    EvalSteps,
    Examples,
    Keys,
    TrainState,
    TrainSteps,
    create_keys,
    create_train_state,
    make_eval_steps,
    make_train_steps,
)
from digits_jax.workdir import Workdir


class Experiment(NamedTuple):
    """What a resolved config and its data become."""

    config: FrozenConfigDict
    model: nn.Module
    keys: Keys
    train: Examples
    test: Examples
    schedule: optax.Schedule
    steps_per_epoch: int
    num_epochs: int
    train_steps: TrainSteps
    eval_steps: EvalSteps
    initial_state: TrainState


def build(config: FrozenConfigDict, dataset: datasets.Dataset) -> Experiment:
    """Puts the data on the device and compiles nothing yet."""
    arrays = dataset.arrays
    model = models.create_model(config.model, dataset.num_classes)
    epoch_steps = optimizer.steps_per_epoch(len(arrays.train_labels), config.batch_size)
    tx = optimizer.create_optimizer(config, epoch_steps)
    keys = create_keys(config.seed)
    return Experiment(
        config=config,
        model=model,
        keys=keys,
        train=Examples(jnp.asarray(arrays.train_images), jnp.asarray(arrays.train_labels, jnp.int32)),
        test=Examples(jnp.asarray(arrays.test_images), jnp.asarray(arrays.test_labels, jnp.int32)),
        schedule=optimizer.create_schedule(config, epoch_steps),
        steps_per_epoch=epoch_steps,
        num_epochs=sum(config.epochs),
        train_steps=make_train_steps(model=model, tx=tx, dropout_key=keys.dropout),
        eval_steps=make_eval_steps(model=model, batch_size=config.eval_batch_size),
        initial_state=create_train_state(model, tx, init_key=keys.init, image_shape=dataset.image_shape),
    )


def train_and_evaluate(
    config: ConfigDict | FrozenConfigDict, workdir: Path, *, dataset: datasets.Dataset | None = None
) -> list[dict[str, Any]]:
    """Trains a config to its end, going on from the workdir's latest checkpoint where there is one.

    Args:
      config: fields as in `configs/default.py`.
      workdir: the run's folder; made where it is missing.
      dataset: its data where they are already loaded.

    Returns:
      One row of metrics per epoch, as in `metrics.jsonl`.

    Raises:
      UserError: the config, the data or the workdir is not usable.
      Interrupted: Ctrl-C; everything is saved.
    """
    validate(config)
    dataset = dataset or datasets.load(config.dataset)
    config = resolve(config, dataset)
    folder = Workdir(Path(workdir))
    folder.open(config, dataset)
    experiment = build(config, dataset)
    checkpoints = Checkpoints(folder.checkpoints)
    # A new run's first chunk would otherwise donate the initial state that `restore_latest` needs the shapes of.
    start = Progress(state=experiment.initial_state, metrics=Metrics.zero(), seconds=0.0, rows=[])
    progress = checkpoints.restore_latest(start) or start
    _announce(experiment, dataset, progress, folder)
    with StopRequest() as stop:
        while len(progress.rows) < experiment.num_epochs:
            progress = _train_epoch(experiment, progress, stop)
            if int(progress.metrics.count) < len(experiment.train.labels):
                checkpoints.save(progress, score=None)
                raise Interrupted
            progress = _finish_epoch(experiment, progress)
            checkpoints.save(progress, score=progress.rows[-1]["test/accuracy"])
            write_jsonl(folder.metrics_file, progress.rows)
    # Once more, in case an earlier process ended between the last checkpoint and its row.
    write_jsonl(folder.metrics_file, progress.rows)
    checkpoints.close()
    console.show_summary(progress.rows, best_row(progress.rows), folder.path)
    return progress.rows


def best_row(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The first epoch with the highest test accuracy."""
    return max(rows, key=lambda row: row["test/accuracy"])


def _train_epoch(experiment: Experiment, progress: Progress, stop: StopRequest) -> Progress:
    """The rest of the epoch that `progress` is in, or the part of it until a stop is requested."""
    config, state, metrics = experiment.config, progress.state, progress.metrics
    epoch = len(progress.rows)
    num_examples = len(experiment.train.labels)
    batches = input_pipeline.epoch_batches(
        experiment.keys.order, epoch, num_examples=num_examples, batch_size=config.batch_size
    )
    first_step = int(state.step) - epoch * experiment.steps_per_epoch
    # A call of no steps only compiles, so that the clock measures training.
    with console.compiling():
        for part in batches:
            state, metrics = experiment.train_steps(state, metrics, experiment.train, part, 0, 0)
    begin = time.perf_counter() - progress.seconds
    label = f"epoch {epoch + 1}/{experiment.num_epochs}"
    with console.progress_bar(
        label, total=num_examples, remaining=num_examples * (experiment.num_epochs - epoch)
    ) as bar:
        for call in input_pipeline.calls(batches, first_step=first_step, steps_per_call=config.steps_per_call):
            if stop.requested:
                break
            previous = metrics
            state, metrics = experiment.train_steps(state, metrics, experiment.train, *call)
            # Waits for the call before this one, while this one runs: never more than two are under way.
            bar(jax.device_get(previous), seconds=time.perf_counter() - begin)
        jax.block_until_ready(metrics)
    return progress._replace(state=state, metrics=metrics, seconds=time.perf_counter() - begin)


def _finish_epoch(experiment: Experiment, progress: Progress) -> Progress:
    """Evaluates, adds the epoch's row and starts the next epoch's sums."""
    state = progress.state
    test = experiment.eval_steps(state.params, state.batch_stats, experiment.test)
    row = {
        "epoch": len(progress.rows) + 1,
        "step": int(state.step),
        "learning_rate": float(experiment.schedule(state.step - 1)),
        **progress.metrics.compute("train"),
        **test.compute("test"),
        "seconds": round(progress.seconds, 3),
    }
    speed = len(experiment.train.labels) / progress.seconds
    console.show_epoch(row, num_epochs=experiment.num_epochs, images_per_second=speed)
    return Progress(state=state, metrics=Metrics.zero(), seconds=0.0, rows=[*progress.rows, row])


def _announce(experiment: Experiment, dataset: datasets.Dataset, progress: Progress, folder: Workdir) -> None:
    device = jax.devices()[0]
    console.console.print(
        f"{experiment.config.model.name} on {dataset.name}: {len(experiment.train.labels):,} images to train on, "
        f"{len(experiment.test.labels):,} to test, on {device.device_kind}; run in {folder.path}\n"
    )
    console.show_layers(experiment.model, dataset.image_shape)
    if int(progress.state.step):
        console.console.print(f"going on from step {int(progress.state.step):,} ({len(progress.rows)} epochs done)")
    console.show_header()
    for row in progress.rows:
        speed = len(experiment.train.labels) / row["seconds"]
        console.show_epoch(row, num_epochs=experiment.num_epochs, images_per_second=speed)
