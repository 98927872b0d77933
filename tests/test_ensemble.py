"""Several runs that answer together."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from scipy import special

from digits_jax.apps.evaluate.evaluation import evaluate
from digits_jax.apps.evaluate.page import write_evaluation
from digits_jax.data import Dataset
from digits_jax.errors import UserError
from digits_jax.runs import ensemble
from digits_jax.train_loop import train_seeds


@pytest.fixture
def seeds(small_config: ConfigDict, tmp_path: Path) -> Path:
    """As `--config.num_seeds=3 --workdir=...` leaves it."""
    train_seeds(small_config, range(3), lambda config: tmp_path / f"seed{config.seed}")
    return tmp_path


def test_the_seeds_of_a_folder_answer_with_their_mean(seeds: Path, small_dataset: Dataset, tmp_path: Path) -> None:
    models = ensemble.load(seeds, checkpoint="latest")
    images, labels = small_dataset.arrays.test_images, small_dataset.arrays.test_labels
    single = [ensemble.load(seeds / f"seed{seed}", checkpoint="latest") for seed in range(3)]
    expected = sum(model.predict(images) for model in single) / 3
    np.testing.assert_allclose(models.predict(images), expected, atol=1e-6)
    np.testing.assert_allclose(special.softmax(models.logits(images), axis=-1), expected, atol=1e-6)
    evaluation = evaluate(models, small_dataset)
    assert evaluation.scores.accuracy.fraction == (expected.argmax(-1) == labels).mean()
    assert [accuracy.fraction for accuracy in evaluation.alone] == [
        (model.predict(images).argmax(-1) == labels).mean() for model in single
    ]
    write_evaluation(evaluation, models, small_dataset, tmp_path / "evaluation")
    figures = json.loads((tmp_path / "evaluation/evaluation.json").read_text())
    assert len({model["config_hash"] for model in figures["models"]}) == 3
    assert {model["step"] for model in figures["models"]} == {14}
    assert "An ensemble of 3 models" in (tmp_path / "evaluation/evaluation.html").read_text()


def test_seeds_that_do_not_go_together(seeds: Path) -> None:
    run = json.loads((seeds / "seed1/run.json").read_text())
    shutil.copytree(seeds / "seed1", seeds / "seed7")
    (seeds / "seed7/run.json").write_text(json.dumps(run | {"num_classes": 11}))
    with pytest.raises(UserError, match="seed7"):
        ensemble.load(seeds)
    with pytest.raises(ValueError, match="0 members: expected one or more"):
        ensemble.Ensemble([])
