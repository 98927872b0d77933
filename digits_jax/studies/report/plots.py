"""The figures of a report."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from digits_jax.runs.curves import scale_accuracies, scale_losses
from digits_jax.studies.report.statistics import Comparison
from digits_jax.studies.report.study import Scale, Study, scale_of

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")  # Okabe & Ito 2008
_STYLES = ("-", "--", ":")  # of the lines, once the colours are used up


def plot_differences(comparisons: dict[str, Comparison], scale: Scale, baseline: str) -> Figure:
    """A forest plot: each variant's difference with its interval."""
    figure = Figure(figsize=(8, 0.5 * len(comparisons) + 1.1), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for row, comparison in enumerate(comparisons.values()):
        difference = comparison.difference
        colour = _COLOURS[0] if comparison.resolved else "#777777"
        axes.plot(scale.factor * difference.mean, row, "o", color=colour)
        if difference.n > 1:
            axes.hlines(row, scale.factor * difference.low, scale.factor * difference.high, color=colour, linewidth=2)
    axes.set_yticks(range(len(comparisons)), list(comparisons))
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.set_xlabel(f"{scale.name} of the final epoch, minus that of {baseline} ({scale.difference_unit.strip()})")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(axis="x", alpha=0.3)
    return figure


def plot_curves(study: Study, metric: str) -> Figure:
    """Each variant's mean by epoch, in a band from its lowest to its highest seed; accuracies on a logit scale."""
    scale = scale_of(metric)
    figure = Figure(figsize=(9.5, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    shown: list[float] = []
    for index, variant in enumerate(study.variants):
        length = min(len(result["epochs"]) for result in variant.results)
        values = np.array([[row[metric] for row in r["epochs"][:length]] for r in variant.results])
        shown += values.ravel().tolist()
        turn, place = divmod(index, len(_COLOURS))
        epochs, colour, style = range(1, length + 1), _COLOURS[place], _STYLES[turn % len(_STYLES)]
        axes.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0)
        axes.plot(epochs, values.mean(0), style, color=colour, marker="o", markersize=3.5, label=variant.name)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    if metric.endswith("/accuracy"):
        scale_accuracies(axes, shown)
    if metric.endswith("/loss"):
        scale_losses(axes)
    axes.set_ylabel(scale.name + (" (nats)" if metric.endswith("/loss") else ""))
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, loc="outside right upper")
    return figure
