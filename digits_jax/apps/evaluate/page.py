"""The text of an evaluation, as Markdown, and the files that `evaluate.py` leaves."""

import io
import json
import math
from pathlib import Path

from matplotlib.figure import Figure

from digits_jax.apps.evaluate.corruptions import CORRUPTIONS
from digits_jax.apps.evaluate.evaluation import Evaluation, Robustness, to_json
from digits_jax.apps.evaluate.plots import plot_confusion, plot_reliability, plot_robustness
from digits_jax.apps.evaluate.scores import Scores, Share
from digits_jax.data import Dataset
from digits_jax.pages import digits_gallery, markdown_table, to_html
from digits_jax.runs.console import percent
from digits_jax.runs.ensemble import Ensemble
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.storage import replace_text

_MOST_SHOWN = 500


def interval(share: Share) -> str:
    """A share's 95 % interval, in words."""
    return f"{100 * share.low:.2f} to {percent(share.high)}"


def build_page(title: str, what: str, scores: Scores, robustness: Robustness) -> tuple[str, dict[str, Figure]]:
    """The page as Markdown, and its figures by file name.

    Args:
      title: of the page.
      what: the model and the images, in a sentence.
      scores: on the images as they are.
      robustness: on the same images, spoilt.
    """
    count = sum(c.num_images for c in scores.classes)
    sections = [
        f"# {title}",
        f"{what} Intervals are at 95 %, of Wilson (1927): what other images of the same kind may give.",
        markdown_table(
            ("", "value", ""),
            (
                ("accuracy", percent(scores.accuracy.fraction), interval(scores.accuracy)),
                ("wrong", f"{round((1 - scores.accuracy.fraction) * count):,}", f"of {count:,}"),
                ("loss", f"{scores.loss:.4f}", "nats"),
                ("expected calibration error", f"{100 * scores.ece:.2f}", "points"),
            ),
        ),
        "## Classes",
        markdown_table(("class", "precision", "recall", "images"), class_rows(scores)),
        "![Which class is taken for which](confusion.png)",
        "## Calibration",
        "Is what it gives 90 % right in 90 of 100 cases? The images are sorted into 15 bins of equal width by the "
        "probability of their most probable class. The expected calibration error is the mean distance of the bins' "
        "accuracy from their mean probability, weighted by their images (Guo et al. 2017, equation 3).",
        "![Accuracy by probability, and how many images have it](reliability.png)",
        "## Robustness",
        "The same images, spoilt: what is drawn for one is the same at every strength and in every evaluation.",
        "![Accuracy by the strength of each corruption](robustness.png)",
        markdown_table(("corruption", "strength", "unit", "accuracy", "interval"), _robustness_rows(robustness)),
    ]
    figures = {
        "confusion.png": plot_confusion(scores),
        "reliability.png": plot_reliability(scores),
        "robustness.png": plot_robustness(scores, robustness),
    }
    return "\n\n".join(part.strip() for part in sections) + "\n", figures


def class_rows(scores: Scores) -> list[tuple[str, str, str, str]]:
    """A line of text for each class: its number, precision, recall and how many images."""
    return [
        (str(label), _percent(c.precision), _percent(c.recall), f"{c.num_images:,}")
        for label, c in enumerate(scores.classes)
    ]


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else percent(fraction)


def _robustness_rows(robustness: Robustness) -> list[tuple[str, ...]]:
    return [
        (c.name, f"{strength:g}", c.unit, percent(accuracy.fraction), interval(accuracy))
        for c in CORRUPTIONS
        for strength, accuracy in zip(c.strengths, robustness[c.name], strict=True)
    ]


def write(evaluation: Evaluation, model: TrainedModel | Ensemble, dataset: Dataset, folder: Path) -> None:
    """Writes `evaluation.json`, the figures and `evaluation.html`; raises an OSError where it cannot."""
    members = ", ".join(f"config {m.run['config_hash']}, step {m.step:,}" for m in model.members)
    what = "A model" if len(model.members) == 1 else f"The mean of {len(model.members)} models"
    views = "" if model.config.test_views == "one" else f", several views ({model.config.test_views}) of each"
    markdown, figures = build_page(
        f"{model.config.model.name} on the test images of {dataset.name}",
        f"{what} trained on {model.run['dataset']['name']} ({members}), "
        f"on the {len(dataset.arrays.test_labels):,} test images of {dataset.name}{views}.",
        evaluation.scores,
        evaluation.robustness,
    )
    pictures = {}
    for name, figure in figures.items():
        file = io.BytesIO()
        figure.savefig(file, format="png")
        pictures[name] = file.getvalue()
    folder.mkdir(parents=True, exist_ok=True)
    replace_text(folder / "evaluation.json", json.dumps(to_json(evaluation, model, dataset), indent=1) + "\n")
    replace_text(folder / "evaluation.html", to_html(markdown, pictures, appendix=_gallery(evaluation, dataset)))
    for name, data in pictures.items():
        (folder / name).write_bytes(data)


def _gallery(evaluation: Evaluation, dataset: Dataset) -> str:
    images = dataset.arrays.test_images
    spoilt = digits_gallery(
        "Test image 0, spoilt",
        (
            (corruption(images[:1], strength)[0], f"{corruption.name} {strength:g}")
            for corruption in CORRUPTIONS
            for strength in corruption.strengths
        ),
    )
    mistakes = evaluation.mistakes
    shown = f", the {_MOST_SHOWN} most sure of {len(mistakes):,}" if len(mistakes) > _MOST_SHOWN else ""
    wrong = digits_gallery(
        f"Misclassified{shown}, the surest first",
        (
            (images[m.image], f"{m.image}: a {m.label}<br>for a {m.taken_for}, {100 * m.probability:.0f} %")
            for m in mistakes[:_MOST_SHOWN]
        ),
    )
    return spoilt + wrong
