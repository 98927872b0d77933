"""A sweep's file, and the runs that it asks for."""

import functools
import runpy
import shlex
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax.config import config_hash, resolve, validate
from digits_jax.data import Dataset, load_configured
from digits_jax.errors import ConfigError


class Sweep(NamedTuple):
    """A question, asked by training variants of a config with the same seeds.

    It is what `get_sweep()` of a file in `configs/sweeps/` returns; the file's docstring is the question.
    """

    config: str  # the base, such as "configs/bn_dropout.py" or "configs/vgg.py:as_logged"
    # By name, what they change: dotted fields, and "config" or "num_seeds" where they have another than the sweep.
    variants: Mapping[str, Mapping[str, Any]]
    baseline: str  # the name of the variant that the others are compared with
    num_seeds: int  # seeds 0 to num_seeds - 1
    question: str = ""
    name: str = ""  # the file's


class Run(NamedTuple):
    """One variant with one seed."""

    variant: str
    base: str  # the config's file, with its argument
    overrides: dict[str, Any]
    seed: int
    config: FrozenConfigDict  # resolved
    hash: str
    source: FrozenConfigDict  # `config.dataset` as given, with where the data lie

    @property
    def base_name(self) -> str:
        """The name of its config's file: what `digits_jax.main` calls the experiment."""
        return Path(self.base.partition(":")[0]).stem

    @property
    def command(self) -> str:
        """Trains this run alone."""
        fields = {**self.overrides, "seed": self.seed}
        arguments = [f"--config={self.base}", *(f"--config.{name}={_as_argument(v)}" for name, v in fields.items())]
        return f"python -m digits_jax.main {shlex.join(arguments)}"


def _as_argument(value: Any) -> str:
    return ",".join(map(str, value)) + "," * (len(value) == 1) if isinstance(value, tuple) else str(value)


def load_sweep(file: str) -> Sweep:
    """The sweep of a file such as `configs/sweeps/hidden_dropout.py`.

    Raises:
      ConfigError: there is no such file, it raises, or what it returns is no sweep.
    """
    names = _load(file, "get_sweep")
    sweep = _call(file, names["get_sweep"])
    if not isinstance(sweep, Sweep):
        raise ConfigError(f"{file}: get_sweep() returns {sweep!r}: expected a digits_jax.studies.sweep.plan.Sweep")
    if not sweep.variants:
        raise ConfigError(f"{file}: variants is {sweep.variants!r}: expected at least one")
    if sweep.baseline not in sweep.variants:
        raise ConfigError(f"{file}: baseline is {sweep.baseline!r}: expected one of {', '.join(sweep.variants)}")
    for seeds in (sweep.num_seeds, *(variant.get("num_seeds", 1) for variant in sweep.variants.values())):
        if not isinstance(seeds, int) or seeds < 1:
            raise ConfigError(f"{file}: num_seeds is {seeds!r}: expected an integer >= 1")
    if not names["__doc__"]:
        raise ConfigError(f"{file}: the docstring is missing: expected the question that the sweep asks")
    return sweep._replace(question=" ".join(names["__doc__"].split()), name=Path(file).stem)


def plan(sweep: Sweep, *, source_dir: str | None = None) -> list[tuple[Run, Dataset]]:
    """All runs with their data, seed by seed, so that a sweep that is stopped has whole pairs.

    Args:
      sweep: as loaded.
      source_dir: folder with the data's original files, where they are not prepared yet.

    Raises:
      ConfigError: a variant sets a field that does not exist, or to a value that makes no sense.
      UserError: the data cannot be loaded.
    """
    load = functools.cache(load_configured)
    runs = []
    num_seeds = {name: variant.get("num_seeds", sweep.num_seeds) for name, variant in sweep.variants.items()}
    for seed in range(max(num_seeds.values())):
        for name, variant in sweep.variants.items():
            if seed >= num_seeds[name]:
                continue
            overrides = {field: value for field, value in variant.items() if field not in ("config", "num_seeds")}
            base = variant.get("config", sweep.config)
            config = _load_config(base)
            try:
                _check_overrides(overrides)
                _override(config, {**overrides, "seed": seed})
                validate(config)
                config.dataset.source_dir = source_dir
                source = FrozenConfigDict(config.dataset)
                dataset = load(source)
                resolved = resolve(config, dataset)
            except ConfigError as error:
                raise ConfigError(f"sweep {sweep.name}, variant {name!r}: {error}") from None
            runs.append((Run(name, base, overrides, seed, resolved, config_hash(resolved), source), dataset))
    _check_distinct(sweep, [run for run, _ in runs])
    return runs


def _check_distinct(sweep: Sweep, runs: list[Run]) -> None:
    seen: dict[str, Run] = {}
    for run in runs:
        other = seen.setdefault(run.hash, run)
        if other is not run:
            raise ConfigError(
                f"sweep {sweep.name}: the variants {other.variant!r} and {run.variant!r} are the same config"
            )


def _check_overrides(overrides: dict[str, Any]) -> None:
    if "seed" in overrides:
        raise ConfigError("it sets seed, which num_seeds of the sweep does for all variants")


def _override(config: ConfigDict, fields: dict[str, Any]) -> None:
    for name, value in fields.items():
        try:
            config.update_from_flattened_dict({name: value})
        except (KeyError, AttributeError):
            raise ConfigError(f"unknown config field {name!r}: configs/default.py declares them all") from None
        except (TypeError, ValueError):
            raise ConfigError(f"config field {name!r} is {value!r}, a value of type {type(value).__name__}") from None


def _load_config(base: str) -> ConfigDict:
    file, _, argument = base.partition(":")
    get_config = _load(file, "get_config")["get_config"]
    return _call(base, lambda: get_config(argument))


def _load(file: str, function: str) -> dict[str, Any]:
    """The names that a Python file defines, `function` among them."""
    if not Path(file).is_file():
        raise ConfigError(f"{file}: no such file")
    names = _call(file, lambda: runpy.run_path(file))
    if function not in names:
        raise ConfigError(f"{file}: expected a function {function}()")
    return names


def _call(file: str, function: Callable[[], Any]) -> Any:
    """What a user's file computes; what it raises becomes one line."""
    try:
        return function()
    except ConfigError:
        raise
    except Exception as error:  # it is a program: it may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise ConfigError(f"{file}{where}: {type(error).__name__}: {' '.join(str(error).split())}") from None
