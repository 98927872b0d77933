"""Evaluation of a trained model."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict
from sklearn import metrics
from statsmodels.stats.proportion import proportion_confint

from digits_jax import load_model
from digits_jax.apps.evaluate import evaluation as evaluation_module
from digits_jax.apps.evaluate import page
from digits_jax.apps.evaluate.evaluation import CORRUPTIONS, Accuracy, Evaluation, compute_scores, evaluate
from digits_jax.apps.evaluate.page import write_evaluation
from digits_jax.data import datasets
from digits_jax.data.qmnist import Writers
from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.train_loop import train_and_evaluate
from tests import browser
from tests.test_report import PAYLOADS, tags

_CORRUPTIONS = {corruption.name: corruption for corruption in CORRUPTIONS}


@pytest.fixture(scope="module")
def model(trained: Path) -> TrainedModel:
    return load_model(trained)


@pytest.fixture
def evaluation(model: TrainedModel, small_dataset: datasets.Dataset) -> Evaluation:
    return evaluate(model, small_dataset)


@pytest.mark.parametrize(("correct", "count"), [(0, 20), (20, 20), (9954, 10_000)])
def test_an_interval(correct: int, count: int) -> None:
    low, high = proportion_confint(correct, count, method="wilson")
    found = Accuracy.from_counts(correct, count)
    assert found.fraction == correct / count
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_an_epoch_selected_on_these_images_is_shown_beside_the_final_one(
    small_config: ConfigDict, small_dataset: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (evaluation_module, page):
        monkeypatch.setattr(module, "CORRUPTIONS", ())
    small_config.learning_rates, small_config.epochs = (0.05, 3.0), (2, 2)  # the last epochs are worse
    rows = train_and_evaluate(small_config, tmp_path)
    final, best = rows[-1]["test/accuracy"], max(row["test/accuracy"] for row in rows)
    assert final < best
    found = evaluate(load_model(tmp_path), small_dataset)
    assert (found.scores.accuracy.fraction, found.final[0].fraction) == pytest.approx((best, final))
    table, *_ = page.build_tables(found)
    assert table.splitlines()[2].startswith(f"| accuracy | {best:.2%} |")
    assert table.splitlines()[3] == (
        f"| of the final epoch | {final:.2%} | the epoch above was selected by its accuracy on these images |"
    )
    assert not evaluate(load_model(tmp_path, checkpoint="latest"), small_dataset).final
    others = dataclasses.replace(small_dataset, sha256="0" * 64)
    assert not evaluate(load_model(tmp_path), others).final


def test_groups_of_writers(
    model: TrainedModel, small_dataset: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (evaluation_module, page):
        monkeypatch.setattr(module, "CORRUPTIONS", ())
    count = len(small_dataset.arrays.test_labels)
    series = np.where(np.arange(count) < 10, 4, 0)
    written = dataclasses.replace(small_dataset, writers={"test": Writers(series, np.arange(count))})
    found = evaluate(model, written)
    correct = model.logits(small_dataset.arrays.test_images).argmax(-1) == small_dataset.arrays.test_labels
    assert found.by_writers["students"] == Accuracy.from_counts(int(correct[:10].sum()), 10)
    assert found.by_writers["employees"].fraction == pytest.approx(correct[10:].mean())
    table, *_ = page.build_tables(found)
    assert f"| accuracy on students' digits | {correct[:10].mean():.2%} |" in table


def test_scores_by_hand() -> None:
    # Predictions: 0 with 0.82 (correct), 1 with 0.62 (wrong), 1 with 0.5 (correct); 2 is never predicted.
    probabilities = np.array([[0.82, 0.1, 0.08], [0.3, 0.62, 0.08], [0.25, 0.5, 0.25]])
    scores = compute_scores(np.log(probabilities).astype(np.float32) + 7, np.array([0, 2, 1]))
    assert scores.accuracy.fraction == 2 / 3
    assert scores.loss == pytest.approx(-np.log([0.82, 0.08, 0.5]).mean(), rel=1e-6)
    assert scores.expected_calibration_error == pytest.approx((0.18 + 0.62 + 0.5) / 3, rel=1e-6)
    assert scores.confusion == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert [(c.precision, c.recall, c.num_images) for c in scores.classes[:2]] == [(1, 1, 1), (0.5, 1, 1)]
    assert np.isnan(scores.classes[2].precision)
    assert (scores.classes[2].recall, scores.classes[2].num_images) == (0, 1)
    assert [(15 * b.low, 15 * b.high, b.num_images) for b in scores.bins] == [(7, 8, 1), (9, 10, 1), (12, 13, 1)]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_calibration_by_its_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = (3 * random.standard_normal((50, 4))).astype(np.float32)
    labels = random.integers(0, 4, 50)
    probabilities = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(-1, keepdims=True)
    expected = 0.0
    for m in range(1, 16):
        bin_ = [i for i in range(50) if (m - 1) / 15 < probabilities[i].max() <= m / 15]
        if bin_:
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in bin_])
            expected += len(bin_) / 50 * abs(accuracy - np.mean([probabilities[i].max() for i in bin_]))
    scores = compute_scores(logits, labels)
    assert scores.expected_calibration_error == pytest.approx(expected, abs=1e-9)
    assert scores.loss == pytest.approx(metrics.log_loss(labels, probabilities, labels=range(4)), rel=1e-6)


@pytest.mark.parametrize("corruption", CORRUPTIONS, ids=lambda corruption: corruption.name)
def test_a_corruption_is_the_same_each_time_and_grows(corruption: Any) -> None:
    images = np.zeros((20, 28, 28, 1), np.uint8)
    images[:, 8:20, 12:16] = 200
    np.testing.assert_array_equal(corruption(images, 0), images)
    changes = []
    for strength in corruption.strengths:
        corrupted = corruption(images, strength)
        assert corrupted.dtype == np.uint8
        np.testing.assert_array_equal(corrupted, corruption(images, strength))
        np.testing.assert_array_equal(corrupted[:7], corruption(images[:7], strength))  # depends on the index only
        changes.append(np.abs(corrupted.astype(float) - images).mean())
    assert len(changes) == 5
    assert changes == sorted(changes)
    assert changes[0] > 0


def _centers(images: np.ndarray) -> np.ndarray:
    """Returns the rows and columns of the centers of mass, relative to the center of the image."""
    weights = images[..., 0].astype(float) / images.sum((1, 2, 3)).reshape(-1, 1, 1)
    positions = np.arange(images.shape[1]) - (images.shape[1] - 1) / 2
    return np.stack([weights.sum(2) @ positions, weights.sum(1) @ positions], -1)


def test_corruptions_in_their_units() -> None:
    images = np.zeros((50, 29, 29, 1), np.uint8)
    images[:, 13:16, 19:22] = 250  # its center is 6 pixels to the right of the image's
    moved = _centers(_CORRUPTIONS["shift"](images, 3)) - _centers(images)
    np.testing.assert_allclose(np.hypot(*moved.T), 3, atol=0.05)
    assert moved.std(0).min() > 1  # in any direction
    turned = _centers(_CORRUPTIONS["rotation"](images, 30))
    np.testing.assert_allclose(np.hypot(*turned.T), 6, atol=0.1)
    degrees = np.rad2deg(np.arctan2(turned[:, 0], turned[:, 1]))
    np.testing.assert_allclose(np.abs(degrees), 30, atol=1)
    assert 10 < (degrees > 0).sum() < 40
    noise = _CORRUPTIONS["noise"](np.full((50, 29, 29, 1), 128, np.uint8), 20).astype(float)
    assert (noise.mean(), noise.std()) == pytest.approx((128, 20), abs=0.5)
    blurred = _CORRUPTIONS["blur"](images[:1], 2)[0, 14, :, 0].astype(float)
    positions = np.arange(29) - 20
    # The variance of three equal pixels plus that of the Gaussian.
    assert (blurred * positions**2).sum() / blurred.sum() == pytest.approx(2 / 3 + 4, rel=0.05)


def test_it_agrees_with_the_run(evaluation: Evaluation, model: TrainedModel, small_dataset: datasets.Dataset) -> None:
    scores = evaluation.scores
    assert scores.accuracy.fraction == model.metrics["test/accuracy"]
    assert scores.loss == pytest.approx(model.metrics["test/loss"], rel=1e-5)
    mistakes = evaluation.mistakes
    assert len(mistakes) == round(360 * (1 - scores.accuracy.fraction)) > 0
    probabilities = model.predict(small_dataset.arrays.test_images)
    for m in mistakes:
        assert m.label == small_dataset.arrays.test_labels[m.image] != m.taken_for
        assert m.probability == pytest.approx(probabilities[m.image, m.taken_for], abs=1e-6)
    assert [m.probability for m in mistakes] == sorted((m.probability for m in mistakes), reverse=True)
    assert sum(map(sum, scores.confusion)) == 360


def test_the_files(
    evaluation: Evaluation, model: TrainedModel, small_dataset: datasets.Dataset, tmp_path: Path
) -> None:
    write_evaluation(evaluation, model, small_dataset, tmp_path)
    pictures = {"confusion.png", "reliability.png", "robustness.png"}
    assert {path.name for path in tmp_path.iterdir()} == {"evaluation.json", "evaluation.html", *pictures}
    page = (tmp_path / "evaluation.html").read_text()
    sources = re.findall(r'src="([^"]{0,20})', page)
    assert len(sources) == 3 + 20 + len(evaluation.mistakes)
    assert all(source.startswith("data:image/png") for source in sources)
    assert page.count("<figcaption>") == 20 + len(evaluation.mistakes)
    numbers = json.loads((tmp_path / "evaluation.json").read_text())
    assert numbers["accuracy"]["fraction"] == evaluation.scores.accuracy.fraction
    assert [case["strength"] for case in numbers["robustness"]["blur"]] == [0.5, 1, 1.25, 1.5, 2]
    assert len(numbers["mistakes"]) == len(evaluation.mistakes)
    assert str(Path.home()) not in json.dumps(numbers)


@pytest.mark.slow
def test_the_page_fits_a_phone(
    evaluation: Evaluation, model: TrainedModel, small_dataset: datasets.Dataset, tmp_path: Path
) -> None:
    write_evaluation(evaluation, model, small_dataset, tmp_path)
    measure = """
      const { document } = page, { scrollWidth, clientWidth } = document.documentElement;
      return [scrollWidth <= clientWidth, ...[...document.querySelectorAll("p img")].map((image) => image.width)];
    """
    text = (tmp_path / "evaluation.html").read_text()
    sizes = [(375, 667), (1366, 650)]
    for (width, _), (fits, *widths) in zip(sizes, browser.run(text, measure, sizes, tmp_path), strict=True):
        assert fits
        assert len(widths) == 3
        assert max(widths) <= width
    assert '<meta name="color-scheme" content="light dark">' in text


def test_no_string_of_a_run_adds_an_element(
    evaluation: Evaluation, model: TrainedModel, small_dataset: datasets.Dataset, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(page, "_PLOTS", {})  # they have no text of the run, and take seconds
    run = {**model.run, "config_hash": "0", "dataset": {**model.run["dataset"], "name": "a name"}}
    monkeypatch.setattr(model, "run", run)
    for path, text in (("harmless", "x"), *((str(n), payload) for n, payload in enumerate(PAYLOADS))):
        run["config_hash"] = run["dataset"]["name"] = text
        write_evaluation(evaluation, model, small_dataset, tmp_path / path)
    found = {tuple(map(str, tags((path / "evaluation.html").read_text()))) for path in tmp_path.iterdir()}
    assert len(found) == 1


def test_data_that_do_not_fit(model: TrainedModel, small_dataset: datasets.Dataset) -> None:
    other = dataclasses.replace(small_dataset, name="letters", num_classes=26)
    with pytest.raises(UserError, match="letters has 26 classes and images of 28x28x1: expected 10 and 28x28x1"):
        evaluate(model, other)


@pytest.mark.slow
def test_the_command(small_config: ConfigDict, data_dir: Path, tmp_path: Path) -> None:
    row = train_and_evaluate(small_config, tmp_path / "run")[-1]  # without batch statistics
    command = [sys.executable, "-m", "digits_jax.apps.evaluate", f"--workdir={tmp_path / 'run'}", "--checkpoint=latest"]
    environment = {**os.environ, "TFDS_DATA_DIR": str(data_dir)}
    found = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert found.returncode == 0, found.stderr
    accuracy = re.search(r"^ accuracy +(\d+\.\d\d)% +\d+\.\d\d% to \d+\.\d\d% *$", found.stdout, re.MULTILINE)
    assert accuracy
    assert accuracy[1] == f"{100 * row['test/accuracy']:.2f}"
    page = tmp_path / "run/evaluation/optical_digits/evaluation.html"
    assert f"misclassified images: {page}" in found.stdout
    assert page.exists()
    for argument, code, message in (
        ("--dataset=letters", 2, "error: the data set is 'letters': expected one of mnist, "),
        ("--test_time_augmentation=two", 2, "value should be one of <none|shifts>"),
        ("--output=/dev/null/x", 1, "error: /dev/null/x cannot be written"),
    ):
        found = subprocess.run([*command, argument], capture_output=True, text=True, env=environment, timeout=120)
        assert found.returncode == code
        assert message in found.stderr
        assert found.stderr.count("\n") == 1
