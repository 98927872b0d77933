"""Ensembles of trained models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from ml_collections import FrozenConfigDict

from digits_jax import storage
from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel, load_model
from digits_jax.storage import PathLike


class Ensemble:
    """The mean of several models' probabilities, such as those of a config's seeds.

    Args:
      members: one or more, with equal classes and image shapes.

    Raises:
      ValueError: there are none, or their classes or image shapes differ.
    """

    def __init__(self, members: Sequence[TrainedModel]) -> None:
        if len({(m.num_classes, m.image_shape) for m in members}) != 1:
            raise ValueError(f"{len(members)} members: expected one or more, with equal classes and image shapes")
        self.members = list(members)

    @property
    def run(self) -> dict[str, Any]:
        """The first member's `run.json`."""
        return self.members[0].run

    @property
    def config(self) -> FrozenConfigDict:
        """The first member's config."""
        return self.members[0].config

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The (H, W, C) of the images that it takes."""
        return self.members[0].image_shape

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return self.members[0].num_classes

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the mean probabilities, as `TrainedModel.predict`."""
        return np.mean([member.predict(images) for member in self.members], axis=0)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits; `predict` is their softmax."""
        return np.log(self.predict(images) + np.finfo(np.float32).tiny)


def load(
    workdir: PathLike, *, checkpoint: str = "best", test_time_augmentation: str | None = None
) -> TrainedModel | Ensemble:
    """Loads a run's model, or the ensemble of a directory with one run per seed (`--config.num_seeds=5`).

    Args:
      workdir: the directory of a run, or of runs in `seed0`, `seed1`, ...
      checkpoint, test_time_augmentation: as for `load_model`, which each member is loaded with.

    Raises:
      UserError, ConfigError: as `load_model`; or the members do not form an ensemble.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "test_time_augmentation": test_time_augmentation}
    runs = sorted(storage.open_path(workdir).glob("seed*/run.json"))
    if not runs:
        return load_model(workdir, **options)
    try:
        return Ensemble([load_model(run.parent, **options) for run in runs])
    except ValueError as error:
        raise UserError(f"the runs in {workdir} are no ensemble: {error}") from None
