"""Transfer learning: initial values from elsewhere, and parameters that stay."""

from fnmatch import fnmatchcase
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from digits_jax.errors import ConfigError


def take_fitting(variables: Any, pretrained: Any) -> tuple[Any, list[str]]:
    """Replaces the leaves for which `pretrained` has one of the same path and shape; returns also the other paths."""
    ours, theirs = (flatten_dict(tree, sep="/") for tree in (variables, pretrained))
    fits = {path: path in theirs and theirs[path].shape == leaf.shape for path, leaf in ours.items()}
    taken = {path: theirs[path] if fits[path] else leaf for path, leaf in ours.items()}
    return unflatten_dict(taken, sep="/"), [path for path in ours if not fits[path]]


def is_frozen(params: Any, patterns: tuple[str, ...]) -> Any:
    """Returns for each leaf whether its path, such as "Conv_0/kernel", or that of its module matches a pattern."""

    def matches(path: str) -> bool:
        return any(fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}/*") for pattern in patterns)

    return unflatten_dict({path: matches(path) for path in flatten_dict(params, sep="/")}, sep="/")


def check_frozen(params: Any, patterns: tuple[str, ...]) -> None:
    """Raises a ConfigError if one of the patterns of `config.freeze` matches no parameter."""
    for pattern in patterns:
        if not any(jax.tree.leaves(is_frozen(params, (pattern,)))):
            names = ", ".join(flatten_dict(params, sep="/"))
            raise ConfigError(f"config.freeze has {pattern!r}: expected a pattern of some of {names}")


def keep_frozen(old: Any, new: Any, patterns: tuple[str, ...]) -> Any:
    """Returns the new batch statistics, and of frozen modules the old ones."""
    if not patterns or not new:
        return new
    return jax.tree.map(lambda a, b, stays: a if stays else b, old, new, is_frozen(new, patterns))
