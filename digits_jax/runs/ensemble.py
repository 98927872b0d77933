"""Several trained models that answer together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import FrozenConfigDict

from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel, load_model


class Ensemble:
    """The mean of the probabilities of several models, such as those of the seeds of one config.

    Args:
      members: one or more, of equal classes and image shapes.

    Raises:
      ValueError: there are none, or they take other images or tell other classes apart.
    """

    def __init__(self, members: Sequence[TrainedModel]) -> None:
        if len({(m.num_classes, m.image_shape) for m in members}) != 1:
            raise ValueError(f"{len(members)} members: expected one or more, of equal classes and image shapes")
        self.members = list(members)

    @property
    def run(self) -> dict[str, Any]:
        """The first member's, as the two below."""
        return self.members[0].run

    @property
    def config(self) -> FrozenConfigDict:
        return self.members[0].config

    @property
    def image_shape(self) -> tuple[int, ...]:
        return self.members[0].image_shape

    @property
    def num_classes(self) -> int:
        return self.members[0].num_classes

    def predict(self, images: np.ndarray) -> np.ndarray:
        """As `TrainedModel.predict`."""
        return np.mean([member.predict(images) for member in self.members], axis=0)

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Whose softmax is `predict`."""
        return np.log(self.predict(images) + np.finfo(np.float32).tiny)


def load(workdir: epath.PathLike, *, checkpoint: str = "best", views: str | None = None) -> TrainedModel | Ensemble:
    """A run's model, or that of all seeds where the folder is one of several (`--config.num_seeds=5 --workdir=...`).

    Args:
      workdir: the folder of a run, or of runs in `seed0`, `seed1`, ...
      checkpoint, views: as for `load_model`; of each its own checkpoint.

    Raises:
      UserError, ConfigError: as of `load_model`; or the seeds' models do not go together.
    """
    runs = sorted(epath.Path(workdir).glob("seed*/run.json"))
    if not runs:
        return load_model(workdir, checkpoint=checkpoint, views=views)
    try:
        return Ensemble([load_model(run.parent, checkpoint=checkpoint, views=views) for run in runs])
    except ValueError as error:
        raise UserError(f"the runs in {workdir} are no ensemble: {error}") from None
