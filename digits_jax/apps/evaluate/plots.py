"""The figures of an evaluation."""

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from digits_jax.apps.evaluate.corruptions import CORRUPTIONS
from digits_jax.apps.evaluate.evaluation import Robustness
from digits_jax.apps.evaluate.scores import Scores

_BLUE, _GREY = "#0072B2", "#999999"  # Okabe & Ito 2008


def plot_confusion(scores: Scores) -> Figure:
    """Counts by true class (rows) and the class it was taken for; colour is for the mistakes only."""
    counts = np.array(scores.confusion)
    size = len(counts)
    mistakes = counts * ~np.eye(size, dtype=bool)
    figure = Figure(figsize=(6, 6), dpi=150, layout="constrained")
    axes = figure.subplots()
    norm = LogNorm(0.5, max(mistakes.max(), 2))
    axes.imshow(np.ma.masked_equal(mistakes, 0), cmap="Oranges", norm=norm)
    for row, column in np.argwhere(counts):
        on_dark = "white" if norm(counts[row, column]) > 0.6 else "black"
        colour = _GREY if row == column else on_dark
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(size))
    axes.set_yticks(range(size))
    axes.set_xlabel("taken for")
    axes.set_ylabel("class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def plot_reliability(scores: Scores) -> Figure:
    """Accuracy by probability, with intervals, above a histogram of the probabilities."""
    bins = [b for b in scores.bins if b.num_images]
    figure = Figure(figsize=(6, 6), dpi=150, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", label="as often right as it says")
    confidence, accuracy = [b.confidence for b in bins], [b.accuracy.fraction for b in bins]
    errors = np.abs([[b.accuracy.low, b.accuracy.high] for b in bins] - np.array(accuracy)[:, None]).T
    axes.errorbar(confidence, accuracy, errors, fmt="o", color=_BLUE, linewidth=1, capsize=2, label="images in a bin")
    axes.set_ylabel("accuracy")
    axes.legend(loc="upper left", fontsize=8)
    below.bar([(b.low + b.high) / 2 for b in bins], [b.num_images for b in bins], width=0.06, color=_BLUE)
    below.set_yscale("log")
    below.set_ylabel("images")
    below.set_xlabel("probability of the most probable class")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    below.xaxis.set_major_formatter(PercentFormatter(1))
    _tidy(axes, below)
    return figure


def plot_robustness(scores: Scores, robustness: Robustness) -> Figure:
    """Accuracy by strength, a panel for each corruption; no strength is the images as they are."""
    figure = Figure(figsize=(8, 5.6), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharey=True).flat
    for axes, corruption in zip(panels, CORRUPTIONS, strict=True):
        strengths = [0, *corruption.strengths]
        shares = [scores.accuracy, *robustness[corruption.name]]
        axes.fill_between(strengths, [s.low for s in shares], [s.high for s in shares], color=_BLUE, alpha=0.2, lw=0)
        axes.plot(strengths, [s.fraction for s in shares], "o-", color=_BLUE, markersize=4)
        axes.axhline(1 / len(scores.classes), color=_GREY, linestyle=":")
        axes.set_title(corruption.name, fontsize=10)
        axes.set_xlabel(corruption.unit)
        axes.set_xlim(0)
        axes.set_ylim(0, 1.02)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        _tidy(axes)
    figure.supylabel("accuracy (dotted: chance)", fontsize=10)
    return figure


def _tidy(*all_axes: Any) -> None:
    for axes in all_axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
