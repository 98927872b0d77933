"""Trained models: `load_model("runs/vgg/0123abcd").predict(images)`.

Loading only reads: a run that is still training is not disturbed, and a corrupted checkpoint is reported, not moved.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import FrozenConfigDict

from digits_jax import ops, storage
from digits_jax.augment import average_over_versions
from digits_jax.errors import ConfigError, UserError
from digits_jax.models import create_model
from digits_jax.optimizer import averaged_params
from digits_jax.runs.history import best_row, score_key
from digits_jax.runs.identity import from_recorded, upgrade
from digits_jax.runs.workdir import Workdir
from digits_jax.storage import PathLike

# Images in one compiled call. There is one such size, so that nothing is compiled twice and the prediction for an image
# has the same bits whatever comes with it. On a CPU the activations of so many fit its cache.
_CPU_PART, _PART = 64, 1024


class TrainedModel:
    """A model with the parameters of one checkpoint."""

    def __init__(self, run: dict[str, Any], variables: dict[str, Any], *, step: int, metrics: dict[str, Any]) -> None:
        self.run = run  # the content of `run.json`: config, data, versions
        self.config: FrozenConfigDict = from_recorded(run["config"])
        self.image_shape: tuple[int, ...] = tuple(run["image_shape"])  # (H, W, C)
        self.num_classes: int = run["num_classes"]
        self.step = step  # training steps taken
        # Of the epoch that ended with this step, as in `metrics.jsonl` and `result.json`; {} in mid-epoch.
        self.metrics = metrics
        self.variables = variables  # the collections `params` and `batch_stats`, of NumPy arrays
        self._on_device = jax.device_put(variables)
        apply = self.function()

        def answer(variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
            with ops.using(self.config.execution.kernels):
                logits = apply(variables, images)
            return logits, nn.softmax(logits)

        self._answer = ops.jit(answer)
        self._part = _CPU_PART if jax.default_backend() == "cpu" else _PART

    @property
    def members(self) -> list["TrainedModel"]:
        """Itself: a single model is an ensemble of one, see `ensemble.py`."""
        return [self]

    def function(self, *, test_time_augmentation: str | None = None) -> Callable[[Any, jax.Array], jax.Array]:
        """Returns the function from variables and images `[B, H, W, C]` to logits `[B, num_classes]`, to be traced."""
        module = create_model(self.config.model, self.num_classes)
        name = test_time_augmentation or self.config.test_time_augmentation

        def logits(variables: Any, images: jax.Array) -> jax.Array:
            return average_over_versions(partial(module.apply, variables, train=False), name)(images)

        return logits

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Returns the probability of each class, float32 `[N, num_classes]`.

        The images are uint8 `[N, H, W, C]`, or `[N, H, W]` where C is 1: raw pixels, as in the data that it was trained
        on. Raises a ValueError if they are of another type or shape.
        """
        return self._answers(images)[1]

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns the logits; `predict` is their softmax."""
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
        nothing = np.zeros((0, self.num_classes), np.float32)
        results = [(nothing, nothing), *jax.device_get([self._answer(self._on_device, part) for part in parts])]
        logits, probabilities = (np.concatenate(arrays)[:count] for arrays in zip(*results, strict=True))
        return logits, probabilities


def load_model(
    workdir: PathLike, *, checkpoint: str = "best", test_time_augmentation: str | None = None
) -> TrainedModel:
    """Loads the model of a run, whose directory may be on a bucket (`gs://`).

    Args:
      checkpoint: "best", of the epoch that the run selects; "latest"; or a step, such as "938".
      test_time_augmentation: instead of that of the run's config.

    Raises:
      UserError: there is no run, no such checkpoint, or a corrupted one.
      ConfigError: `checkpoint` is none of these words and no number, or there is no such augmentation.
    """
    if checkpoint not in ("best", "latest") and not checkpoint.isdecimal():
        raise ConfigError(f"checkpoint is {checkpoint!r}: expected 'best', 'latest' or a step, such as '938'")
    with storage.local_copy(workdir) as mirror:
        return _load(Workdir(mirror.local if mirror else Path(workdir)), checkpoint, test_time_augmentation)


def _load(workdir: Workdir, checkpoint: str, test_time_augmentation: str | None) -> TrainedModel:
    from digits_jax.runs.checkpoint import check_arrays  # imports Orbax

    if not workdir.path.is_dir():
        raise UserError(f"{workdir.path} does not exist: expected the directory of a run, such as runs/vgg/0123abcd")
    run = workdir.read_run()
    if not (isinstance(run.get("image_shape"), list) and isinstance(run.get("num_classes"), int)):
        raise UserError(
            f"{workdir.run_file} is of a version that recorded no shapes: add those of its data, such as "
            '"image_shape": [28, 28, 1], "num_classes": 10'
        )
    # A checkpoint counts once its manifest is there: the run may be writing another.
    steps = sorted(int(file.parent.name) for file in workdir.checkpoints.glob(f"*/{storage.MANIFEST}"))
    if not steps:
        raise UserError(f"{workdir.checkpoints} holds no checkpoint: expected those of a run that has begun to train")
    step = int(checkpoint) if checkpoint.isdecimal() else steps[-1]
    if checkpoint == "best":
        rows = _read(workdir.checkpoints, step, "history").history["rows"]
        if not rows:
            raise UserError(f"{workdir.path} has no finished epoch yet that could be the best: use 'latest', or wait")
        step = best_row(rows, score_key(from_recorded(run["config"])))["step"]
    if step not in steps:
        raise UserError(
            f"{workdir.checkpoints} has no checkpoint of step {step}: expected one of {', '.join(map(str, steps))}"
        )
    contents = _read(workdir.checkpoints, step, "arrays", "history")
    state, rows = contents.arrays["state"], contents.history["rows"]
    params = averaged_params(state["params"], state.get("opt_state", {}))
    variables = {"params": params, "batch_stats": state.get("batch_stats", {})}
    module = create_model(from_recorded(run["config"]).model, run["num_classes"])
    images = jax.ShapeDtypeStruct((1, *run["image_shape"]), jnp.uint8)
    with ops.using("lax"):  # traced in a fraction of the time
        shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, train=False), images)
    check_arrays(variables, {"batch_stats": {}, **shapes}, workdir.checkpoints / str(step))
    result = workdir.read_result() or {}  # of the final and the best epoch it says more than the rows
    rows += [result[key] for key in ("final", "best") if key in result]
    metrics = {key: value for row in rows if row["step"] == step for key, value in row.items()}
    if test_time_augmentation:
        run["config"] = {**upgrade(run["config"]), "test_time_augmentation": test_time_augmentation}
    return TrainedModel(run, variables, step=step, metrics=metrics)


def _read(checkpoints: Path, step: int, *items: str) -> Any:
    """Restores items, "arrays" and "history", of a checkpoint that is as it was written."""
    import orbax.checkpoint as ocp  # late: a command that has cached the model starts without it

    if wrong := storage.find_damage(checkpoints / str(step)):
        raise UserError(f"the checkpoint of step {step} in {checkpoints} is corrupted ({wrong}): choose another")
    handlers = {"arrays": ocp.StandardCheckpointHandler(), "history": ocp.JsonCheckpointHandler()}
    restore = {"arrays": ocp.args.StandardRestore(), "history": ocp.args.JsonRestore()}
    args = ocp.args.Composite(**{item: restore[item] for item in items})
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler(**handlers)) as checkpointer:
        return checkpointer.restore((checkpoints / str(step)).absolute(), args=args)
