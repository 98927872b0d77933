"""A run's learning curves as a plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator, NullLocator

# Colors that color-blind readers can tell apart (Okabe & Ito 2008).
_CURVES = {
    "train": ("#999999", "training images"),
    "test": ("#0072B2", "test images"),
    "validation": ("#009E73", "held-out training images"),
    "test_augmented": ("#D55E00", "test images, augmented"),
    "test_stream": ("#CC79A7", "stream of test images"),
}
# Ticks for a wide and for a narrow range of values; those of the loss are factors of powers of ten.
_ACCURACY_TICKS = (
    [0.1, 0.2, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999],
    [*(percent / 100 for percent in range(2, 100, 2)), 0.99, *(permille / 1000 for permille in range(991, 1000))],
)
_LOSS_TICKS = ((2, 3, 5), (1.5, 2, 2.5, 3, 4, 5, 6, 8))


def plot_curves(rows: list[dict[str, Any]], *, best_epoch: int, selected_by: str, title: str, path: Path) -> None:
    """Saves loss and accuracy by epoch as a PNG; marks changes of the learning rate and the best epoch.

    Args:
      rows: as in `metrics.jsonl`, at least one.
      selected_by: the metric that selected the best epoch.
    """
    figure = Figure(figsize=(10, 4.2), dpi=150, layout="constrained")
    figure.suptitle(title)
    epochs = [row["epoch"] for row in rows]
    prefixes = [key.removesuffix("/loss") for key in rows[0] if key.endswith("/loss")]
    selected = selected_by.removesuffix("/accuracy")
    for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for prefix in prefixes:
            values, (color, label) = [row[f"{prefix}/{metric}"] for row in rows], _CURVES[prefix]
            axes.plot(epochs, values, color=color, marker="o", markersize=3.5, label=label)
        best, (color, label) = rows[best_epoch - 1][f"{selected}/{metric}"], _CURVES[selected]
        star = {"marker": "*", "markersize": 15, "markeredgecolor": "white", "linestyle": "none", "zorder": 3}
        axes.plot(best_epoch, best, color=color, label=f"best on the {label}", **star)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        _mark_learning_rates(axes, rows)
    loss_axes, accuracy_axes = figure.axes
    scale_losses(loss_axes)
    loss_axes.set_ylabel("cross-entropy (nats)")
    accuracy_axes.set_ylabel("accuracy")
    scale_accuracies(accuracy_axes, [row[f"{prefix}/accuracy"] for prefix in prefixes for row in rows])
    accuracy_axes.legend(loc="lower right", fontsize=8, framealpha=0.9)
    figure.savefig(path)


def scale_losses(axes: Any) -> None:
    """Makes the vertical axis logarithmic, with readable ticks."""
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    low, high = axes.get_ylim()
    axes.yaxis.set_minor_locator(LogLocator(subs=_LOSS_TICKS[int(high < 5 * low)]))
    axes.yaxis.set_minor_formatter("{x:g}")


def scale_accuracies(axes: Any, values: Sequence[float]) -> None:
    """Makes the vertical axis logit, with ticks in percent around the accuracies that it shows.

    99% and 99.5% are then as far apart as 90% and 95%, and one bad epoch does not flatten the others.
    """
    low, high = (min(max(value, 0.01), 0.9999) for value in (min(values), max(values)))
    low, high = low - 0.2 * min(low, 1 - low), high + 0.2 * (1 - high)
    axes.set_ylim(low, high)  # before the scale, which could not choose limits where all values are 0 or 1
    axes.set_yscale("logit", nonpositive="clip")
    wide, narrow = ([tick for tick in ticks if low <= tick <= high] for ticks in _ACCURACY_TICKS)
    axes.yaxis.set_major_locator(FixedLocator(wide if len(wide) >= 3 else narrow))
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
    axes.yaxis.set_minor_locator(NullLocator())


def _mark_learning_rates(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Marks where the learning rate changes, and prints the rate above each part."""
    rates = [row["train/learning_rate"] for row in rows]
    above = {"y": 1.01, "transform": axes.get_xaxis_transform(), "fontsize": 7}
    axes.text(1.45, s=f"rate {rates[0]:.4g}", ha="right", **above)
    for i in range(1, len(rates)):
        if rates[i] != rates[i - 1]:
            axes.axvline(i + 0.5, color="black", linewidth=0.8, linestyle=":")
            axes.text(i + 0.6, s=f"{rates[i]:.4g}", **above)
    axes.set_xlim(0.5, len(rows) + 0.5)
