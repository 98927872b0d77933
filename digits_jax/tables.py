"""Tables of what a config section can name: functions and classes, whose keyword arguments are the section's fields."""

import inspect
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from digits_jax.bounds import Bounds
from digits_jax.errors import ConfigError

REQUIRED = inspect.Parameter.empty


class Field(NamedTuple):
    """A config field: its default, its bounds, and what it is, with its unit."""

    default: Any  # a type stands for None, in whose place a value of that type may be given
    bounds: Bounds
    description: str


class Table(dict[str, Callable[..., Any]]):
    """The entries that a config section can name, and the section's fields that are their arguments.

    An argument is declared once, with its bounds, for all entries that have a parameter of this name. Its default is
    that of the parameter: the field is None where a config does not set it.
    """

    def __init__(
        self,
        entries: Mapping[str, Callable[..., Any]],
        arguments: Mapping[str, Field] | None = None,
        *,
        name_field: str = "name",
    ) -> None:
        super().__init__(entries)
        self.arguments = dict(arguments or {})
        self.name_field = name_field  # of the section: holds an entry's name, or a tuple of them
        self.files: dict[str, str] = {}  # that registered entries later

    def __setitem__(self, name: str, entry: Callable[..., Any]) -> None:
        super().__setitem__(name, entry)
        self.files[name] = sys._getframe(1).f_code.co_filename

    def defaults(self, name: str) -> dict[str, Any]:
        """Returns the declared arguments that an entry takes, with its own defaults; `REQUIRED` where it has none."""
        parameters = inspect.signature(self[name]).parameters
        return {key: parameters[key].default for key in self.arguments if key in parameters}

    def create(self, name: str, section: Any, *positional: Any, **more: Any) -> Any:
        """Calls an entry with the arguments that a config section sets, and with those of `more` that it takes."""
        parameters = inspect.signature(self[name]).parameters
        given = {key: section[key] for key in self.defaults(name) if section[key] is not None}
        for key, default in self.defaults(name).items():
            if default is REQUIRED and key not in given:
                raise ConfigError(f"{key} of {name} is None: expected {self.arguments[key].bounds.expected}")
        return self[name](*positional, **given, **{key: more[key] for key in more if key in parameters})


class Sections(dict[str, Table]):
    """The tables of a config's sections."""

    def chosen(self, config: ConfigDict, section: str) -> tuple[str, ...]:
        """Returns the entries that a section names."""
        names = config[section][self[section].name_field]
        return names if isinstance(names, tuple) else (names,)

    def defaults(self, config: ConfigDict, section: str) -> dict[str, Any]:
        """Returns the arguments that the entries take which a section names; None where their defaults differ."""
        found: dict[str, Any] = {}
        for name in (name for name in self.chosen(config, section) if name in self[section]):
            for key, default in self[section].defaults(name).items():
                found[key] = default if found.get(key, default) == default else None
        return found

    def unfit(self, config: ConfigDict) -> list[str]:
        """Returns the dotted names of arguments that are set and not taken by the entries that their section names."""
        return [
            f"{section}.{key}"
            for section, table in self.items()
            for key in table.arguments
            if config[section][key] is not None and key not in self.defaults(config, section)
        ]

    def unset_unfit(self, config: ConfigDict, before: ConfigDict | None = None) -> None:
        """Unsets unfit arguments; with `before`, only those set there, of sections that named other entries there."""
        for name in self.unfit(config):
            section, key = name.split(".")
            renamed = before is None or self.chosen(config, section) != self.chosen(before, section)
            if renamed and (before is None or config[section][key] == before[section][key]):
                config[section][key] = None

    def fill(self, values: dict[str, Any], config: ConfigDict) -> None:
        """Replaces None in nested dictionaries by the defaults of the entries that a config names."""
        for section in self:
            for key, default in self.defaults(config, section).items():
                if values[section][key] is None and default is not REQUIRED:
                    values[section][key] = default

    def check_fit(self, config: ConfigDict) -> None:
        """Raises a ConfigError if an argument is set that the entries do not take which its section names."""
        for name in self.unfit(config):
            section, key = name.split(".")
            takes = ", ".join(self.defaults(config, section)) or "no arguments"
            names = " and ".join(self.chosen(config, section)) or "nothing"
            raise ConfigError(f"config.{name} is {config[section][key]!r}: expected None: {names} takes {takes}")

    def check_complete(self, config: ConfigDict) -> None:
        """Raises a ConfigError if an argument without a default is not set."""
        for section, table in self.items():
            for key, default in self.defaults(config, section).items():
                if default is REQUIRED and config[section][key] is None:
                    raise ConfigError(
                        f"config.{section}.{key} is None: expected {table.arguments[key].bounds.expected}"
                    )
