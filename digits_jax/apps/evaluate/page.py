"""Writes an evaluation as JSON, figures and a self-contained HTML page."""

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from digits_jax.apps.evaluate.corruptions import CORRUPTIONS
from digits_jax.apps.evaluate.evaluation import Accuracy, Evaluation, to_json
from digits_jax.data import Dataset
from digits_jax.pages import digits_gallery, markdown_table, to_html
from digits_jax.runs.ensemble import Ensemble
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.storage import replace_text

_MAX_MISTAKES = 500  # shown on the page
_BLUE, _GRAY = "#0072B2", "#999999"  # Okabe and Ito (2008)


def build_tables(evaluation: Evaluation) -> tuple[str, str, str]:
    """Builds the Markdown tables of the overall scores, the classes, and the robustness."""
    scores, alone = evaluation.scores, [accuracy.fraction for accuracy in evaluation.alone]
    overall = [("accuracy", f"{scores.accuracy.fraction:.2%}", _interval(scores.accuracy))]
    if len(alone) > 1:
        overall.append(
            ("mean accuracy of one model", f"{fmean(alone):.2%}", f"range {min(alone):.2%} to {max(alone):.2%}")
        )
    overall += [
        ("misclassified", f"{len(evaluation.mistakes):,}", f"of {sum(map(sum, scores.confusion)):,} images"),
        ("loss", f"{scores.loss:.4f}", "nats"),
        ("expected calibration error", f"{scores.expected_calibration_error:.2%}", ""),
    ]
    classes = [
        (str(label), _percent(c.precision), _percent(c.recall), f"{c.num_images:,}")
        for label, c in enumerate(scores.classes)
    ]
    robustness = [
        (c.name, f"{strength:g} {c.unit}", f"{accuracy.fraction:.2%}", _interval(accuracy))
        for c in CORRUPTIONS
        for strength, accuracy in evaluation.robustness[c.name].items()
    ]
    return (
        markdown_table(("", "value", ""), overall),
        markdown_table(("class", "precision", "recall", "images"), classes),
        markdown_table(("corruption", "strength", "accuracy", "95% interval"), robustness, text_columns=2),
    )


def _interval(accuracy: Accuracy) -> str:
    return f"{accuracy.low:.2%} to {accuracy.high:.2%}"


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{fraction:.2%}"


def write_evaluation(evaluation: Evaluation, model: TrainedModel | Ensemble, dataset: Dataset, folder: Path) -> None:
    """Writes `evaluation.json`, `evaluation.html` and its figures; raises an OSError if they cannot be written."""
    figures = {
        "confusion.png": _plot_confusion(evaluation),
        "reliability.png": _plot_reliability(evaluation),
        "robustness.png": _plot_robustness(evaluation),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(folder / name)
    pngs = {name: (folder / name).read_bytes() for name in figures}
    page = to_html(_markdown(evaluation, model, dataset), pngs, appendix=_galleries(evaluation, dataset))
    replace_text(folder / "evaluation.html", page)
    replace_text(folder / "evaluation.json", json.dumps(to_json(evaluation, model, dataset), indent=1) + "\n")


def _markdown(evaluation: Evaluation, model: TrainedModel | Ensemble, dataset: Dataset) -> str:
    members = ", ".join(f"config {m.run['config_hash']}, step {m.step:,}" for m in model.members)
    subject = "A model" if len(model.members) == 1 else f"An ensemble of {len(model.members)} models"
    name = model.config.test_time_augmentation
    augmentation = "" if name == "none" else f" with test-time augmentation ({name})"
    overall, classes, robustness = build_tables(evaluation)
    return f"""# {model.config.model.name} on the test images of {dataset.name}

{subject} trained on {model.run["dataset"]["name"]} ({members}), evaluated on the test images of
{dataset.name}{augmentation}. Intervals are 95% score intervals (Wilson 1927).

{overall}
## Classes

{classes}
![Confusion matrix](confusion.png)

## Calibration

The images are sorted into 15 bins of equal width by confidence, the probability of the predicted class. The expected
calibration error is the mean of |accuracy - confidence| over the bins, weighted by their numbers of images (Guo et al.
2017, equation 3).

![Reliability diagram and histogram of the confidence](reliability.png)

## Robustness

The same images, corrupted. The random samples for an image are the same at every strength and in every evaluation.

![Accuracy by the strength of each corruption](robustness.png)

{robustness}"""


def _galleries(evaluation: Evaluation, dataset: Dataset) -> str:
    images, mistakes = dataset.arrays.test_images, evaluation.mistakes
    corrupted = (
        (corruption(images[:1], strength)[0], f"{corruption.name} {strength:g}")
        for corruption in CORRUPTIONS
        for strength in corruption.strengths
    )
    misclassified = (
        (images[m.image], f"{m.image}: label {m.label},<br>predicted {m.taken_for}, {m.probability:.0%}")
        for m in mistakes[:_MAX_MISTAKES]
    )
    shown = f"the first {_MAX_MISTAKES} of {len(mistakes):,}, " if len(mistakes) > _MAX_MISTAKES else ""
    title = f"Misclassified images, {shown}in decreasing order of confidence"
    return digits_gallery("Test image 0, corrupted", corrupted) + digits_gallery(title, misclassified)


def _plot_confusion(evaluation: Evaluation) -> Figure:
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


def _plot_reliability(evaluation: Evaluation) -> Figure:
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


def _plot_robustness(evaluation: Evaluation) -> Figure:
    """Plots accuracy over strength, one panel per corruption; strength 0 is the clean images."""
    figure = Figure(figsize=(8, 5.6), dpi=150, layout="constrained")
    panels = figure.subplots(2, 2, sharey=True).flat
    for axes, corruption in zip(panels, CORRUPTIONS, strict=True):
        points = {0: evaluation.scores.accuracy, **evaluation.robustness[corruption.name]}
        low, high, fraction = zip(*((p.low, p.high, p.fraction) for p in points.values()), strict=True)
        axes.fill_between([*points], low, high, color=_BLUE, alpha=0.2, lw=0)
        axes.plot([*points], fraction, "o-", color=_BLUE, markersize=4)
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
