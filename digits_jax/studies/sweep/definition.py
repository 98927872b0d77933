"""Sweeps as they are written down: a question, and the variants of a config that answer it."""

import runpy
import shlex
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from digits_jax import cli
from digits_jax.bounds import NAME, OBJECT, TEXT, integer, one_of, optional
from digits_jax.errors import ConfigError
from digits_jax.storage import Schema, check_fields

_SCHEMA: Schema = {
    "name": NAME, "question": TEXT, "config": TEXT, "baseline": TEXT, "num_seeds": integer(1), "variants": OBJECT
}  # fmt: skip
_VARIANT: Schema = {"config": optional(TEXT), "num_seeds": optional(integer(1))}

# Fields for variants that are compared on about 5,000 training images by writers who wrote none of the others: what is
# chosen by them has not seen the test images.
ON_HELD_OUT_WRITERS = {
    "dataset.validation_examples": 5_000, "dataset.validation_split": "writers", "dataset.score_test": False
}  # fmt: skip
# Twice as many: a network that misclassifies one image in 250 is hard to tell from another.
ON_MORE_WRITERS = ON_HELD_OUT_WRITERS | {"dataset.validation_examples": 10_000}


class Sweep(NamedTuple):
    """A question, answered by training variants of a config with the same seeds; a file's `get_sweep()` returns it."""

    config: str  # the base, such as "bn_dropout" or "vgg:as_logged"
    # The changes by name: dotted fields, and "config" or "num_seeds" to replace those of the sweep.
    variants: Mapping[str, Mapping[str, Any]]
    baseline: str  # the name of the variant that the others are compared with
    num_seeds: int  # seeds 0 to num_seeds - 1
    question: str = ""  # the docstring of the file
    name: str = ""  # of the file

    def base(self, variant: str) -> str:
        """Returns the config that a variant changes."""
        return self.variants[variant].get("config", self.config)

    def overrides(self, variant: str) -> dict[str, Any]:
        """Returns the fields that a variant changes; none if the sweep has no such variant any more."""
        changes = self.variants.get(variant, {})
        return {name: value for name, value in changes.items() if name not in ("config", "num_seeds")}

    def seeds(self, variant: str) -> range:
        """Returns the seeds of a variant."""
        return range(self.variants[variant].get("num_seeds", self.num_seeds))

    def command(self, variant: str, seed: int) -> str:
        """Returns the command that trains one run alone."""
        fields = {**self.overrides(variant), "seed": seed}
        arguments = [f"--config={self.base(variant)}", *(f"--config.{k}={_as_argument(v)}" for k, v in fields.items())]
        return f"python -m digits_jax.main {shlex.join(arguments)}"


def _as_argument(value: Any) -> str:
    value = _as_tuple(value)  # a list where the sweep was read from JSON
    return ",".join(map(str, value)) + "," * (len(value) == 1) if isinstance(value, tuple) else str(value)


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value


def load_sweep(file: str) -> Sweep:
    """Loads a sweep by its name or the path of its file; raises a ConfigError if that does not return a valid one."""
    if file.isidentifier():
        file = str(cli.configs_directory() / "sweeps" / f"{file}.py")
    if not Path(file).is_file():
        raise ConfigError(f"{file}: no such file")
    names = call(file, lambda: runpy.run_path(file))
    if "get_sweep" not in names:
        raise ConfigError(f"{file}: expected a function get_sweep()")
    sweep = call(file, names["get_sweep"])
    if not isinstance(sweep, Sweep):
        raise ConfigError(f"{file}: get_sweep() returns {sweep!r}: expected a digits_jax.studies.Sweep")
    if not sweep.variants:
        raise ConfigError(f"{file}: variants is {sweep.variants!r}: expected at least one")
    if not names["__doc__"]:
        raise ConfigError(f"{file}: the docstring is missing: expected the question that the sweep asks")
    sweep = sweep._replace(question=" ".join(names["__doc__"].split()), name=Path(file).stem)
    try:
        return Sweep(**check_sweep(sweep._asdict()))
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None


def check_sweep(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields of a sweep; raises a ValueError that names one which is missing or out of bounds."""
    check_fields(fields, _SCHEMA, prefix)
    check_fields(fields, {"baseline": one_of(fields["variants"])}, prefix)
    check_fields(fields["variants"], dict.fromkeys(fields["variants"], _VARIANT), f"{prefix}variants.")
    return {name: fields[name] for name in Sweep._fields}


def call(file: str, function: Callable[[], Any]) -> Any:
    """Calls a function of a user's file; an exception becomes a one-line ConfigError."""
    try:
        return function()
    except ConfigError:
        raise
    except Exception as error:  # it is a program: it may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
        where = f", line {lines[-1]}" if lines else ""
        raise ConfigError(f"{file}{where}: {type(error).__name__}: {' '.join(str(error).split())}") from None
