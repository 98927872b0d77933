"""Terminal output of training: the parameter table, a progress bar, one line per epoch, a summary."""

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Column, Table

import digits_jax.evaluate
from digits_jax import parallel
from digits_jax.cli import console, duration, percent, warn
from digits_jax.data import GROUPS
from digits_jax.experiment import Experiment
from digits_jax.metrics import Metrics
from digits_jax.runs.checkpoint import Progress
from digits_jax.runs.history import Row

if TYPE_CHECKING:
    from digits_jax.runs.run import Run

PLAIN: dict[str, Any] = {"box": None, "pad_edge": False, "header_style": "bold"}  # tables without lines


def announce(
    experiment: Experiment, progress: Mapping["Run", Progress], *, is_first: bool, notes: Sequence[str] = ()
) -> None:
    """Prints the model and the data, where `is_first`, where each run is resumed from, and notes about all."""
    if is_first:
        run = next(iter(progress))
        held_out = len(run.dataset.validation_labels)
        console.print(
            f"{run.name} on {run.dataset.name}: {experiment.pipeline.num_examples:,} training images, "
            + (f"{held_out:,} held out to select the best epoch, " if held_out else "")
            + f"{len(run.dataset.arrays.test_labels):,} test images, on {jax.devices()[0].device_kind}\n"
        )
        show_parameters(experiment.model, run.dataset.image_shape)
        uneven = parallel.describe_uneven_batch(run.config.batch_size, parallel.create_mesh(len(progress)))
        if uneven and parallel.is_first():
            warn(uneven)
    for run, done in progress.items():
        status = f"; resuming from step {done.step:,} ({len(done.rows)} epochs done)" if done.step else ""
        if run.is_finished(done.rows):
            status = "; finished, nothing is left to train"
        console.print(f"seed {run.config.seed} in {run.path}{status}")
        for warning in run.warnings:
            warn(warning)
    for note in dict.fromkeys(notes):
        console.print(note)
    if len(progress) > 1:
        console.print(f"{len(progress)} seeds in one program; below are their means")
    cells = [f"{_loss_name(prefix)}  accuracy" for prefix in ("train", *experiment.after_each_epoch)]
    console.print("  ".join([f"{'epoch':>7}", f"{'rate':>6}", *cells, "seconds", "images/s"]), style="bold")
    for rows in zip(*(done.rows for done in progress.values()), strict=False):
        show_epoch(experiment, rows)


def show_parameters(model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """Prints a table of the layers: output shape of one image, number of parameters."""
    if console.quiet:
        return
    outputs: dict[str, tuple[int, ...]] = {}

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result = call(*args, **kwargs)
        if context.module.path and context.method_name == "__call__":
            outputs["/".join(context.module.path)] = result.shape[1:]
        return result

    with nn.intercept_methods(record):
        variables = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, *image_shape)), train=False))
    sizes = {path: sum(array.size for array in jax.tree.leaves(layer)) for path, layer in variables["params"].items()}

    table = Table("layer", "output", Column("parameters", justify="right"), **PLAIN)
    for path, shape in outputs.items():
        if path in sizes:
            table.add_row(path, "x".join(map(str, shape)), f"{sizes[path]:,}")
    table.add_row("total", "", f"{sum(sizes.values()):,}", style="bold")
    console.print(table)
    console.print()


def show_epoch(experiment: Experiment, rows: Sequence[Row]) -> None:
    """Prints one line for a finished epoch; the means of several seeds."""
    row = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    speed = experiment.pipeline.num_examples / max(row["train/seconds"], 1e-3)  # seconds are rounded to milliseconds
    cells = [f"{rows[0]['epoch']}/{sum(experiment.config.epochs)}".rjust(7), f"{row['train/learning_rate']:6.4g}"]
    cells += [
        f"{row[f'{prefix}/loss']:{len(_loss_name(prefix))}.4f}  {percent(row[f'{prefix}/accuracy']):>8}"
        for prefix in (key.removesuffix("/loss") for key in row if key.endswith("/loss"))
    ]
    console.print("  ".join([*cells, f"{row['train/seconds']:7.1f}", f"{speed:8,.0f}"]))


def _loss_name(prefix: str) -> str:
    return f"{prefix.replace('_', ' ').replace('validation', 'val')} loss"


def show_results(finished: Sequence["Run"]) -> None:
    """Prints the final and the best epoch, and what selected the best one; of several seeds, as a table."""
    results = [run.result for run in finished if run.result]
    selected_by = results[0]["selected_by"].removesuffix("/accuracy")
    best = f"best on the {selected_by} {'set' if selected_by == 'test' else 'images'}"
    console.print()
    names = {"final": "final", "best": best}
    if len(results) == 1:
        for key, name in names.items():
            row = results[0][key]
            scores = [f"{_accuracy_name(metric)} {percent(row[metric])}" for metric in _scores(row)]
            console.print(f"{name:27}  {'  '.join(scores)}  (epoch {row['epoch']})")
        groups = {metric: results[0]["final"][metric] for metric in results[0]["final"] if _is_of_group(metric)}
        if groups:
            scores = [f"{_accuracy_name(metric)} {percent(accuracy)}" for metric, accuracy in groups.items()]
            console.print(f"{'final, by writers':27}  {'  '.join(scores)}")
    else:
        table = Table("seed", **PLAIN)
        columns = [(key, metric) for key in names for metric in _scores(results[0][key])]
        for key, metric in columns:
            table.add_column(f"{_accuracy_name(metric)}, {names[key]}", justify="right")
        for result in results:
            table.add_row(str(result["config"]["seed"]), *(percent(result[key][metric]) for key, metric in columns))
        values = [[result[key][metric] for result in results] for key, metric in columns]
        table.add_row("mean", *(percent(statistics.mean(column)) for column in values), style="bold")
        table.add_row("standard deviation", *(percent(statistics.stdev(column)) for column in values))
        console.print(table)
    seconds = sum(row["train/seconds"] for result in results for row in result["epochs"])
    workdirs = ", ".join(run.path for run in finished)
    console.print(f"trained in {duration(seconds)}; everything is in {workdirs}")


def _scores(row: Row) -> list[str]:
    accuracies = [metric for metric in row if metric.endswith("/accuracy") and not metric.startswith("train/")]
    return [metric for metric in accuracies if not _is_of_group(metric)]


def _is_of_group(metric: str) -> bool:
    return metric.removesuffix("/accuracy").rpartition("_")[2] in GROUPS


def _accuracy_name(metric: str) -> str:
    return f"{metric.removesuffix('/accuracy').replace('_', ' ')} accuracy"


@contextmanager
def progress_bar(epoch: int, num_epochs: int, *, total: int) -> Iterator[Callable[..., None]]:
    """Shows a bar over one epoch, from 1, of `total` images, only on a terminal; it disappears on exit.

    Yields:
      A function that moves it. It takes the epoch's metrics so far, and the `seconds` that they took.
    """
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[status]}"))
    with RichProgress(*columns, console=console, transient=True, disable=not _is_live()) as progress:
        task = progress.add_task(f"epoch {epoch}/{num_epochs}", total=total, status="")

        def bar(metrics: Metrics, *, seconds: float) -> None:
            count = int(metrics.count)
            if count == 0:
                return
            loss, accuracy, *_ = metrics.compute("train").values()
            speed, remaining = count / seconds, total * (num_epochs - epoch + 1) - count
            status = f"loss {loss:.4f}  accuracy {percent(accuracy)}  {speed:,.0f} images/s"
            progress.update(task, completed=count, status=f"{status}  {duration(remaining / speed)} left")

        yield bar


@contextmanager
def status(text: str) -> Iterator[None]:
    """Shows what is being done, such as compiling, only on a terminal."""
    with console.status(text) if _is_live() else nullcontext():
        yield


evaluate = status("evaluating")(digits_jax.evaluate.evaluate)  # as that, and shows it


def _is_live() -> bool:
    return console.is_terminal and not console.quiet
