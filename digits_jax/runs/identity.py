"""What identifies a run: its config's hash, and its config as recorded, under the field names of its time."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax.config import (
    SAME_BITS,
    SECTIONS,
    fields,
    get_config,
    validate,
    weights_fields,
    with_defaults,
)  # fmt: skip
from digits_jax.errors import ConfigError

Difference = tuple[str, Any, Any]  # dotted name, our value, their value


def config_hash(config: FrozenConfigDict) -> str:
    """Returns eight hexadecimal digits that name a resolved config.

    They depend on the fields that differ from their defaults only, so that a field that is declared later renames no
    finished run, and not on fields that leave a run's bits alone.
    """
    ignored = _same_bits_fields()
    changed = [row for row in changed_fields(config).items() if row[0] not in ignored]
    return hashlib.sha256(json.dumps(changed).encode()).hexdigest()[:8]


def changed_fields(config: FrozenConfigDict) -> dict[str, Any]:
    """Returns the fields of a resolved config that differ from their defaults, by their dotted names.

    The defaults of arguments are those of the entries that the config names.
    """
    defaults = get_config().to_dict()
    SECTIONS.fill(defaults, config)
    return {name: value for name, value, _ in differences(config.to_dict(), defaults)}


def _same_bits_fields() -> set[str]:
    return {*SAME_BITS, *weights_fields()}  # beside the latter are the hashes of the weights


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str = "") -> list[Difference]:
    """Returns the leaves in which two nested dictionaries differ, with their names under the prefix."""
    ours, theirs = (flatten_dict(dict(values), sep=".") for values in (ours, theirs))
    rows = [(name, ours.get(name), theirs.get(name)) for name in sorted(ours.keys() | theirs.keys())]
    return [(f"{prefix}{name}", a, b) for name, a, b in rows if a != b]


_RENAMED_FIELDS = {
    "test_views": "test_time_augmentation", "dataset.feed": "execution.images_on", "model.conv": "execution.kernels",
    **{name: f"execution.{name}" for name in ("steps_per_call", "microbatch_size", "seeds_at_once")},
    **{name: f"{name}.name" for name in ("optimizer", "schedule", "loss")}, "label_smoothing": "loss.label_smoothing",
    "warmup_fraction": "schedule.warmup_fraction", "augment.name": "augment.names",
}  # fmt: skip
_RENAMED_VALUES = {("test_time_augmentation", "one"): "none", ("schedule.name", "triangle"): "linear"}
_REMOVED_FIELDS = {"model.bn_groups": 1}  # with the only value that can still be computed
_DATA_LOCATIONS = ("dataset.data_dir", "dataset.source_dir")


def upgrade(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a recorded config, nested, with today's names and the defaults of fields that were declared since.

    It has no locations: a file that comes from elsewhere does not say what is read.

    Raises a ConfigError if it has a field that is unknown, or of another type.
    """
    config, known, locations = get_config(), fields(), (*_DATA_LOCATIONS, *weights_fields())
    for old, value in flatten_dict(dict(recorded), sep=".").items():
        name, value = _RENAMED_FIELDS.get(old, old), _tuples(value)
        value = _RENAMED_VALUES.get((name, value), value) if isinstance(value, str) else value
        if name in locations or (old in _REMOVED_FIELDS and value == _REMOVED_FIELDS[old]):
            continue
        if name not in known and value is None:
            continue  # an argument of what was registered there and not used
        if old == "warmup_fraction" and recorded.get("schedule") not in ("linear", "triangle"):
            continue  # was a field of all schedules and read by one
        try:
            if name not in known:
                raise KeyError(f"unknown field {name!r}")
            config.update_from_flattened_dict({name: (value,) if old == "augment.name" else value})
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(f"the recorded config does not fit: {' '.join(str(error).split())}") from None
    SECTIONS.unset_unfit(config)  # once, all models had the fields of each
    return config.to_dict()


def from_recorded(recorded: Mapping[str, Any]) -> FrozenConfigDict:
    """Returns the resolved config of a `run.json` or `result.json`; raises a ConfigError as `upgrade` or `validate`."""
    config = ConfigDict(upgrade(recorded))
    validate(config)
    return FrozenConfigDict(with_defaults(config))


def differences_to_recorded(config: FrozenConfigDict, recorded: Mapping[str, Any]) -> list[Difference]:
    """Returns the differences to a recorded config in fields that decide a run's bits; see `differences`."""
    found, ignored = differences(config.to_dict(), from_recorded(recorded).to_dict(), "config."), _same_bits_fields()
    return [row for row in found if row[0].removeprefix("config.") not in ignored]


def _tuples(value: Any) -> Any:
    """Returns the tuples that JSON has as lists."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
