"""Trained models: `load_model("runs/vgg/0123abcd").predict(images)`, or `load_model()` for the shipped network.

Loading only reads: a run that is still training is not disturbed, and a corrupted checkpoint is reported, not moved.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from ml_collections import FrozenConfigDict

from digits_jax import ops, storage
from digits_jax.augment import identity
from digits_jax.errors import ConfigError, UserError
from digits_jax.losses import cross_entropy
from digits_jax.models import create_model
from digits_jax.optimizer import create_optimizer
from digits_jax.runs.checkpoint import Progress, read_checkpoint, read_history, saved_steps
from digits_jax.runs.history import best_row, score_key
from digits_jax.runs.identity import from_recorded, upgrade
from digits_jax.runs.registration import read_config
from digits_jax.runs.result import read_result
from digits_jax.runs.shipped import read_shipped, shipped_error
from digits_jax.runs.workdir import Workdir
from digits_jax.storage import PathLike
from digits_jax.test_time import average_over_versions
from digits_jax.train_step import Recipe, create_train_state

# Images in one compiled call. There is one such size, so that nothing is compiled twice and the prediction for an image
# has the same bits whatever comes with it. On a CPU the activations of so many fit its cache.
_CPU_PART, _PART = 64, 1024


class TrainedModel:
    """A model with the parameters of one checkpoint."""

    def __init__(
        self,
        run: dict[str, Any],
        variables: dict[str, Any],
        *,
        step: int,
        metrics: dict[str, Any],
        final: dict[str, Any] | None = None,
        selected_by: str | None = None,
    ) -> None:
        self.run = run  # the content of `run.json`: config, data, versions
        self.config: FrozenConfigDict = from_recorded(run["config"])
        self.image_shape: tuple[int, ...] = tuple(run["image_shape"])  # (H, W, C)
        self.num_classes: int = run["num_classes"]
        self.step = step  # training steps taken
        # Of the epoch that ended with this step, as in `metrics.jsonl` and `result.json`; {} in mid-epoch.
        self.metrics = metrics
        self.final = final or {}  # the same of the final epoch, once the run is finished
        self.selected_by = selected_by  # the metric by which this epoch was chosen among all; None: it was not
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
    workdir: PathLike | None = None, *, checkpoint: str | int = "best", test_time_augmentation: str | None = None
) -> TrainedModel:
    """Loads the model of a run, whose directory may be on a bucket (`gs://`), or the network that the package ships.

    Args:
      workdir: the directory of the run; None for the shipped network, which has the checkpoint of its last step only.
      checkpoint: "best", of the epoch that the run selects; "latest"; or a step, such as 938.
      test_time_augmentation: instead of that of the run's config.

    Raises:
      UserError: there is no run, no such checkpoint, or one that is corrupted or of another run.
      ConfigError: `checkpoint` is none of these words and no number, or there is no such augmentation.
    """
    checkpoint = str(checkpoint)
    if checkpoint not in ("best", "latest") and not re.fullmatch("0|[1-9][0-9]{0,17}", checkpoint):
        raise ConfigError(f"checkpoint is {checkpoint!r}: expected 'best', 'latest' or a step, such as '938'")
    if workdir is None:
        return _load_shipped(checkpoint, test_time_augmentation)
    with storage.local_copy(workdir) as mirror:
        local = mirror.local if mirror else storage.open_path(workdir)
        return _load(workdir, Workdir(local), checkpoint, test_time_augmentation)


def _load(path: PathLike, workdir: Workdir, checkpoint: str, test_time_augmentation: str | None) -> TrainedModel:
    if not workdir.path.is_dir():
        raise UserError(f"{workdir.path} does not exist: expected the directory of a run, such as runs/vgg/0123abcd")
    run = workdir.read_run()
    if run.get("image_shape") is None or run.get("num_classes") is None:
        raise UserError(
            f"{workdir.run_file} is of a version that recorded no shapes: add those of its data, such as "
            '"image_shape": [28, 28, 1], "num_classes": 10'
        )
    # A checkpoint counts once its manifest is there: the run may be writing another.
    files = (workdir.checkpoints / str(step) / storage.MANIFEST for step in saved_steps(workdir.checkpoints))
    steps = [int(file.parent.name) for file in files if file.exists()]
    if not steps:
        raise UserError(f"{workdir.checkpoints} holds no checkpoint: expected those of a run that has begun to train")
    step, config = int(checkpoint) if checkpoint.isdecimal() else steps[-1], read_config(run, path)
    if checkpoint == "best":
        rows, key = read_history(_checked(workdir, step))["rows"], score_key(config)
        if not rows:
            raise UserError(f"{workdir.path} has no finished epoch yet that could be the best: use 'latest', or wait")
        step = best_row(rows, key)["step"]
    if step not in steps:
        raise UserError(
            f"{workdir.checkpoints} has no checkpoint of step {step}: expected one of {', '.join(map(str, steps))}"
        )
    saved = read_checkpoint(_checked(workdir, step), Progress.at_the_start(_state_shapes(config, run), config))
    result = read_result(workdir, step=step) or {}  # of the final and the best epoch it says more than the rows
    rows = saved.rows + [result[key] for key in ("final", "best") if key in result]
    metrics = {key: value for row in rows if row["step"] == step for key, value in row.items()}
    run = _with_augmentation(run, test_time_augmentation)
    return TrainedModel(
        run,
        jax.device_get(saved.state.eval_variables),
        step=step,
        metrics=metrics,
        final=result.get("final"),
        selected_by=score_key(config) if checkpoint == "best" else None,
    )


def _load_shipped(checkpoint: str, test_time_augmentation: str | None) -> TrainedModel:
    about, arrays = read_shipped()
    run, step = about["run"], about["step"]
    if checkpoint not in ("best", "latest", str(step)):
        raise UserError(f"the shipped network has no checkpoint of step {checkpoint}: expected that of step {step}")
    shapes = flatten_dict(_state_shapes(from_recorded(run["config"]), run).eval_variables, sep="/")
    for name, leaf in shapes.items():
        if name not in arrays or (arrays[name].shape, arrays[name].dtype) != (leaf.shape, leaf.dtype):
            raise shipped_error(f"is not the one that its config describes ({name} is missing or has another shape)")
    variables = unflatten_dict({name: arrays[name] for name in shapes}, sep="/")
    about["run"] = _with_augmentation(run, test_time_augmentation)
    return TrainedModel(variables=variables, **about)


def _with_augmentation(run: dict[str, Any], name: str | None) -> dict[str, Any]:
    return {**run, "config": {**upgrade(run["config"]), "test_time_augmentation": name}} if name else run


def _checked(workdir: Workdir, step: int) -> Path:
    folder = workdir.checkpoints / str(step)
    if wrong := storage.find_damage(folder, workdir.identity):
        raise UserError(f"the checkpoint of step {step} in {workdir.checkpoints} {wrong}: choose another")
    return folder


def _state_shapes(config: FrozenConfigDict, run: dict[str, Any]) -> Any:
    """Returns the shapes of a run's state; raises a UserError if its config and shapes describe none."""
    try:
        model, tx = create_model(config.model, run["num_classes"]), create_optimizer(config, epoch_steps=1)
        recipe = Recipe(model, tx, identity, cross_entropy(), microbatch_size=1, freeze=config.freeze)
        create_state = partial(create_train_state, recipe, image_shape=tuple(run["image_shape"]))
        with ops.using("lax"):  # traced in a fraction of the time
            return jax.eval_shape(create_state, np.uint32(0))
    except Exception as error:  # JAX, Flax and Optax may raise anything for sizes that no config of ours has
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise UserError(f"the run's config and image_shape describe no model ({reason})") from None
