"""Writes an evaluation as JSON, figures and a self-contained HTML page."""

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib import rc_context
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay

from digits_jax.apps.evaluate.evaluation import CORRUPTIONS, Evaluation
from digits_jax.data import Dataset
from digits_jax.pages import digits_gallery, escape, markdown_table, to_html
from digits_jax.runs.ensemble import Ensemble
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.runs.workdir import describe_dataset
from digits_jax.storage import replace_text

_SQUARE = (5, 5)  # inches; letters stay legible on a phone


def build_tables(evaluation: Evaluation) -> tuple[str, str, str]:
    """Builds the Markdown tables of the overall scores, the classes, and the robustness."""
    scores, alone = evaluation.scores, [accuracy.fraction for accuracy in evaluation.alone]
    overall = [
        ("accuracy", f"{scores.accuracy.fraction:.2%}", scores.accuracy.interval),
        ("misclassified", f"{len(evaluation.mistakes):,}", f"of {sum(map(sum, scores.confusion)):,} images"),
        ("loss", f"{scores.loss:.4f}", "nats"),
        ("expected calibration error", f"{scores.expected_calibration_error:.2%}", ""),
    ]
    if len(alone) > 1:
        spread = f"range {min(alone):.2%} to {max(alone):.2%}"
        overall.insert(1, ("mean accuracy of one model", f"{fmean(alone):.2%}", spread))
    if evaluation.final:
        final = f"{fmean(accuracy.fraction for accuracy in evaluation.final):.2%}"
        overall.insert(1, ("of the final epoch", final, "the epoch above was selected by its accuracy on these images"))
    for group, accuracy in evaluation.by_writers.items():
        overall.append((f"accuracy on {group}' digits", f"{accuracy.fraction:.2%}", accuracy.interval))
    classes = [
        (str(label), *(f"{value:.2%}".replace("nan%", "-") for value in (c.precision, c.recall)), f"{c.num_images:,}")
        for label, c in enumerate(scores.classes)
    ]
    robustness = [
        (c.name, f"{strength:g} {c.unit}", f"{accuracy.fraction:.2%}", accuracy.interval)
        for c in CORRUPTIONS
        for strength, accuracy in evaluation.robustness[c.name].items()
    ]
    return (
        markdown_table(("score", "value", "details"), overall),
        markdown_table(("class", "precision", "recall", "images"), classes),
        markdown_table(("corruption", "strength", "accuracy", "95% interval"), robustness, text_columns=2),
    )


def write_evaluation(evaluation: Evaluation, model: TrainedModel | Ensemble, dataset: Dataset, folder: Path) -> None:
    """Writes `evaluation.json`, `evaluation.html` and its figures; raises an OSError if one cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    pngs = {}
    with rc_context({"axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 200, "font.size": 10}):
        for name, plot in _PLOTS.items():
            plot(evaluation).savefig(folder / name)
            pngs[name] = (folder / name).read_bytes()
    page = to_html(_markdown(evaluation, model, dataset), pngs, appendix=_galleries(evaluation, dataset))
    replace_text(folder / "evaluation.html", page)
    numbers = {
        "models": [
            {"config_hash": member.run["config_hash"], "step": member.step, "accuracy": accuracy.fraction}
            for member, accuracy in zip(model.members, evaluation.alone, strict=True)
        ],
        "test_time_augmentation": model.config.test_time_augmentation,
        "dataset": describe_dataset(dataset),
        "final": [accuracy.fraction for accuracy in evaluation.final],
        "by_writers": {group: asdict(accuracy) for group, accuracy in evaluation.by_writers.items()},
        **asdict(evaluation.scores),
        "robustness": {
            name: [{"strength": strength, **asdict(accuracy)} for strength, accuracy in by_strength.items()]
            for name, by_strength in evaluation.robustness.items()
        },
        "mistakes": [asdict(mistake) for mistake in evaluation.mistakes],
    }
    replace_text(folder / "evaluation.json", json.dumps(numbers, indent=1) + "\n")


def _markdown(evaluation: Evaluation, model: TrainedModel | Ensemble, dataset: Dataset) -> str:
    members = ", ".join(f"config {escape(m.run['config_hash'])}, step {m.step:,}" for m in model.members)
    subject = "A model" if len(model.members) == 1 else f"An ensemble of {len(model.members)} models"
    name = model.config.test_time_augmentation
    augmentation = "" if name == "none" else f" with test-time augmentation ({name})"
    overall, classes, robustness = build_tables(evaluation)
    return f"""# {model.config.model.name} on the test images of {dataset.name}

{subject} trained on {escape(model.run["dataset"]["name"])} ({members}), evaluated on the test images of
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
    images = dataset.arrays.test_images
    corrupted = (
        (c(images[:1], strength)[0], f"{c.name} {strength:g}") for c in CORRUPTIONS for strength in c.strengths
    )
    misclassified = (
        (images[m.image], f"{m.image}: label {m.label},<br>predicted {m.taken_for}, {m.probability:.0%}")
        for m in evaluation.mistakes
    )
    title = "Misclassified images, in decreasing order of confidence"
    return digits_gallery("Test image 0, corrupted", corrupted) + digits_gallery(title, misclassified)


def _plot_confusion(evaluation: Evaluation) -> Figure:
    figure = Figure(figsize=_SQUARE, layout="constrained")
    axes = figure.subplots()
    axes.grid(False)
    counts = np.array(evaluation.scores.confusion)
    norm = LogNorm(0.5, counts.max())  # a few misclassified images beside a thousand others are visible
    if len(counts) <= 30:
        ConfusionMatrixDisplay(counts).plot(ax=axes, cmap="Oranges", colorbar=False, im_kw={"norm": norm})
    else:  # numbers and names would overlap, and take minutes
        axes.imshow(counts, cmap="Oranges", norm=norm)
    axes.set(xlabel="predicted class", ylabel="true class")
    return figure


def _plot_reliability(evaluation: Evaluation) -> Figure:
    """Plots accuracy with its intervals over confidence, above a histogram of the confidence."""
    bins = evaluation.scores.bins
    figure = Figure(figsize=_SQUARE, layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], ":", color="gray", label="perfectly calibrated")
    confidence = [b.confidence for b in bins]
    axes.vlines(confidence, [b.accuracy.low for b in bins], [b.accuracy.high for b in bins])
    axes.plot(confidence, [b.accuracy.fraction for b in bins], "o", label="images in a bin")
    axes.set_ylabel("accuracy")
    axes.legend(loc="upper left")
    below.bar([(b.low + b.high) / 2 for b in bins], [b.num_images for b in bins], width=0.06)
    below.set(yscale="log", ylabel="images", xlabel="confidence (probability of the predicted class)")
    return figure


def _plot_robustness(evaluation: Evaluation) -> Figure:
    """Plots accuracy over strength, one panel per corruption; strength 0 is the clean images."""
    figure = Figure(figsize=(5.6, 5), layout="constrained")
    for axes, corruption in zip(figure.subplots(2, 2, sharey=True).flat, CORRUPTIONS, strict=True):
        points = {0: evaluation.scores.accuracy, **evaluation.robustness[corruption.name]}
        low, high, accuracy = zip(*((p.low, p.high, p.fraction) for p in points.values()), strict=True)
        axes.fill_between([*points], low, high, alpha=0.2)
        axes.plot([*points], accuracy, "o-")
        axes.axhline(1 / len(evaluation.scores.classes), color="gray", linestyle=":")
        axes.set(title=corruption.name, xlabel=corruption.unit, xlim=(0, None), ylim=(0, 1.02))
    figure.supylabel("accuracy (dotted: chance)")
    return figure


_PLOTS = {"confusion.png": _plot_confusion, "reliability.png": _plot_reliability, "robustness.png": _plot_robustness}
