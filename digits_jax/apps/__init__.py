"""Commands for trained models (`predict`, `demo`, `evaluate`, `export`, `replay`), and `doctor` for the machine."""

import importlib.util

from digits_jax.errors import UserError


def require_extra(extra: str, packages: tuple[str, ...], *, needed_by: str) -> None:
    """Raises a UserError unless the packages of an extra are installed; does not import them."""
    if any(importlib.util.find_spec(package) is None for package in packages):
        raise UserError(
            f"{needed_by} needs the extra {extra!r}: pip install 'digits_jax[{extra}]' or ./launch.sh setup {extra}"
        )
