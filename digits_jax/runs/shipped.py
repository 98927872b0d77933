"""The networks that come with the package, and their files: arrays, a description, a model card and their checksums."""

from pathlib import Path
from typing import Any

import numpy as np

from digits_jax import storage
from digits_jax.bounds import OBJECT, integer, number
from digits_jax.errors import UserError

NAME = "fast"  # of its config and its files
FOLDER = Path(__file__).parents[1] / "weights"
_ABOUT: storage.Schema = {"run": OBJECT, "step": integer(0), "metrics": {"test/accuracy": number(0, 1)}}


def read_shipped() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the shipped network's `run`, `step` and `metrics`, and its arrays by name, such as params/Conv_0/kernel.

    Raises a UserError if a file is missing or is not the one that was shipped.
    """
    arrays = read_arrays(NAME)
    return storage.read_json(FOLDER / f"{NAME}.json", _ABOUT), arrays


def read_arrays(name: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a shipped network by name; raises a UserError as `read_shipped`."""
    if wrong := storage.find_damage(FOLDER):
        raise shipped_error(wrong)
    with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as arrays:
        return dict(arrays)


def shipped_error(wrong: str) -> UserError:
    """Returns the error that the shipped network cannot be used."""
    return UserError(f"the shipped network in {FOLDER} {wrong}: install digits_jax again, or give --workdir=RUN")
