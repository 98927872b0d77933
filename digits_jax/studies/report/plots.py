"""The plots of a report."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from digits_jax.runs.curves import scale_accuracies, scale_losses
from digits_jax.studies.report.statistics import Comparison
from digits_jax.studies.report.study import Scale, Study, scale_of

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")  # Okabe & Ito 2008
_STYLES = ("-", "--", ":")  # of the lines, once the colors are used up


def plot_differences(comparisons: dict[str, Comparison], scale: Scale, baseline: str) -> Figure:
    """Draws a forest plot: the difference of each variant with its confidence interval."""
    figure = Figure(figsize=(8, min(0.5 * len(comparisons) + 1.1, 400)), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for row, comparison in enumerate(comparisons.values()):
        difference = comparison.difference
        color = _COLORS[0] if comparison.resolved else "#777777"
        axes.plot(scale.factor * difference.mean, row, "o", color=color)
        if difference.n > 1:
            axes.hlines(row, scale.factor * difference.low, scale.factor * difference.high, color=color, linewidth=2)
    axes.set_yticks(range(len(comparisons)), [_plain(name) for name in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    unit = scale.difference_unit.strip()
    label = f"{scale.name} of the final epoch, minus that of {_plain(baseline)} ({unit})"
    axes.set_xlabel(textwrap.fill(label, 70))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(axis="x", alpha=0.3)
    return figure


def plot_curves(study: Study, metric: str) -> Figure:
    """Draws the mean of each variant by epoch, in a band from its lowest to its highest seed."""
    scale = scale_of(metric)
    figure = Figure(figsize=(9.5, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    shown: list[float] = []
    for index, variant in enumerate(study.variants):
        length = min(len(result["epochs"]) for result in variant.results)
        values = np.array([[row[metric] for row in r["epochs"][:length]] for r in variant.results])
        shown += values.ravel().tolist()
        turn, place = divmod(index, len(_COLORS))
        epochs, color, style = range(1, length + 1), _COLORS[place], _STYLES[turn % len(_STYLES)]
        axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
        axes.plot(epochs, values.mean(0), style, color=color, marker="o", markersize=3.5, label=_plain(variant.name))
    format_curves(axes, scale.name, shown)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure


def format_curves(axes: Axes, name: str, values: Sequence[float]) -> None:
    """Formats axes with a metric by epoch; accuracies have a logit scale, losses a log scale."""
    if name.endswith("accuracy"):
        scale_accuracies(axes, list(values))
    if name.endswith("loss"):
        scale_losses(axes)
    axes.set_ylabel(name + (" (nats)" if name.endswith("loss") else ""))
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)


def _plain(name: str) -> str:
    """Returns a name that matplotlib does not read as a formula."""
    return name.replace("$", r"\$")
