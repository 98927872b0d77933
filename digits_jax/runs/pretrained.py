"""Trained weights that a config names: a part of the run's identity by their hash, not by their path."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax.config import weights_fields
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs.ensemble import Ensemble, load
from digits_jax.runs.trained_model import TrainedModel, load_model
from digits_jax.train_step import TrainState
from digits_jax.transfer import take_fitting


def load_weights(name: str) -> TrainedModel | Ensemble:
    """Loads the model or the ensemble that `RUN` or `RUN:STEP` names, or the `shipped` network.

    A UserError says why it cannot be loaded.
    """
    if name == "shipped":
        return load_model()
    step = re.search(r":(\d+)$", name)
    return load(name[: step.start()], checkpoint=step[1]) if step else load(name)


def weights_hash(model: TrainedModel | Ensemble) -> str:
    """Returns the SHA-256 of names, shapes and values of a model's variables, or of those of all members."""
    digest = hashlib.sha256()
    for member in model.members:
        for path, leaf in sorted(flatten_dict(member.variables, sep="/").items()):
            digest.update(f"{path} {leaf.dtype} {leaf.shape};".encode())
            digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()


def load_initial(config: ConfigDict | FrozenConfigDict) -> tuple[ConfigDict, Mapping[str, Any] | None]:
    """Returns a config `with_weights_hashes`, and the variables that its `init_from` names, None if it names none."""
    config, models = _load_named(config)
    model = models.get("init_from")
    if isinstance(model, Ensemble):
        raise ConfigError(f"config.init_from is {config.init_from!r}, an ensemble: expected the directory of one run")
    return config, model.variables if model else None


def with_weights_hashes(config: ConfigDict | FrozenConfigDict) -> ConfigDict:
    """Returns a config in which each field that names weights has their hash beside it.

    Raises a ConfigError if the weights are others than those of a hash that is given.
    """
    return _load_named(config)[0]


def _load_named_by(field: str, name: str) -> TrainedModel | Ensemble:
    try:
        return load_weights(name)
    except UserError as error:
        raise UserError(f"config.{field} is {name!r}: {error}") from None


def _load_named(config: ConfigDict | FrozenConfigDict) -> tuple[ConfigDict, dict[str, TrainedModel | Ensemble]]:
    """Returns the config of `with_weights_hashes`, and the weights by the fields that name them."""
    filled = ConfigDict(config.to_dict())
    flat = flatten_dict(filled.to_dict(), sep=".")
    models = {field: _load_named_by(field, flat[field]) for field in weights_fields() if flat[field]}
    for field, model in models.items():
        known, found = flat[f"{field}_sha256"], weights_hash(model)
        if known not in (None, found):
            raise ConfigError(
                f"config.{field} is {flat[field]!r}: expected the weights with the SHA-256 {known}, not {found}"
            )
        filled.update_from_flattened_dict({f"{field}_sha256": found})
    return filled, models


def describe_taken(state: TrainState, variables: Mapping[str, Any] | None, name: str) -> list[str]:
    """Returns in words which initial values are those of pretrained variables; raises a ConfigError if none are."""
    if variables is None:
        return []
    shapes = jax.eval_shape(lambda: {"params": state.params, "batch_stats": state.batch_stats})
    total, missing = len(jax.tree.leaves(shapes)), take_fitting(shapes, variables)[1]
    if len(missing) == total:
        raise ConfigError(
            f"config.init_from is {name!r}: expected weights of which some have the model's names and shapes"
        )
    rest = f"; without a counterpart: {', '.join(missing)}" if missing else ""
    return [f"{total - len(missing)} of {total} arrays start from {name}{rest}"]
