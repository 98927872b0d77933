"""Configs: every field with its default, bounds and unit; experiments as deltas; the resolved config of a run."""

import hashlib
import importlib.util
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import placeholder

from digits_jax import augment, cli, data, input_pipeline, losses, models, ops, optimizer
from digits_jax.errors import ConfigError


class Bounds(NamedTuple):
    """What a field accepts, as a predicate and in words."""

    accepts: Callable[[Any], bool]
    expected: str


class Field(NamedTuple):
    """A config field: its default, its bounds, and what it is, with its unit."""

    default: Any  # a type stands for None, in whose place a value of that type may be given
    bounds: Bounds
    description: str


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _integer(low: int, high: int | None = None) -> Bounds:
    expected = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    return Bounds(lambda x: _is_int(x) and low <= x and (high is None or x <= high), expected)


def _number(low: float, high: float = math.inf, *, open_end: bool = False) -> Bounds:
    below = (lambda x: x < high) if open_end else (lambda x: x <= high)
    return Bounds(lambda x: _is_number(x) and low <= x and below(x), f"a number in [{low}, {high}{')]'[not open_end]}")


def _one_of(names: Any) -> Bounds:
    return Bounds(lambda x: x in names, "one of " + ", ".join(names))


def _tuple_of(item: Callable[[Any], bool], expected: str) -> Bounds:
    return Bounds(lambda x: isinstance(x, tuple) and x != () and all(map(item, x)), expected)


def _optional(bounds: Bounds) -> Bounds:
    return Bounds(lambda x: x is None or bounds.accepts(x), bounds.expected)


def _is_block(widths: object) -> bool:
    return isinstance(widths, tuple) and widths != () and all(_is_int(w) and w >= 1 for w in widths)


_FLAG = Bounds(lambda x: isinstance(x, bool), "True or False")
_PATH = _optional(Bounds(lambda x: isinstance(x, str), "a path"))
_PROBABILITY = _number(0, 1, open_end=True)
_POSITIVE = Bounds(lambda x: _is_number(x) and x > 0, "a number > 0")
_WARP = {  # the ranges of a random affine warp
    "rotation": (_number(0, 180), "degrees: +- this"),
    "height_shift": (_number(0, 1), "fraction of the height: +- this"),
    "width_shift": (_number(0, 1), "fraction of the width: +- this"),
    "shear": (_number(0, math.pi / 2, open_end=True), "radians: +- this"),
    "zoom": (_number(0, 1, open_end=True), "fraction of the size: each axis is scaled by 1 +- this"),
}

FIELDS: dict[str, Field] = {
    "seed": Field(0, _integer(0, 2**32 - 1), "seed of initial weights, image order, dropout and augmentation"),
    "num_seeds": Field(1, _integer(1), "runs: one for each seed from `seed` on"),
    # The learning rate is learning_rates[i] for epochs[i] epochs. A run is sum(epochs) long.
    "learning_rates": Field(
        (0.01, 0.1, 0.01),
        _tuple_of(lambda x: _is_number(x) and x > 0, "numbers > 0, such as (0.01, 0.1)"),
        "learning rates; all schedules but piecewise_constant have one, their peak",
    ),
    "epochs": Field(
        (1, 5, 5), _tuple_of(lambda x: _is_int(x) and x >= 1, "integers >= 1, such as (1, 5)"), "epochs at each rate"
    ),
    "schedule": Field("piecewise_constant", _one_of(optimizer.SCHEDULES), "the learning rate over steps"),
    "warmup_fraction": Field(0.2, _number(0, 1), "fraction of the steps before the peak of the schedule `triangle`"),
    "optimizer": Field("sgd", _one_of(optimizer.OPTIMIZERS), "the optimizer"),
    "loss": Field("cross_entropy", _one_of(losses.LOSSES), "the loss"),
    "label_smoothing": Field(0.0, _PROBABILITY, "weight of the uniform distribution in the targets"),
    "average_decay": Field(0.0, _PROBABILITY, "decay of the moving average of the weights that is evaluated; 0: none"),
    "batch_size": Field(64, _integer(1), "images per step over all devices; the last batch of an epoch may be short"),
    "early_stopping_epochs": Field(0, _integer(0), "epochs without a better one after which a run stops; 0: never"),
    # Its size also decides the random numbers of test_augmented/ and test_stream/.
    "eval_batch_size": Field(64, _integer(1), "images per evaluation batch"),
    "test_time_augmentation": Field("none", _one_of(augment.TEST_TIME_AUGMENTATIONS), "at evaluation and prediction"),
    "test_stream": Field(False, _FLAG, "also evaluate on a shuffled stream of test images, as test_stream/"),
    "dataset.name": Field("mnist", _one_of(data.DATASETS), "the data set"),
    "dataset.data_dir": Field(str, _PATH, "prepared data; None: $TFDS_DATA_DIR or ~/tensorflow_datasets"),
    "dataset.source_dir": Field(str, _PATH, "original IDX files, for data not prepared yet"),
    "dataset.validation_examples": Field(0, _integer(0), "last training images held out to select the best epoch"),
    "dataset.train_examples": Field(int, _optional(_integer(1)), "first training images used; None: all"),
    # "affine": random warps, uniform in these ranges; all zero: none.
    "augment.name": Field("affine", _one_of(augment.AUGMENTATIONS), "augmentation of training images"),
    **{f"augment.{name}": Field(0.0, *bounds) for name, bounds in _WARP.items()},
    "augment.interpolation": Field("nearest", _one_of(augment.INTERPOLATIONS), "sampling; nearest is Keras 1's"),
    "augment.test": Field(False, _FLAG, "also evaluate on augmented test images, as test_augmented/"),
    "augment.test_ranges": Field(
        (),
        Bounds(
            lambda x: isinstance(x, tuple) and len(x) in (0, len(_WARP)),
            f"none, or {len(_WARP)} numbers: {', '.join(_WARP)}",
        ),
        "the ranges for test images; (): those of training",
    ),
    "model.name": Field("vgg", _one_of(models.MODELS), "the model"),
    "model.mean": Field(
        float, _optional(Bounds(_is_number, "a finite number, in gray levels")),
        "gray level subtracted from pixels; None: the training images' mean",
    ),
    "model.std": Field(
        float, _optional(_POSITIVE._replace(expected="a number > 0, in gray levels")),
        "gray levels that pixels are divided by; None: the training images' standard deviation",
    ),
    "model.kernel_init": Field("glorot_uniform", _one_of(models.KERNEL_INITS), "kernel initializer; biases are zero"),
    "model.dtype": Field("float32", _one_of(models.DTYPES), "type of activations; parameters stay float32"),
    # The rest is read by the model `vgg` only.
    "model.widths": Field(
        ((32, 32), (64, 64)), _tuple_of(_is_block, "a tuple of channels per block, such as ((32, 32), (64, 64))"),
        "channels of the 3x3 convolutions, per block; a 2x2 max-pool ends a block",
    ),
    "model.hidden_width": Field(512, _integer(1), "units of the hidden dense layer"),
    "model.block_dropout": Field(
        (0.0, 0.0), _tuple_of(_PROBABILITY.accepts, "a probability in [0, 1) per block, such as (0.5, 0.5)"),
        "dropout rate after each block's max-pool",
    ),
    "model.hidden_dropout": Field(0.0, _PROBABILITY, "dropout rate before the last layer"),
    "model.batch_norm": Field("none", _one_of(models.BATCH_NORM_PLACES), "batch normalization around activations"),
    "model.bn_momentum": Field(0.99, _number(0, 1), "weight of the old running mean and variance in each update"),
    "model.bn_epsilon": Field(1e-5, _number(0), "added to the variance; Keras 1.0.8 to 1.1.2 have this value"),
    # How a run is computed. Those in `SAME_BITS` leave its bits alone.
    "execution.steps_per_call": Field(20, _integer(1), "steps per compiled call; Ctrl-C waits for its end"),
    "execution.microbatch_size": Field(0, _integer(0), "images per gradient; 0: 64 for CNNs on a CPU, else all"),
    "execution.seeds_at_once": Field(0, _integer(0), "seeds per compiled program; 0: 1 on one CPU, elsewhere all"),
    "execution.images_on": Field("device", _one_of(input_pipeline.IMAGES_ON), "where the training images are kept"),
    "execution.kernels": Field("auto", _one_of(ops.KERNELS), "convolutions; auto: winograd on a CPU, elsewhere lax"),
}  # fmt: skip
_LOCATIONS = ("dataset.data_dir", "dataset.source_dir")  # paths do not belong in results
SAME_BITS = ("execution.steps_per_call", "execution.seeds_at_once", "execution.images_on")

# The post's ImageDataGenerator, and its validation on augmented images (`da_test_batches`).
POST_AUGMENTATION = {
    "rotation": 8.0, "height_shift": 0.08, "width_shift": 0.08, "shear": 0.3, "zoom": 0.08, "test": True,
}  # fmt: skip
ARGUMENTS = ("as_logged", "smoke")


def get_config() -> ConfigDict:
    """Returns the defaults: the VGG-like network without regularization, trained as the post states it."""
    config = ConfigDict()
    for name, field in FIELDS.items():
        section, _, key = name.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict()
        default = placeholder(field.default) if isinstance(field.default, type) else field.default
        (config[section] if section else config)[key] = default
    return config.lock()  # from here on, a field that is not declared is refused


def experiment(
    *, base: str | None = None, arguments: Mapping[str, Mapping[str, Any]] | None = None
) -> Callable[[Callable[[ConfigDict], None]], Callable[..., ConfigDict]]:
    """Turns a function that changes a config into the `get_config(argument)` that `--config` looks for.

    Args:
      base: the experiment to start from; None: the defaults.
      arguments: for each argument of the experiment's own, the fields that it sets.
    """

    def decorate(change: Callable[[ConfigDict], None]) -> Callable[..., ConfigDict]:
        def get_config_of_experiment(argument: str = "") -> ConfigDict:
            config = load_config(base) if base else get_config()
            change(config)
            _apply_argument(config, argument, arguments or {})
            return config

        return get_config_of_experiment

    return decorate


def load_config(name: str) -> ConfigDict:
    """Returns the config of an experiment.

    Args:
      name: of an experiment (`fast`), or the path of its file (`my/own.py`); after a colon its argument (`fast:smoke`).

    Raises:
      ConfigError: there is no such experiment, or it has no such argument.
    """
    path, _, argument = cli.config_path(name).partition(":")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None or not Path(path).is_file():
        raise ConfigError(f"config file {path!r} not found: {cli.expected_configs()}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


def _apply_argument(config: ConfigDict, argument: str, own: Mapping[str, Mapping[str, Any]]) -> None:
    """Applies the argument of `--config=NAME:ARGUMENT`.

    "as_logged" changes an experiment of the post from what its text states to what its printed log shows. "smoke" is a
    dry run in seconds: 256 images, one epoch per learning rate.
    """
    if argument in own:
        config.update_from_flattened_dict(own[argument])
    elif argument == "as_logged":
        if (config.optimizer, config.schedule) != ("sgd", "piecewise_constant"):
            raise ConfigError("the post has no log of this config: expected the argument 'smoke' or none")
        # In Keras 1, setting `model.optimizer.lr` after the training function is built changes nothing: the log of
        # the linear model matches a constant 0.01 and does not drop where the stated rate falls.
        # Source: keras/optimizers.py and keras/engine/training.py, releases 1.0.8 to 1.2.2.
        config.learning_rates, config.epochs = (0.01,), (sum(config.epochs),)
        config.model.kernel_init = "keras1_uniform"  # smaller than Glorot's, see models.keras1_uniform
        config.test_stream = True  # its validation is on a stream of test images, see input_pipeline.stream_order
    elif argument == "smoke":
        config.dataset.train_examples = 256
        config.epochs = (1,) * len(config.learning_rates)
    elif argument:
        raise ConfigError(f"unknown config argument {argument!r}: expected one of {[*own, *ARGUMENTS]} or none")


def validate(config: ConfigDict) -> None:
    """Checks every field that can be checked without the data.

    Raises:
      ConfigError: a value is out of bounds or of the wrong type, or two fields contradict each other.
    """
    for name, field in FIELDS.items():
        _check(name, _value(config, name), field.bounds)
    for (name, (bounds, _)), value in zip(_WARP.items(), config.augment.test_ranges, strict=False):
        _check(f"augment.test_ranges.{list(_WARP).index(name)}", value, bounds)
    rates, dropout, blocks = config.learning_rates, config.model.block_dropout, len(config.model.widths)
    _require(
        config.seed + config.num_seeds <= 2**32, "seed", config.seed, f"an integer from 0 to {2**32 - config.num_seeds}"
    )
    _require(
        len(rates) == len(config.epochs), "epochs", config.epochs, f"as many as learning_rates, which is {rates!r}"
    )
    _require(
        config.schedule == "piecewise_constant" or len(rates) == 1,
        "learning_rates", rates, f"one, such as (0.1,), with schedule={config.schedule!r}",
    )  # fmt: skip
    _require(len(dropout) == blocks, "model.block_dropout", dropout, f"{blocks} of them, one per block of model.widths")
    one_by_one = config.early_stopping_epochs or config.execution.images_on == "host"
    _require(
        config.execution.seeds_at_once <= 1 or not one_by_one,
        "execution.seeds_at_once", config.execution.seeds_at_once,
        "0 or 1 with early_stopping_epochs or execution.images_on='host'",
    )  # fmt: skip


def resolve(config: ConfigDict, dataset: data.Dataset, *, seed: int | None = None) -> FrozenConfigDict:
    """Returns the config that describes one seed's run completely, and nothing of the machine.

    Fills in the mean and standard deviation of the training images, and drops the paths of the data and the number of
    seeds. Idempotent.

    Args:
      config: a validated config.
      dataset: its data.
      seed: None: `config.seed`.

    Raises:
      ConfigError: a field contradicts the data.
    """
    images = dataset.arrays.train_images
    _require(
        config.batch_size <= len(images), "batch_size", config.batch_size, f"at most the {len(images)} training images"
    )
    models.check_image_shape(config.model, images.shape[1:])
    resolved = ConfigDict(config.to_dict())
    resolved.update_from_flattened_dict(dict.fromkeys(_LOCATIONS))
    resolved.dataset.train_examples = len(images)
    resolved.seed = config.seed if seed is None else seed
    resolved.num_seeds = 1
    if resolved.model.mean is None:
        resolved.model.mean = float(images.mean(dtype="float64"))
    if resolved.model.std is None:
        resolved.model.std = float(images.std(dtype="float64"))
        _require(resolved.model.std > 0, "model.std", 0.0, "a number > 0: all training pixels are equal")
    return FrozenConfigDict(resolved)


def config_hash(config: FrozenConfigDict) -> str:
    """Returns eight hexadecimal digits that name a resolved config.

    They depend on the fields that differ from their defaults only, so that a field that is declared later renames no
    finished run, and not on fields that leave a run's bits alone.
    """
    defaults = get_config().to_dict()
    changed = [(name, value) for name, value, _ in differences(config.to_dict(), defaults) if name not in SAME_BITS]
    return hashlib.sha256(json.dumps(changed).encode()).hexdigest()[:8]


def to_json(config: FrozenConfigDict) -> str:
    """Returns a config as JSON with sorted keys."""
    return json.dumps(config.to_dict(), sort_keys=True)


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """Returns the leaves in which two nested dictionaries differ, as (dotted name, our value, their value)."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found


def _value(config: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _check(name: str, value: object, bounds: Bounds) -> None:
    _require(bounds.accepts(value), name, value, bounds.expected)


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"config.{name} is {value!r}: expected {expected}")
