"""Ensembles of trained models."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from digits_jax import storage
from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel, load_model
from digits_jax.storage import PathLike


class Ensemble:
    """The mean of the probabilities of one or more models with equal classes and image shapes, else a ValueError."""

    def __init__(self, members: Sequence[TrainedModel]) -> None:
        if len({(m.num_classes, m.image_shape) for m in members}) != 1:
            raise ValueError(f"{len(members)} members: expected one or more, with equal classes and image shapes")
        self.members = list(members)
        self.run, self.config = self.members[0].run, self.members[0].config  # the first member's
        self.image_shape, self.num_classes = self.members[0].image_shape, self.members[0].num_classes

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the mean probabilities, as `TrainedModel.predict`."""
        return np.mean([member.predict(images) for member in self.members], axis=0)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits; `predict` is their softmax."""
        return np.log(self.predict(images) + np.finfo(np.float32).tiny)


def load(
    workdir: PathLike | None, *, checkpoint: str = "best", test_time_augmentation: str | None = None
) -> TrainedModel | Ensemble:
    """Loads a run's model with `load_model`, or the ensemble of a directory with runs in `seed0`, `seed1`, ...

    Without a directory, loads the shipped network. Raises a UserError if the runs do not form an ensemble.
    """
    options: dict[str, Any] = {"checkpoint": checkpoint, "test_time_augmentation": test_time_augmentation}
    runs = sorted(storage.open_path(workdir).glob("seed*/run.json")) if workdir is not None else []
    if not runs:
        return load_model(workdir, **options)
    try:
        return Ensemble([load_model(run.parent, **options) for run in runs])
    except ValueError as error:
        raise UserError(f"the runs in {workdir} are no ensemble: {error}") from None
