"""The runs of a sweep, each with its resolved config and its data."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import cli, data
from digits_jax.config import SECTIONS, load_config, resolve, validate
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError
from digits_jax.runs.identity import config_hash
from digits_jax.runs.pretrained import with_weights_hashes
from digits_jax.studies.sweep.definition import Sweep, call


class PlannedRun(NamedTuple):
    """One variant with one seed."""

    variant: str
    base: str  # the config that it changes
    command: str  # trains this run alone
    seed: int
    config: FrozenConfigDict  # resolved
    hash: str
    source: FrozenConfigDict  # `config.dataset` before it was resolved, with the paths of the data

    @property
    def experiment(self) -> str:
        """The name that `digits_jax.main` gives it, after the file of the config."""
        return Path(self.base.partition(":")[0]).stem


def plan(sweep: Sweep, *, source_dir: str | None = None) -> list[tuple[PlannedRun, Dataset]]:
    """Returns all runs with their data, seed by seed, so that a sweep that is stopped has complete pairs.

    Raises a ConfigError if a variant sets an unknown field or an invalid value, or two variants are the same config.
    """
    load = functools.cache(data.load_configured)
    for name in sweep.variants:  # first: a config has the fields of what is registered when it is created
        _load_base(sweep, name)
    planned: list[tuple[PlannedRun, Dataset]] = []
    variants: dict[str, str] = {}  # by hash
    for seed in range(max(len(sweep.seeds(name)) for name in sweep.variants)):
        for name in (name for name in sweep.variants if seed in sweep.seeds(name)):
            config = _load_base(sweep, name)
            try:
                _override(config, sweep.overrides(name), seed)
                validate(config)
                config.dataset.source_dir = source_dir
                source = FrozenConfigDict(config.dataset)
                dataset = load(source)
                resolved = resolve(with_weights_hashes(config), dataset)
            except ConfigError as error:
                raise ConfigError(f"sweep {sweep.name}, variant {name!r}: {error}") from None
            key = config_hash(resolved)
            if key in variants:
                same = f"{variants[key]!r} and {name!r}"
                raise ConfigError(f"sweep {sweep.name}: the variants {same} are the same config")
            variants[key] = name
            run = PlannedRun(name, sweep.base(name), sweep.command(name, seed), seed, resolved, key, source)
            planned.append((run, dataset))
    return planned


def _load_base(sweep: Sweep, variant: str) -> ConfigDict:
    path = cli.config_path(sweep.base(variant))
    return call(path.partition(":")[0], functools.partial(load_config, path))


def _override(config: ConfigDict, fields: dict[str, Any], seed: int) -> None:
    if "seed" in fields:
        raise ConfigError("it sets seed, which num_seeds of the sweep does for all variants")
    before = config.copy_and_resolve_references()
    for name, value in {**fields, "seed": seed}.items():
        try:
            config.update_from_flattened_dict({name: value})
        except (KeyError, AttributeError):
            raise ConfigError(f"unknown config field {name!r}: FIELDS in digits_jax/config.py declares them") from None
        except (TypeError, ValueError):
            raise ConfigError(f"config field {name!r} is {value!r}, a value of type {type(value).__name__}") from None
    SECTIONS.unset_unfit(config, before)
