"""Configs: every field with its default, bounds and unit; experiments as deltas; the resolved config of a run."""

import importlib.util
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import placeholder

from digits_jax import augment, cli, data, input_pipeline, losses, models, ops, optimizer
from digits_jax.bounds import (
    FINITE,
    FLAG,
    PATH,
    POSITIVE,
    PROBABILITY,
    Bounds,
    integer,
    none_or,
    number,
    one_of,
    optional,
    tuple_of,
)  # fmt: skip
from digits_jax.errors import ConfigError


class Field(NamedTuple):
    """A config field: its default, its bounds, and what it is, with its unit."""

    default: Any  # a type stands for None, in whose place a value of that type may be given
    bounds: Bounds
    description: str


_WARP = {  # the ranges of a random affine warp
    "rotation": (number(0, 180), "degrees: +- this"),
    "height_shift": (number(0, 1), "fraction of the height: +- this"),
    "width_shift": (number(0, 1), "fraction of the width: +- this"),
    "shear": (number(0, math.pi / 2, open_end=True), "radians: +- this"),
    "zoom": (number(0, 1, open_end=True), "fraction of the size: each axis is scaled by 1 +- this"),
}

FIELDS: dict[str, Field] = {
    "seed": Field(0, integer(0, 2**32 - 1), "seed of initial weights, image order, dropout and augmentation"),
    "num_seeds": Field(1, integer(1), "runs: one for each seed from `seed` on"),
    # The learning rate is learning_rates[i] for epochs[i] epochs. A run is sum(epochs) long.
    "learning_rates": Field(
        (0.01, 0.1, 0.01), tuple_of(POSITIVE, "numbers > 0, such as (0.01, 0.1)"),
        "factors on the gradient; all schedules but piecewise_constant have one, their peak",
    ),
    "epochs": Field((1, 5, 5), tuple_of(integer(1), "integers >= 1, such as (1, 5)"), "epochs at each rate"),
    "schedule": Field("piecewise_constant", one_of(optimizer.SCHEDULES), "the learning rate over steps"),
    "warmup_fraction": Field(0.2, number(0, 1), "fraction of the steps before the peak of the schedule `triangle`"),
    "optimizer": Field("sgd", one_of(optimizer.OPTIMIZERS), "the optimizer"),
    "loss": Field("cross_entropy", one_of(losses.LOSSES), "the loss"),
    "label_smoothing": Field(0.0, PROBABILITY, "weight of the uniform distribution in the targets"),
    "average_decay": Field(0.0, PROBABILITY, "decay of the moving average of the weights that is evaluated; 0: none"),
    "batch_size": Field(64, integer(1), "images per step over all devices; the last batch of an epoch may be short"),
    "early_stopping_epochs": Field(0, integer(0), "epochs without a better one after which a run stops; 0: never"),
    # Its size also decides the random numbers of test_augmented/ and test_stream/.
    "eval_batch_size": Field(64, integer(1), "images per evaluation batch"),
    "test_time_augmentation": Field("none", one_of(augment.TEST_TIME_AUGMENTATIONS), "at evaluation and prediction"),
    "test_stream": Field(False, FLAG, "also evaluate on a shuffled stream of test images, as test_stream/"),
    "dataset.name": Field("mnist", one_of(data.DATASETS), "the data set"),
    "dataset.data_dir": Field(str, PATH, "prepared data; None: $TFDS_DATA_DIR or ~/tensorflow_datasets"),
    "dataset.source_dir": Field(str, PATH, "original IDX files, for data not prepared yet"),
    "dataset.validation_examples": Field(0, integer(0), "last training images held out to select the best epoch"),
    "dataset.train_examples": Field(int, optional(integer(1)), "first training images used; None: all"),
    # "affine": random warps, uniform in these ranges; all zero: none.
    "augment.name": Field("affine", one_of(augment.AUGMENTATIONS), "augmentation of training images"),
    **{f"augment.{name}": Field(0.0, *bounds) for name, bounds in _WARP.items()},
    "augment.interpolation": Field("nearest", one_of(augment.INTERPOLATIONS), "sampling; nearest is Keras 1's"),
    "augment.test": Field(False, FLAG, "also evaluate on augmented test images, as test_augmented/"),
    "augment.test_ranges": Field((), none_or(_WARP), "the ranges for test images; (): those of training"),
    "model.name": Field("vgg", one_of(models.MODELS), "the model"),
    "model.mean": Field(float, optional(FINITE), "gray level subtracted from pixels; None: that of the training set"),
    "model.std": Field(float, optional(POSITIVE), "gray levels that pixels are divided by; None: as for the mean"),
    "model.kernel_init": Field("glorot_uniform", one_of(models.KERNEL_INITS), "kernel initializer; biases are zero"),
    "model.dtype": Field("float32", one_of(models.DTYPES), "type of activations; parameters stay float32"),
    # The rest is read by the model `vgg` only.
    "model.widths": Field(
        ((32, 32), (64, 64)), tuple_of(tuple_of(integer(1), ""), "a tuple of channels per block, such as ((8,), (8,))"),
        "channels of the 3x3 convolutions, per block; a 2x2 max-pool ends a block",
    ),
    "model.hidden_width": Field(512, integer(1), "units of the hidden dense layer"),
    "model.block_dropout": Field(
        (0.0, 0.0), tuple_of(PROBABILITY, "a probability in [0, 1) per block, such as (0.5, 0.5)"),
        "dropout rate after each block's max-pool",
    ),
    "model.hidden_dropout": Field(0.0, PROBABILITY, "dropout rate before the last layer"),
    "model.batch_norm": Field("none", one_of(models.BATCH_NORM_PLACES), "batch normalization around activations"),
    "model.bn_momentum": Field(0.99, number(0, 1), "weight of the old running mean and variance in each update"),
    "model.bn_epsilon": Field(1e-5, number(0), "added to the variance; Keras 1.0.8 to 1.1.2 have this value"),
    # How a run is computed. Those in `SAME_BITS` leave its bits alone.
    "execution.steps_per_call": Field(20, integer(1), "steps per compiled call; Ctrl-C waits for its end"),
    "execution.microbatch_size": Field(0, integer(0), "images per gradient; 0: 64 for CNNs on a CPU, else all"),
    "execution.seeds_at_once": Field(0, integer(0), "seeds per compiled program; 0: 1 on one CPU, elsewhere all"),
    "execution.images_on": Field("device", one_of(input_pipeline.IMAGES_ON), "where the training images are kept"),
    "execution.kernels": Field("auto", one_of(ops.KERNELS), "convolutions; auto: winograd on a CPU, elsewhere lax"),
}  # fmt: skip
SAME_BITS = ("execution.steps_per_call", "execution.seeds_at_once", "execution.images_on")

# The post's ImageDataGenerator, and its validation on augmented images (`da_test_batches`).
POST_AUGMENTATION = {**dict(zip(_WARP, (8.0, 0.08, 0.08, 0.3, 0.08), strict=True)), "test": True}
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
    checks = [(name, _value(config, name), field.bounds) for name, field in FIELDS.items()]
    test_ranges = zip(config.augment.test_ranges or (), _WARP.values(), strict=False)
    checks += [(f"augment.test_ranges.{i}", value, bounds) for i, (value, (bounds, _)) in enumerate(test_ranges)]
    for name, value, bounds in checks:
        _require(bounds.accepts(value), name, value, bounds.expected)
    seed, rates, epochs, dropout = config.seed, config.learning_rates, config.epochs, config.model.block_dropout
    blocks, last = len(config.model.widths), 2**32 - config.num_seeds
    _require(seed <= last, "seed", seed, f"an integer from 0 to {last}")
    _require(len(rates) == len(epochs), "epochs", epochs, f"as many as learning_rates, which is {rates!r}")
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

    Fills in the mean and standard deviation of the training images; drops paths and the number of seeds. Idempotent.

    Args:
      config: a validated config.
      dataset: its data.
      seed: None: `config.seed`.

    Raises:
      ConfigError: a field contradicts the data.
    """
    images, batch_size = dataset.arrays.train_images, config.batch_size
    _require(batch_size <= len(images), "batch_size", batch_size, f"at most the {len(images)} training images")
    models.check_image_shape(config.model, images.shape[1:])
    resolved = ConfigDict(config.to_dict())
    resolved.dataset.update(data_dir=None, source_dir=None)  # paths do not belong in results
    resolved.dataset.train_examples = len(images)
    resolved.seed = config.seed if seed is None else seed
    resolved.num_seeds = 1
    if resolved.model.mean is None:
        resolved.model.mean = float(images.mean(dtype="float64"))
    if resolved.model.std is None:
        resolved.model.std = float(images.std(dtype="float64"))
        _require(resolved.model.std > 0, "model.std", 0.0, "a number > 0: all training pixels are equal")
    return FrozenConfigDict(resolved)


def _value(config: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"config.{name} is {value!r}: expected {expected}")
