"""From a config as given to one that describes the run completely: bounds checked, data-dependent fields filled in."""

import hashlib
import json
import math
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from configs import default
from digits_jax import augment, input_pipeline, losses, models, optimizer, views
from digits_jax.data import DATASETS, Dataset
from digits_jax.errors import ConfigError
from digits_jax.ops import conv

# Where the data lie says nothing about the experiment, and paths do not belong in results.
_LOCATIONS = ("data_dir", "source_dir")
_AUGMENT_BOUNDS: dict[str, dict[str, float]] = {
    "rotation": {"high": 180},
    "height_shift": {"high": 1},
    "width_shift": {"high": 1},
    "shear": {"below": math.pi / 2},
    "zoom": {"below": 1},
}


def validate(config: ConfigDict) -> None:
    """Checks every field that can be checked without the data.

    Args:
      config: a config with the fields of `configs/default.py`.

    Raises:
      ConfigError: a value is out of bounds or of the wrong type, or two fields contradict each other.
    """
    _check_int(config, "num_seeds", low=1)
    _check_int(config, "seed", low=0, high=2**32 - config.num_seeds)
    _check_int(config, "seeds_at_once", low=0)
    _check_schedule(config)
    _check_choice(config, "optimizer", optimizer.OPTIMIZERS)
    _check_choice(config, "loss", losses.LOSSES)
    _check_number(config, "label_smoothing", low=0, below=1)
    _check_number(config, "average_decay", low=0, below=1)
    for field in ("batch_size", "steps_per_call", "eval_batch_size"):
        _check_int(config, field, low=1)
    _check_int(config, "microbatch_size", low=0)
    _check_int(config, "early_stopping_epochs", low=0)
    _check_choice(config, "test_views", views.VIEWS)
    _check_choice(config, "dataset.name", DATASETS)
    if config.dataset.train_examples is not None:
        _check_int(config, "dataset.train_examples", low=1)
    _check_int(config, "dataset.validation_examples", low=0)
    _check_choice(config, "dataset.feed", input_pipeline.FEEDS)
    if config.early_stopping_epochs or config.dataset.feed == "host":
        _require(
            config.seeds_at_once <= 1,
            "seeds_at_once", config.seeds_at_once, "0 or 1 with early_stopping_epochs or dataset.feed='host'",
        )  # fmt: skip

    _check_augment(config)

    _check_choice(config, "model.name", models.MODELS)
    _check_choice(config, "model.kernel_init", models.KERNEL_INITS)
    _check_choice(config, "model.dtype", models.DTYPES)
    _check_choice(config, "model.conv", conv.IMPLEMENTATIONS)
    _check_choice(config, "model.batch_norm", models.BATCH_NORM_PLACES)
    std = config.model.std
    _require(std is None or (math.isfinite(std) and std > 0), "model.std", std, "a number > 0, in grey levels")
    mean = config.model.mean
    _require(mean is None or math.isfinite(mean), "model.mean", mean, "a finite number, in grey levels")
    _check_widths(config.model.widths)
    _check_int(config, "model.hidden_width", low=1)
    _check_number(config, "model.hidden_dropout", low=0, below=1)
    _check_number(config, "model.bn_momentum", low=0, high=1)
    _check_int(config, "model.bn_groups", low=1)
    _check_number(config, "model.bn_epsilon", low=0, high=math.inf)
    rates = config.model.block_dropout
    _require(
        isinstance(rates, tuple) and all(_is_number(r) and 0 <= r < 1 for r in rates),
        "model.block_dropout", rates, "a probability in [0, 1) per block, such as (0.5, 0.5)",
    )  # fmt: skip
    _require(
        len(rates) == len(config.model.widths),
        "model.block_dropout", rates, f"{len(config.model.widths)} of them, one per block of model.widths",
    )  # fmt: skip


def resolve(config: ConfigDict, dataset: Dataset, *, seed: int | None = None) -> FrozenConfigDict:
    """The config that describes one seed's run completely and nothing of the machine.

    Fills in the mean and standard deviation of the training images, and drops where the data lie and what other seeds
    are trained beside it. Resolving twice changes nothing.

    Args:
      config: a validated config.
      dataset: its data, as loaded (already cut to `dataset.train_examples`).
      seed: None: `config.seed`.

    Raises:
      ConfigError: a field contradicts the data.
    """
    num_train = len(dataset.arrays.train_images)
    _require(
        config.batch_size <= num_train, "batch_size", config.batch_size, f"at most the {num_train} training images"
    )
    sizes = (config.batch_size, num_train % config.batch_size)
    _require(
        all(size % config.model.bn_groups == 0 for size in sizes),
        "model.bn_groups", config.model.bn_groups, f"a divisor of the batches' sizes, {sizes[0]} and {sizes[1]}",
    )  # fmt: skip
    resolved = ConfigDict(config.to_dict())
    models.check_image_shape(config.model, dataset.arrays.train_images.shape[1:])
    for field in _LOCATIONS:
        resolved.dataset[field] = None
    resolved.dataset.train_examples = num_train
    resolved.seed = config.seed if seed is None else seed
    resolved.num_seeds, resolved.seeds_at_once = 1, 0
    if resolved.model.mean is None:
        resolved.model.mean = float(dataset.arrays.train_images.mean(dtype="float64"))
    if resolved.model.std is None:
        resolved.model.std = float(dataset.arrays.train_images.std(dtype="float64"))
        _require(resolved.model.std > 0, "model.std", 0.0, "a number > 0: all training pixels are equal")
    return FrozenConfigDict(resolved)


def config_hash(config: FrozenConfigDict) -> str:
    """Eight hexadecimal digits that name a resolved config.

    Of the fields that differ from `configs/default.py` only: a field that is declared later renames no finished run.
    """
    defaults = default.get_config().to_dict()
    changed = [(name, value) for name, value, _ in differences(config.to_dict(), defaults)]
    return hashlib.sha256(json.dumps(changed).encode()).hexdigest()[:8]


def to_json(config: FrozenConfigDict) -> str:
    return json.dumps(config.to_dict(), sort_keys=True)


def from_recorded(recorded: dict[str, Any]) -> FrozenConfigDict:
    """The resolved config that a `run.json` or `result.json` holds; fields that were declared since have defaults.

    Raises:
      ConfigError: a field is not declared, or out of bounds.
    """
    declared = default.get_config()
    try:
        declared.update(_with_tuples(recorded))
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        message = " ".join(str(error).partition("Other fields")[0].split())  # after it ml_collections prints a page
        raise ConfigError(f"the recorded config does not fit configs/default.py: {message}") from None
    validate(declared)
    return FrozenConfigDict(declared.to_dict())


def _with_tuples(value: Any) -> Any:
    """JSON has no tuples, and a config no lists."""
    if isinstance(value, dict):
        return {key: _with_tuples(v) for key, v in value.items()}
    return tuple(_with_tuples(v) for v in value) if isinstance(value, list) else value


def differences_to_recorded(config: FrozenConfigDict, recorded: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """As `differences`, to a config that a file holds; fields that were declared since then had their defaults."""
    defaults = json.loads(json.dumps(default.get_config().to_dict()))
    return differences(json.loads(to_json(config)), _update(defaults, recorded), "config.")


def _update(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = {key: _update(old[key], value) for key, value in new.items() if isinstance(old.get(key), dict)}
    return {**old, **new, **both}


def differences(ours: dict[str, Any], theirs: dict[str, Any], prefix: str = "") -> list[tuple[str, Any, Any]]:
    """The fields in which two nested dictionaries differ, as (dotted name, our value, their value)."""
    found = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found.append((f"{prefix}{key}", a, b))
    return found


def _require(condition: bool, field: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"config.{field} is {value!r}: expected {expected}")


def _value(config: ConfigDict, field: str) -> Any:
    for part in field.split("."):
        config = config[int(part) if part.isdigit() else part]
    return config


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_int(config: ConfigDict, field: str, *, low: int, high: int | None = None) -> None:
    value = _value(config, field)
    expected = f"an integer >= {low}" if high is None else f"an integer from {low} to {high}"
    _require(_is_int(value) and low <= value and (high is None or value <= high), field, value, expected)


def _check_number(
    config: ConfigDict, field: str, *, low: float, high: float | None = None, below: float | None = None
) -> None:
    value = _value(config, field)
    upper = f"{high}]" if high is not None else f"{below})"
    _require(
        _is_number(value) and low <= value and (high is None or value <= high) and (below is None or value < below),
        field, value, f"a number in [{low}, {upper}",
    )  # fmt: skip


def _check_choice(config: ConfigDict, field: str, choices: Any) -> None:
    value = _value(config, field)
    _require(value in choices, field, value, "one of " + ", ".join(choices))


def _check_schedule(config: ConfigDict) -> None:
    rates, epochs = config.learning_rates, config.epochs
    _require(
        isinstance(rates, tuple) and rates != () and all(_is_number(r) and r > 0 for r in rates),
        "learning_rates", rates, "numbers > 0, such as (0.01, 0.1)",
    )  # fmt: skip
    _require(
        isinstance(epochs, tuple) and all(_is_int(e) and e >= 1 for e in epochs),
        "epochs", epochs, "integers >= 1, such as (1, 5)",
    )  # fmt: skip
    _require(len(rates) == len(epochs), "epochs", epochs, f"as many as learning_rates, which is {rates!r}")
    _check_choice(config, "schedule", optimizer.SCHEDULES)
    _require(
        config.schedule == "piecewise_constant" or len(rates) == 1,
        "learning_rates", rates, f"one, such as (0.1,), with schedule={config.schedule!r}",
    )  # fmt: skip


def _check_augment(config: ConfigDict) -> None:
    _check_choice(config, "augment.name", augment.AUGMENTATIONS)
    _check_choice(config, "augment.interpolation", augment.INTERPOLATIONS)
    ranges = config.augment.test_ranges
    _require(
        isinstance(ranges, tuple) and len(ranges) in (0, len(augment.RANGES)),
        "augment.test_ranges", ranges, f"none, or {len(augment.RANGES)} numbers: {', '.join(augment.RANGES)}",
    )  # fmt: skip
    for index, name in enumerate(augment.RANGES):
        for field in (name, f"test_ranges.{index}") if ranges else (name,):
            _check_number(config, f"augment.{field}", low=0, **_AUGMENT_BOUNDS[name])


def _check_widths(widths: object) -> None:
    _require(
        isinstance(widths, tuple)
        and widths != ()
        and all(isinstance(b, tuple) and b != () and all(_is_int(w) and w >= 1 for w in b) for b in widths),
        "model.widths", widths, "a tuple of channels per block, such as ((32, 32), (64, 64))",
    )  # fmt: skip
