"""The figures of an evaluation."""

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from digits_jax.apps.evaluate.corruptions import CORRUPTIONS
from digits_jax.apps.evaluate.evaluation import Evaluation

_BLUE, _GRAY = "#0072B2", "#999999"  # Okabe and Ito (2008)


def plot_confusion(evaluation: Evaluation) -> Figure:
    """Plots the confusion matrix; only misclassified images are colored."""
    counts = np.array(evaluation.scores.confusion)
    size = len(counts)
    mistakes = counts * ~np.eye(size, dtype=bool)
    figure = Figure(figsize=(6, 6), dpi=150, layout="constrained")
    axes = figure.subplots()
    norm = LogNorm(0.5, max(mistakes.max(), 2))
    axes.imshow(np.ma.masked_equal(mistakes, 0), cmap="Oranges", norm=norm)
    for row, column in np.argwhere(counts):
        color = _GRAY if row == column else "white" if norm(counts[row, column]) > 0.6 else "black"
        axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=8, color=color)
    axes.set(xticks=range(size), yticks=range(size), xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def plot_reliability(evaluation: Evaluation) -> Figure:
    """Plots accuracy with its intervals over confidence, above a histogram of the confidence."""
    bins = evaluation.scores.bins
    figure = Figure(figsize=(6, 6), dpi=150, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], color=_GRAY, linestyle=":", label="perfectly calibrated")
    confidence, accuracy = [b.confidence for b in bins], [b.accuracy.fraction for b in bins]
    errors = np.abs([[b.accuracy.low, b.accuracy.high] for b in bins] - np.array(accuracy)[:, None]).T
    axes.errorbar(confidence, accuracy, errors, fmt="o", color=_BLUE, linewidth=1, capsize=2, label="images in a bin")
    axes.set_ylabel("accuracy")
    axes.legend(loc="upper left", fontsize=8)
    below.bar([(b.low + b.high) / 2 for b in bins], [b.num_images for b in bins], width=0.06, color=_BLUE)
    below.set(yscale="log", ylabel="images", xlabel="confidence (probability of the predicted class)")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    below.xaxis.set_major_formatter(PercentFormatter(1))
    _tidy(axes, below)
    return figure


def plot_robustness(evaluation: Evaluation) -> Figure:
    """Plots accuracy over strength, one panel per corruption; strength 0 is the clean images."""
    figure = Figure(figsize=(8, 5.6), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharey=True).flat
    for axes, corruption in zip(panels, CORRUPTIONS, strict=True):
        strengths = [0, *corruption.strengths]
        points = [evaluation.scores.accuracy, *evaluation.robustness[corruption.name]]
        axes.fill_between(strengths, [p.low for p in points], [p.high for p in points], color=_BLUE, alpha=0.2, lw=0)
        axes.plot(strengths, [p.fraction for p in points], "o-", color=_BLUE, markersize=4)
        axes.axhline(1 / len(evaluation.scores.classes), color=_GRAY, linestyle=":")
        axes.set_title(corruption.name, fontsize=10)
        axes.set(xlabel=corruption.unit, xlim=(0, None), ylim=(0, 1.02))
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        _tidy(axes)
    figure.supylabel("accuracy (dotted: chance)", fontsize=10)
    return figure


def _tidy(*all_axes: Any) -> None:
    for axes in all_axes:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
