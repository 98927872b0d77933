"""Accuracies of configs, and published ones, against what their training costs."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from digits_jax.runs.curves import scale_accuracies
from digits_jax.studies.published import PUBLISHED, Published
from digits_jax.studies.report.statistics import Estimate

_LOWEST = 0.99  # accuracy that is shown
_FRONT, _BEHIND, _PUBLISHED = "#0072B2", "#777777", "#D55E00"  # Okabe & Ito 2008, and gray
_TEXT: dict[str, Any] = {"textcoords": "offset points", "fontsize": 8.5}
_SINGLE = [found for found in PUBLISHED if found.flops]


class Mark(NamedTuple):
    """A config in a plot."""

    name: str
    cost: float
    accuracy: Estimate  # over seeds and images


def plot_seconds(marks: Iterable[Mark]) -> Figure:
    """Draws mean final test accuracy against seconds of training; published accuracies as lines."""
    figure, axes = _plot(marks, "seconds of training on two CPU cores")
    for found in _SINGLE:
        axes.axhline(found.accuracy, color=_PUBLISHED, linewidth=0.9, linestyle="--")
        axes.text(
            0.01, found.accuracy, _label(found), color=_PUBLISHED, fontsize=8, va="bottom",
            transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    return figure


def plot_flops(marks: Iterable[Mark]) -> Figure:
    """Draws mean final test accuracy against TFLOP of training, of published networks too."""
    figure, axes = _plot(marks, "TFLOP of training")
    for found in _SINGLE:
        x = found.flops / 1e12 if found.flops else 0.0
        axes.plot(x, found.accuracy, "D", color=_PUBLISHED, markersize=5)
        highest = found.accuracy == max(other.accuracy for other in _SINGLE)
        place = {"ha": "right", "xytext": (6, 6)} if highest else {"ha": "left", "xytext": (5, 3)}
        text = _label(found).replace(", ", "\n", 1)
        axes.annotate(text, (x, found.accuracy), color=_PUBLISHED, va="bottom", **_TEXT, **place)
    return figure


def _label(found: Published) -> str:
    first, *others = found.who.split(",")
    return f"{first}{' et al.' * bool(others)}: {100 * found.accuracy:.2f}%, {found.short}"


def _plot(marks: Iterable[Mark], cost: str) -> tuple[Figure, Any]:
    """Draws marks from 99% on with their intervals, in blue where no cheaper one is as accurate."""
    figure = Figure(figsize=(9, 6), dpi=130, layout="constrained")
    axes = figure.subplots()
    shown = sorted((mark for mark in marks if mark.accuracy.mean >= _LOWEST), key=lambda mark: mark.cost)
    best, previous, behind = 0.0, 0.0, []
    for name, x, value in shown:
        x = previous = max(x, 1.04 * previous)  # of equal costs side by side
        on_front, best = value.mean > best, max(best, value.mean)
        color = _FRONT if on_front else _BEHIND
        axes.errorbar(
            x, value.mean, yerr=[[value.mean - value.low], [value.high - value.mean]],
            fmt="o" if on_front else "s", color=color, capsize=3, markersize=5,
        )  # fmt: skip
        if not on_front:
            behind.append((name, x, value))
        else:  # nothing is above and left of it
            axes.annotate(name, (x, value.mean), xytext=(-6, 6), color=color, ha="right", va="center", **_TEXT)
    for index, (name, x, value) in enumerate(
        behind
    ):  # not all at the same height, because they are close to each other
        if index == 0:
            axes.annotate(name, (x, value.mean), xytext=(-6, 0), color=_BEHIND, ha="right", va="center", **_TEXT)
        elif index < len(behind) / 2:
            axes.annotate(name, (x, value.high), xytext=(0, 3), color=_BEHIND, ha="right", va="bottom", **_TEXT)
        else:
            axes.annotate(name, (x, value.low), xytext=(4, -3), color=_BEHIND, va="top", **_TEXT)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.xaxis.set_major_formatter("{x:g}")
    highest = [mark.accuracy.high for mark in shown]
    scale_accuracies(axes, [_LOWEST, *highest, *(found.accuracy for found in _SINGLE)])
    axes.set_ylim(bottom=_LOWEST)
    axes.yaxis.set_major_locator(FixedLocator([0.99 + 0.001 * i for i in range(10)]))
    axes.set_xlabel(cost)
    axes.set_ylabel("test accuracy of the final epoch, mean and 95% interval")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
