"""Configs: every field with its default, bounds and unit; experiments as deltas; the resolved config of a run."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict
from ml_collections.config_dict import placeholder

from digits_jax import augment, cli, data, input_pipeline, losses, metrics, models, ops, optimizer
from digits_jax.bounds import (
    FLAG,
    NAME,
    PATH,
    PATTERNS,
    POSITIVE,
    PROBABILITY,
    SHA256,
    WEIGHTS,
    integer,
    names_of,
    none_or,
    one_of,
    optional,
    tuple_of,
)  # fmt: skip
from digits_jax.errors import ConfigError
from digits_jax.tables import Field, Sections
from digits_jax.test_time import TEST_TIME_AUGMENTATIONS

# The sections that name an entry of a table; they have its arguments as fields, see `fields`.
SECTIONS = Sections(
    optimizer=optimizer.OPTIMIZERS, schedule=optimizer.SCHEDULES, loss=losses.LOSSES, augment=augment.AUGMENTATIONS,
    model=models.MODELS,
)  # fmt: skip
FIELDS: dict[str, Field] = {
    "seed": Field(0, integer(0, 2**32 - 1), "seed of initial weights, image order, dropout and augmentation"),
    "num_seeds": Field(1, integer(1), "runs: one for each seed from `seed` on"),
    # The learning rate is learning_rates[i] for epochs[i] epochs. A run is sum(epochs) long.
    "learning_rates": Field(
        (0.01, 0.1, 0.01), tuple_of(POSITIVE, "numbers > 0, such as (0.01, 0.1)"),
        "factors on the gradient; all schedules but piecewise_constant have one, their peak",
    ),
    "epochs": Field((1, 5, 5), tuple_of(integer(1), "integers >= 1, such as (1, 5)"), "epochs at each rate"),
    "optimizer.clip_norm": Field(float, optional(POSITIVE), "largest global norm of the gradients; None: any"),
    "optimizer.accumulate_steps": Field(1, integer(1), "steps whose gradients are averaged into one update"),
    "optimizer.decayed": Field("kernels", one_of(("kernels", "all")), "parameters that `weight_decay` applies to"),
    "average_decay": Field(0.0, PROBABILITY, "decay of the moving average of the weights that is evaluated; 0: none"),
    "init_from": Field(str, optional(WEIGHTS), "run whose weights are taken where names and shapes fit; RUN:STEP"),
    "extends_sha256": Field(str, optional(SHA256), "state that --extend began from; filled in"),
    "freeze": Field((), PATTERNS, "parameters, such as ('Conv_*',), that keep their initial values and statistics"),
    "batch_size": Field(64, integer(1), "images per step over all devices; the last batch of an epoch may be short"),
    "early_stopping_epochs": Field(0, integer(0), "epochs without a better one after which a run stops; 0: never"),
    # Its size also decides the random numbers of test_augmented/ and test_stream/.
    "eval_batch_size": Field(64, integer(1), "images per evaluation batch"),
    "test_time_augmentation": Field("none", one_of(TEST_TIME_AUGMENTATIONS), "at evaluation and prediction"),
    "test_stream": Field(False, FLAG, "also evaluate on a shuffled stream of test images, as test_stream/"),
    "dataset.name": Field("mnist", NAME, "one of data.DATASETS; of arrays that are given from Python, their name"),
    "dataset.data_dir": Field(str, PATH, "prepared data; None: $TFDS_DATA_DIR or ~/tensorflow_datasets"),
    "dataset.source_dir": Field(str, PATH, "original IDX files, for data not prepared yet"),
    "dataset.validation_examples": Field(0, integer(0), "training images held out to select the best epoch"),
    "dataset.validation_split": Field("last", one_of(("last", "writers")), "the last ones, or all of some writers"),
    "dataset.score_test": Field(True, FLAG, "whether test images are scored; False: to choose on held-out ones"),
    "dataset.train_examples": Field(int, optional(integer(1)), "first training images used; None: all"),
    "dataset.test_examples": Field(int, optional(integer(1)), "first test images scored, at most; None: all"),
    "augment.test": Field(False, FLAG, "also evaluate on augmented test images, as test_augmented/"),
    "augment.test_ranges": Field((), none_or(augment.RANGES), "the ranges for test images; (): those of training"),
    # How a run is computed. Those in `SAME_BITS` leave its bits alone.
    "execution.steps_per_call": Field(20, integer(1), "steps per compiled call; Ctrl-C waits for its end"),
    "execution.microbatch_size": Field(0, integer(0), "images per gradient; 0: 64 for CNNs on a CPU, else all"),
    "execution.seeds_at_once": Field(0, integer(0), "seeds per compiled program; 0: 1 on one CPU, elsewhere all"),
    "execution.images_on": Field("device", one_of(input_pipeline.IMAGES_ON), "where the training images are kept"),
    "execution.kernels": Field("auto", one_of(ops.KERNELS), "convolutions; auto: winograd on a CPU, elsewhere lax"),
}  # fmt: skip
SAME_BITS = ("execution.steps_per_call", "execution.seeds_at_once", "execution.images_on")

# The post's ImageDataGenerator, and its validation on augmented images (`da_test_batches`).
POST_AUGMENTATION = {**dict(zip(augment.RANGES, (8.0, 0.08, 0.08, 0.3, 0.08), strict=True)), "test": True}
ARGUMENTS = ("as_logged", "smoke")


def fields() -> dict[str, Field]:
    """Returns all fields: those above, the entries that sections name, and the arguments of whatever is registered.

    A field that names trained weights has another beside it, for their hash.
    """
    found = {
        **FIELDS,
        "optimizer.name": Field("sgd", one_of(optimizer.OPTIMIZERS), "the optimizer"),
        "schedule.name": Field("piecewise_constant", one_of(optimizer.SCHEDULES), "the learning rate over steps"),
        "loss.name": Field("cross_entropy", one_of(losses.LOSSES), "the loss"),
        "augment.names": Field(("affine",), names_of(augment.AUGMENTATIONS), "augmentations, in this order"),
        "model.name": Field("vgg", one_of(models.MODELS), "the model"),
        "metrics": Field((), names_of(metrics.METRICS), "means over the steps of an epoch, as train/NAME"),
        "callbacks": Field((), names_of(metrics.CALLBACKS), "functions that are called after each epoch"),
    }
    for section, table in SECTIONS.items():
        for key, field in table.arguments.items():
            found[f"{section}.{key}"] = field._replace(bounds=optional(field.bounds))
    hashes = {f"{name}_sha256": Field(str, optional(SHA256), f"of {name}; filled in") for name in weights_fields(found)}
    return {**found, **hashes}


def weights_fields(found: Mapping[str, Field] | None = None) -> list[str]:
    """Returns the fields that name trained weights. Not they identify a run but their hashes, of `<field>_sha256`."""
    return [name for name, field in (found or fields()).items() if field.bounds.expected == WEIGHTS.expected]


def get_config() -> ConfigDict:
    """Returns the defaults: the VGG-like network without regularization, trained as the post states it."""
    config = ConfigDict()
    for name, field in fields().items():
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
            before = config.copy_and_resolve_references()
            change(config)
            SECTIONS.unset_unfit(config, before)
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
    dry run in seconds: 256 images and 1,000 test images, one epoch per learning rate.
    """
    if argument in own:
        override(config, own[argument])
    elif argument == "as_logged":
        if (config.optimizer.name, config.schedule.name) != ("sgd", "piecewise_constant"):
            raise ConfigError("the post has no log of this config: expected the argument 'smoke' or none")
        # In Keras 1, setting `model.optimizer.lr` after the training function is built changes nothing: the log of
        # the linear model matches a constant 0.01 and does not drop where the stated rate falls.
        # Source: keras/optimizers.py and keras/engine/training.py, releases 1.0.8 to 1.2.2.
        config.learning_rates, config.epochs = (0.01,), (sum(config.epochs),)
        config.model.kernel_init = "keras1_uniform"  # smaller than Glorot's, see ops.initializers
        config.test_stream = True  # its validation is on a stream of test images, see input_pipeline.stream_order
    elif argument == "smoke":
        config.dataset.update(train_examples=256, test_examples=1_000)
        config.epochs = (1,) * len(config.learning_rates)
    elif argument:
        raise ConfigError(f"unknown config argument {argument!r}: expected one of {[*own, *ARGUMENTS]} or none")


def override(config: ConfigDict, changes: Mapping[str, Any]) -> None:
    """Sets fields by their dotted names; a section that names another entry loses the arguments of the earlier one."""
    before = config.copy_and_resolve_references()
    config.update_from_flattened_dict(dict(changes))
    SECTIONS.unset_unfit(config, before)


def with_defaults(config: ConfigDict) -> dict[str, Any]:
    """Returns a valid config as nested dictionaries; named entries have their defaults, equal values one type."""
    nested = config.to_dict()
    SECTIONS.fill(nested, config)
    for name, field in fields().items():
        section, _, key = name.rpartition(".")
        values = nested[section] if section else nested
        values[key] = field.bounds.convert(values[key])
    return nested


def validate(config: ConfigDict) -> None:
    """Checks every field that can be checked without the data.

    Raises:
      ConfigError: a value is out of bounds or of the wrong type, or two fields contradict each other.
    """
    checks = [(name, _value(config, name), field.bounds) for name, field in fields().items()]
    for key, value in zip(augment.RANGES, config.augment.test_ranges or (), strict=False):
        checks.append((f"augment.test_ranges ({key})", value, augment.AUGMENTATIONS.arguments[key].bounds))
    for name, value, bounds in checks:
        _require(bounds.accepts(value), name, value, bounds.expected)
    SECTIONS.check_fit(config)
    seed, rates, epochs, last = config.seed, config.learning_rates, config.epochs, 2**32 - config.num_seeds
    _require(seed <= last, "seed", seed, f"an integer from 0 to {last}")
    _require(len(rates) == len(epochs), "epochs", epochs, f"as many as learning_rates, which is {rates!r}")
    _require(
        config.schedule.name == "piecewise_constant" or len(rates) == 1,
        "learning_rates", rates, f"one, such as (0.1,), with schedule.name={config.schedule.name!r}",
    )  # fmt: skip
    models.check(config.model, image_shape=None)
    if config.dataset.validation_split == "writers" or not config.dataset.score_test:
        _require(config.dataset.validation_examples > 0, "dataset.validation_examples", 0, "> 0, to score these images")
    one_by_one = config.early_stopping_epochs or config.execution.images_on == "host"
    _require(
        config.execution.seeds_at_once <= 1 or not one_by_one,
        "execution.seeds_at_once", config.execution.seeds_at_once,
        "0 or 1 with early_stopping_epochs or execution.images_on='host'",
    )  # fmt: skip


def resolve(config: ConfigDict, dataset: data.Dataset, *, seed: int | None = None) -> FrozenConfigDict:
    """Returns the config that describes one seed's run completely, and nothing of the machine.

    Fills in the arguments' defaults, and the mean and standard deviation of the training images; gives equal values one
    type; drops paths of data and the number of seeds. Idempotent.

    Args:
      config: a validated config.
      dataset: its data.
      seed: None: `config.seed`.

    Raises:
      ConfigError: a field contradicts the data.
    """
    images, batch_size = dataset.arrays.train_images, config.batch_size
    _require(batch_size <= len(images), "batch_size", batch_size, f"at most the {len(images)} training images")
    models.check(config.model, image_shape=images.shape[1:])
    resolved = ConfigDict(with_defaults(config))
    resolved.dataset.update(data_dir=None, source_dir=None)  # paths do not belong in results
    resolved.dataset.update(name=dataset.name, validation_examples=dataset.validation_examples)
    resolved.dataset.validation_split = dataset.validation_split
    resolved.dataset.train_examples = len(images)
    resolved.seed = config.seed if seed is None else seed
    resolved.num_seeds = 1
    if resolved.model.mean is None:
        resolved.model.mean = float(images.mean(dtype="float64"))
    if resolved.model.std is None:
        resolved.model.std = float(images.std(dtype="float64"))
        _require(resolved.model.std > 0, "model.std", 0.0, "a number > 0: all training pixels are equal")
    SECTIONS.check_complete(resolved)
    return FrozenConfigDict(resolved)


def _value(config: Mapping[str, Any], name: str) -> Any:
    for part in name.split("."):
        config = config[part]
    return config


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"config.{name} is {value!r}: expected {expected}")
