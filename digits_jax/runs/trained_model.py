"""What a run has trained, as a function of images: `load_model("runs/vgg/0123abcd").predict(images)`.

It only reads: a run that is still training is left in peace, and damage is named, not mended.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import linen as nn
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import averaging
from digits_jax.config import from_recorded
from digits_jax.errors import ConfigError, UserError
from digits_jax.metrics import best_row, score_key
from digits_jax.models import create_model
from digits_jax.ops import compilation
from digits_jax.runs.workdir import Workdir
from digits_jax.storage import MANIFEST, find_damage, local_copy
from digits_jax.views import over_views

# Images in one compiled call. There is one such size, so that nothing is compiled twice and the answer for an image
# has the same bits whatever comes with it. On a CPU the activations of so many fit its cache.
_CPU_PART, _PART = 64, 1024


class TrainedModel:
    """A model with the parameters of one checkpoint.

    Attributes:
      run: what the run's `run.json` says: config, data, versions.
      config: the resolved config in it.
      image_shape: (H, W, C) of the images that it takes.
      num_classes: of its answer.
      step: training steps taken.
      metrics: of the epoch that ended with this step, as in `metrics.jsonl` and `result.json`; {} in the middle of one.
      variables: the collections `params` and `batch_stats`, of NumPy arrays.
    """

    def __init__(self, run: dict[str, Any], variables: dict[str, Any], *, step: int, metrics: dict[str, Any]) -> None:
        self.run = run
        self.config: FrozenConfigDict = from_recorded(run["config"])
        self.image_shape: tuple[int, ...] = tuple(run["image_shape"])
        self.num_classes: int = run["num_classes"]
        self.step = step
        self.metrics = metrics
        self.variables = variables
        self._on_device = jax.device_put(variables)
        logits = self.function()
        self._answer = compilation.jit(lambda *args: (y := logits(*args), nn.softmax(y)))
        self._part = _CPU_PART if jax.default_backend() == "cpu" else _PART

    @property
    def members(self) -> list["TrainedModel"]:
        """Itself: what answers alone is an ensemble of one (`ensemble.py`)."""
        return [self]

    def function(self, *, conv: str | None = None, views: str | None = None) -> Callable[[Any, jax.Array], jax.Array]:
        """The function of variables and images `[B, H, W, C]` to logits `[B, num_classes]`, as JAX traces it.

        Args:
          conv: the convolution, as in `config.model.conv`; None: the config's.
          views: of each image, as in `config.test_views`; None: the config's.
        """
        module = _module(self.config, self.num_classes, conv=conv)
        views = views or self.config.test_views
        return lambda variables, images: over_views(partial(module.apply, variables, train=False), views)(images)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The probability of each class.

        Args:
          images: uint8 `[N, H, W, C]`, or `[N, H, W]` where C is 1: raw pixels, as in the data that it was trained on.

        Returns:
          float32 `[N, num_classes]`; each row sums to 1.

        Raises:
          ValueError: the images are of another type or shape.
        """
        return self._answers(images)[1]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """As `predict`, before the softmax."""
        return self._answers(images)[0]

    def _answers(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        height, width, channels = self.image_shape
        images = np.asarray(images)
        if images.shape[1:] == (height, width) and channels == 1:
            images = images[..., None]
        if images.dtype != np.uint8 or images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images are {images.dtype}{list(images.shape)}: expected uint8[N, {height}, {width}, {channels}]"
            )
        count = len(images)
        parts = np.zeros((-(-count // self._part), self._part, *self.image_shape), np.uint8)
        parts.reshape(-1, *self.image_shape)[:count] = images
        answers = [self._answer(self._on_device, part) for part in parts]
        nothing = np.zeros((0, self.num_classes), np.float32)
        logits, probabilities = (
            np.concatenate([nothing, *(np.asarray(answer[i]) for answer in answers)])[:count] for i in (0, 1)
        )
        return logits, probabilities


def load_model(workdir: epath.PathLike, *, checkpoint: str = "best", views: str | None = None) -> TrainedModel:
    """Reads what a run has trained.

    Args:
      workdir: the run's folder, which may be on a bucket (`gs://`).
      checkpoint: "best", of the epoch that the run itself selects; "latest"; or a step, such as "938".
      views: of each image that it is asked about, instead of the run's `config.test_views`.

    Raises:
      UserError: there is no run, no such checkpoint, or a damaged one.
      ConfigError: `checkpoint` is none of these words and no number, or there are no such views.
    """
    if checkpoint not in ("best", "latest") and not checkpoint.isdecimal():
        raise ConfigError(f"checkpoint is {checkpoint!r}: expected 'best', 'latest' or a step, such as '938'")
    with local_copy(workdir) as mirror:
        return _load(Workdir(mirror.local if mirror else Path(workdir)), checkpoint, views)


def _load(workdir: Workdir, checkpoint: str, views: str | None) -> TrainedModel:
    from digits_jax.runs.checkpoint import check_arrays  # imports Orbax

    if not workdir.path.is_dir():
        raise UserError(f"{workdir.path} does not exist: expected the folder of a run, such as runs/vgg/0123abcd")
    run = workdir.read_run()
    if not (isinstance(run.get("image_shape"), list) and isinstance(run.get("num_classes"), int)):
        raise UserError(
            f"{workdir.run_file} is of a version that recorded no shapes: add those of its data, such as "
            '"image_shape": [28, 28, 1], "num_classes": 10'
        )
    # A checkpoint is there once its sums are: the run may be writing another just now.
    steps = sorted(int(file.parent.name) for file in workdir.checkpoints.glob(f"*/{MANIFEST}"))
    if not steps:
        raise UserError(f"{workdir.checkpoints} holds no checkpoint: expected those of a run that has begun to train")
    step = int(checkpoint) if checkpoint.isdecimal() else steps[-1]
    if checkpoint == "best":
        rows = _read(workdir.checkpoints, step, "history").history["rows"]
        if not rows:
            raise UserError(f"{workdir.path} has no finished epoch yet that could be the best: take 'latest', or wait")
        step = best_row(rows, score_key(from_recorded(run["config"])))["step"]
    if step not in steps:
        raise UserError(
            f"{workdir.checkpoints} has no checkpoint of step {step}: expected one of {', '.join(map(str, steps))}"
        )
    contents = _read(workdir.checkpoints, step, "arrays", "history")
    state, rows = contents.arrays["state"], contents.history["rows"]
    variables = averaging.scored(state["params"], state.get("batch_stats", {}), state.get("opt_state", {}))
    check_arrays(variables, _expected(run), workdir.checkpoints / str(step))
    result = workdir.read_result() or {}  # of the final and the best epoch it says more than the rows
    rows += [result[key] for key in ("final", "best") if key in result]
    metrics = {key: value for row in rows if row["step"] == step for key, value in row.items()}
    if views:
        run["config"]["test_views"] = views
    return TrainedModel(run, variables, step=step, metrics=metrics)


def _read(checkpoints: Path, step: int, *items: str) -> Any:
    """What Orbax makes of `arrays` and `history` of a checkpoint that is as it was written."""
    import orbax.checkpoint as ocp  # late: a command that has kept the model starts without it

    wrong = find_damage(checkpoints / str(step))
    if wrong:
        raise UserError(f"the checkpoint of step {step} in {checkpoints} is damaged ({wrong}): choose another")
    handler = ocp.CompositeCheckpointHandler(
        arrays=ocp.StandardCheckpointHandler(), history=ocp.JsonCheckpointHandler()
    )
    restore = {"arrays": ocp.args.StandardRestore(), "history": ocp.args.JsonRestore()}
    args = ocp.args.Composite(**{item: restore[item] for item in items})
    with ocp.Checkpointer(handler) as checkpointer:
        return checkpointer.restore((checkpoints / str(step)).absolute(), args=args)


def _module(config: FrozenConfigDict, num_classes: int, *, conv: str | None) -> nn.Module:
    """The config's, or with another convolution."""
    model_config = ConfigDict(config.model.to_dict())
    model_config.conv = conv or model_config.conv
    return create_model(model_config, num_classes)


def _expected(run: dict[str, Any]) -> dict[str, Any]:
    """The shapes and types of the variables that a run's model has."""
    # XLA's own convolution has the same parameters, and is traced in a fraction of the time.
    module = _module(from_recorded(run["config"]), run["num_classes"], conv="lax")
    images = jax.ShapeDtypeStruct((1, *run["image_shape"]), jnp.uint8)
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    return {"batch_stats": {}, **shapes}
