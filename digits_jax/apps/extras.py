"""A one-line error for packages that only one of the project's extras installs."""

import importlib.util
from collections.abc import Iterable

from digits_jax.errors import UserError


def require_extra(extra: str, packages: Iterable[str], *, needed_by: str) -> None:
    """Checks, without importing them, that the packages of an extra are installed; raises a UserError if not."""
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise UserError(
            f"{needed_by} needs the extra {extra!r}: pip install 'digits_jax[{extra}]' or ./launch.sh setup {extra}"
        )
