"""The plots of a report."""

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from digits_jax.runs.curves import scale_accuracies, scale_losses
from digits_jax.studies.report.statistics import Comparison
from digits_jax.studies.report.study import Scale, Study, scale_of

_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe & Ito 2008
_UNRESOLVED = "#777777"
_PANELS = 4  # in a row


def plot_differences(comparisons: dict[str, Comparison], scale: Scale, baseline: str) -> Figure:
    """Draws a forest plot: the difference of each variant with its confidence intervals."""
    figure = Figure(figsize=(8, min(0.5 * len(comparisons) + 1.4, 400)), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for row, comparison in enumerate(comparisons.values()):
        color = _COLORS[0] if comparison.resolved else _UNRESOLVED
        for difference, width in ((comparison.over_seeds, 4), (comparison.over_images, 1.2)):
            if difference and difference.n > 1:
                low, high = scale.factor * difference.low, scale.factor * difference.high
                axes.hlines(row, low, high, color=color, linewidth=width)
        axes.plot(scale.factor * comparison.over_seeds.mean, row, "o", color=color)
    found = [comparison.resolved for comparison in comparisons.values()]
    handles = [
        Line2D([], [], color=color, marker="o", linewidth=2, label=label)
        for color, label, shown in (
            (_COLORS[0], "differs from zero", any(found)),
            (_UNRESOLVED, "not distinguishable", not all(found)),
        )
        if shown
    ]
    if any(comparison.over_images for comparison in comparisons.values()):
        handles += [
            Line2D([], [], color="black", linewidth=width, label=label)
            for width, label in ((4, "over seeds"), (1.2, "over seeds and images"))
        ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), fontsize=8, frameon=False)
    axes.set_yticks(range(len(comparisons)), [_plain(name) for name in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    unit = scale.difference_unit.strip()
    label = f"{scale.name} of the final epoch, minus that of {_plain(baseline)}"
    label += f" ({unit})" * (unit not in scale.name)
    axes.set_xlabel(textwrap.fill(label, 70))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.grid(axis="x", alpha=0.3)
    return figure


def plot_curves(study: Study, metric: str) -> Figure:
    """Draws the mean of each variant by epoch, in a band from its lowest to its highest seed.

    More than six variants have a panel each, with the baseline in gray.
    """
    curves = {}
    for variant in study.variants:
        length = min(len(result["epochs"]) for result in variant.results)
        curves[variant.name] = np.array([[row[metric] for row in r["epochs"][:length]] for r in variant.results])
    name, shown = scale_of(metric).name, [value for values in curves.values() for value in values.ravel().tolist()]
    if len(curves) <= len(_COLORS):
        figure = Figure(figsize=(9.5, 4.2), dpi=150, layout="constrained")
        axes = figure.subplots()
        for (label, values), color in zip(curves.items(), _COLORS, strict=False):
            _plot_band(axes, values, color, _plain(label))
        format_curves(axes, name, shown)
        figure.legend(fontsize=8, loc="outside right upper")
        return figure
    baseline, *others = curves.items()
    rows = -(-len(others) // _PANELS)
    figure = Figure(figsize=(11, min(2.4 * rows + 0.4, 400)), dpi=120, layout="constrained")
    panels = figure.subplots(rows, _PANELS, sharex=True, sharey=True, squeeze=False).ravel()
    for axes, (label, values) in zip(panels, others, strict=False):
        _plot_band(axes, baseline[1], _UNRESOLVED, _plain(baseline[0]))
        _plot_band(axes, values, _COLORS[0], _plain(label))
        format_curves(axes, name, shown)
        axes.set_title(textwrap.shorten(_plain(label), 40), fontsize=9)
        axes.label_outer()
    for axes in panels[len(others) :]:
        axes.set_axis_off()
    gray = Line2D([], [], color=_UNRESOLVED, marker="o", markersize=3.5, label=_plain(baseline[0]))
    figure.legend(handles=[gray], fontsize=8, loc="outside upper right", frameon=False)
    return figure


def _plot_band(axes: Axes, values: np.ndarray, color: str, label: str) -> None:
    """Draws values `[seeds, epochs]`."""
    epochs = range(1, values.shape[1] + 1)
    axes.fill_between(epochs, values.min(0), values.max(0), color=color, alpha=0.15, linewidth=0)
    axes.plot(epochs, values.mean(0), color=color, marker="o", markersize=3.5, label=label)


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
