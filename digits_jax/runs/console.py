"""What a person sees on the terminal: the parameter table, a progress bar, one line per epoch, a summary."""

import statistics
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from digits_jax.metrics import Metrics

console = Console(highlight=False, soft_wrap=True)


def show_layers(model: nn.Module, image_shape: tuple[int, ...]) -> None:
    """A table of the layers in the order they are called: output shape of one image, number of parameters."""
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

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer")
    table.add_column("output")
    table.add_column("parameters", justify="right")
    for path, shape in outputs.items():
        if path in sizes:
            table.add_row(path, "x".join(map(str, shape)), f"{sizes[path]:,}")
    table.add_row("total", "", f"{sum(sizes.values()):,}", style="bold")
    console.print(table)
    console.print()


def show_header(prefixes: list[str]) -> None:
    """The names of the columns of `show_epoch`, with a loss and an accuracy for each prefix of metrics."""
    cells = [f"{'epoch':>7}", f"{'rate':>6}"]
    cells += [f"{_loss_name(prefix)}  accuracy" for prefix in prefixes]
    console.print("  ".join([*cells, "seconds", "images/s"]), style="bold")


def show_epoch(row: dict[str, Any], *, num_epochs: int, images_per_second: float) -> None:
    """One line for a finished epoch."""
    cells = [f"{row['epoch']}/{num_epochs}".rjust(7), f"{row['train/learning_rate']:6.4g}"]
    cells += [
        f"{row[f'{prefix}/loss']:{len(_loss_name(prefix))}.4f}  {percent(row[f'{prefix}/accuracy']):>8}"
        for prefix in (key.removesuffix("/loss") for key in row if key.endswith("/loss"))
    ]
    console.print("  ".join([*cells, f"{row['train/seconds']:7.1f}", f"{images_per_second:8,.0f}"]))


def _loss_name(prefix: str) -> str:
    return f"{prefix.replace('_', ' ')} loss"


def show_results(results: Sequence[dict[str, Any]], workdirs: Sequence[str]) -> None:
    """The final and the best epoch, and by which images the best one was selected; of several seeds, as a table.

    Args:
      results: as in `result.json`, one per seed.
      workdirs: where the rest is.
    """
    selected_by = results[0]["selected_by"].removesuffix("/accuracy")
    best = f"best on the {selected_by} {'set' if selected_by == 'test' else 'images'}"
    console.print()
    if len(results) == 1:
        for key, name in (("final", "final"), ("best", best)):
            row = results[0][key]
            scores = [f"{_accuracy_name(metric)} {percent(row[metric])}" for metric in _scores(row)]
            console.print(f"{name:27}  {'  '.join(scores)}  (epoch {row['epoch']})")
    else:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("seed")
        columns = [(key, metric) for key in ("final", "best") for metric in _scores(results[0][key])]
        for key, metric in columns:
            table.add_column(f"{_accuracy_name(metric)}, {'final' if key == 'final' else best}", justify="right")
        for result in results:
            table.add_row(str(result["config"]["seed"]), *(percent(result[key][metric]) for key, metric in columns))
        of_all = [[result[key][metric] for result in results] for key, metric in columns]
        table.add_row("mean", *(percent(statistics.mean(values)) for values in of_all), style="bold")
        table.add_row("standard deviation", *(percent(statistics.stdev(values)) for values in of_all))
        console.print(table)
    seconds = sum(row["train/seconds"] for result in results for row in result["epochs"])
    console.print(f"trained in {duration(seconds)}; everything is in {', '.join(workdirs)}")


def _scores(row: dict[str, Any]) -> list[str]:
    return [metric for metric in row if metric.endswith("/accuracy") and not metric.startswith("train/")]


def _accuracy_name(metric: str) -> str:
    return f"{metric.removesuffix('/accuracy').replace('_', ' ')} accuracy"


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f} %"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Bar(Protocol):
    """Moves the progress bar; see `progress_bar`."""

    def __call__(self, metrics: Metrics, *, seconds: float) -> None: ...


@contextmanager
def progress_bar(label: str, *, total: int, remaining: int) -> Iterator[Bar]:
    """A bar over one epoch that is gone when left; only on a terminal.

    Args:
      label: what stands before it.
      total: images in the epoch.
      remaining: images from the epoch's start to the end of the run.

    Yields:
      A function that takes the epoch's metrics so far and the seconds they took.
    """
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TextColumn("{task.fields[status]}"))
    with Progress(*columns, console=console, transient=True, disable=not _is_live()) as progress:
        task = progress.add_task(label, total=total, status="")

        def bar(metrics: Metrics, *, seconds: float) -> None:
            count = int(metrics.count)
            if count == 0:
                return
            means = metrics.compute("train")
            speed = count / seconds
            progress.update(
                task,
                completed=count,
                status=f"loss {means['train/loss']:.4f}  accuracy {percent(means['train/accuracy'])}  "
                f"{speed:,.0f} images/s  {duration((remaining - count) / speed)} left",
            )

        yield bar


def compiling() -> AbstractContextManager[object]:
    """Says so while entered; only on a terminal."""
    return console.status("compiling") if _is_live() else nullcontext()


def _is_live() -> bool:
    return console.is_terminal and not console.quiet


@contextmanager
def quiet() -> Iterator[None]:
    """Prints nothing while entered: a study shows many runs in its own way."""
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = False


def warn(text: str) -> None:
    """One line on standard error, also where `quiet` holds."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {text}", markup=False)
