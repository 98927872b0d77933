"""Writes an evaluation as JSON, figures and a self-contained HTML page."""

import json
import math
from pathlib import Path
from statistics import fmean

from digits_jax.apps.evaluate.corruptions import CORRUPTIONS
from digits_jax.apps.evaluate.evaluation import Evaluation, to_json
from digits_jax.apps.evaluate.plots import plot_confusion, plot_reliability, plot_robustness
from digits_jax.apps.evaluate.scores import Accuracy
from digits_jax.data.datasets import Dataset
from digits_jax.pages import digits_gallery, markdown_table, to_html
from digits_jax.runs.ensemble import Ensemble
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.storage.disk import replace_text

_MAX_MISTAKES = 500  # shown on the page


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
        for strength, accuracy in zip(c.strengths, evaluation.robustness[c.name], strict=True)
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
        "confusion.png": plot_confusion(evaluation),
        "reliability.png": plot_reliability(evaluation),
        "robustness.png": plot_robustness(evaluation),
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
    views = model.config.test_views
    augmentation = "" if views == "one" else f" with test-time augmentation ({views})"
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
