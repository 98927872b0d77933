"""Reads JSON that may come from anyone: bounded in size and depth, from regular files only, checked field by field."""

import json
import math
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from digits_jax.bounds import Bounds
from digits_jax.errors import UserError

# The bounds of each field, by name; a mapping for a nested object. A field whose bounds accept None may be absent.
Schema = Mapping[str, "Bounds | Schema"]

_MAX_BYTES = 16_000_000  # the longest file of results in this repository has 0.4 MB
_MAX_DEPTH = 32


def read_text(path: Path, *, max_bytes: int = _MAX_BYTES) -> str:
    """Returns the text of a regular file of UTF-8.

    Raises:
      FileNotFoundError: there is no such file.
      UserError: it cannot be read, is no regular file (a pipe would block), is longer or no UTF-8.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for its writer.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path} cannot be read: expected a regular file")
            content = file.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise UserError(f"{path} cannot be read: expected at most {max_bytes:,} bytes")
        return content.decode()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read ({error.reason} at byte {error.start}): expected UTF-8") from None


def read_json(path: Path, schema: Schema) -> dict[str, Any]:
    """Returns the object in a JSON file; raises as `read_text` and `parse_json`."""
    return parse_json(read_text(path), schema, str(path))


def parse_json(text: str, schema: Schema, name: str) -> dict[str, Any]:
    """Returns the object that a text of JSON describes.

    Raises a UserError with the `name` of the text if it is no JSON, is nested more than 32 levels deep, has a number
    that is not finite or no 64-bit integer, or lacks a field of the schema or has it out of bounds.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
        _check_values(value, _MAX_DEPTH)
        check_fields(value, schema)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} cannot be read ({error})") from None
    return value


def check_fields(value: Any, schema: Schema, prefix: str = "") -> None:
    """Raises a ValueError that names a field which the schema does not accept, its value and what it does accept."""
    if not isinstance(value, dict):
        raise ValueError(f"{prefix.rstrip('.') or 'its content'} is {_short(value)}: expected fields and values")
    for name, bounds in schema.items():
        if isinstance(bounds, Mapping):
            check_fields(value.get(name), bounds, f"{prefix}{name}.")
        elif not bounds.accepts(value.get(name)):
            found = _short(value[name]) if name in value else "missing"
            raise ValueError(f"{prefix}{name} is {found}: expected {bounds.expected}")


def _check_values(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError(f"it is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, dict | list):
        for child in [*value, *value.values()] if isinstance(value, dict) else value:
            _check_values(child, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        _refuse(str(value))
    elif isinstance(value, str):
        value.encode()  # JSON can describe lone surrogates, which no file can hold
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"it has the number {_short(value)}: expected 64-bit integers")


def _refuse(number: str) -> NoReturn:
    raise ValueError(f"it has the number {number}: expected finite ones")


def _short(value: object) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."
