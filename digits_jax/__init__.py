"""A pure-JAX research codebase for handwritten digits."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from digits_jax.api import train
    from digits_jax.runs.trained_model import load_model

__all__ = ["load_model", "train"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:  # PEP 562: JAX is imported when one of these is asked for, not with every module
    if name == "load_model":
        from digits_jax.runs.trained_model import load_model

        return load_model
    if name == "train":
        from digits_jax.api import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
