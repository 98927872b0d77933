"""Shared by all commands: parses flags, turns a user's mistake into one line and an exit code, prints.

Exit codes: 0 done, 1 data or files are unusable or training diverged, 2 the command line or config is wrong, 75 stopped
by SIGTERM or SIGUSR1 and 130 by Ctrl-C, everything saved.
"""

import contextlib
import functools
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from rich.console import Console

from digits_jax.errors import ConfigError, UserError

console = Console(highlight=False, soft_wrap=True)


def run(main: Callable[[list[str]], int | None], *, positional: bool = False) -> NoReturn:
    """Parses the flags, calls `main(argv)` and exits with the code that it returns, or 0 for None.

    Its argument is the program's name and, with `positional`, the arguments that are no flags.
    """

    def guarded_main(argv: list[str]) -> int | None:
        try:
            return main(argv)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130

    app.run(guarded_main, flags_parser=functools.partial(_parse_flags, positional=positional))
    raise AssertionError("app.run exits")


def config_path(name: str) -> str:
    """Returns the path of the config file that `--config=NAME[:ARGUMENT]` names, with the argument.

    A name such as `bn_dropout` is one of the project's experiments, found wherever the command is run. Anything else is
    a path already.
    """
    file, colon, argument = name.partition(":")
    return f"{configs_directory() / file}.py{colon}{argument}" if file in _known_configs() else name


def _known_configs() -> list[str]:
    return sorted(path.stem for path in configs_directory().glob("*.py") if path.stem != "__init__")


def expected_configs() -> str:
    """Returns what a config may be, in words."""
    return f"expected the path of one, or one of {', '.join(_known_configs())}"


def configs_directory() -> Path:
    """Returns the directory of the project's experiments and sweeps."""
    package = Path(__file__).parent
    installed = package / "configs"  # of a wheel; a checkout has them beside the package
    return installed if installed.is_dir() else package.parent / "configs"


def _parse_flags(argv: list[str], *, positional: bool) -> list[str]:
    joined: list[str] = []
    for argument in argv:
        if joined and joined[-1] == "--config":
            argument = f"{joined.pop()}={argument}"
        if argument.startswith("--config="):
            argument = f"--config={config_path(argument.removeprefix('--config='))}"
        joined.append(argument)
    try:
        rest = flags.FLAGS(joined)
        if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
            flags.FLAGS["config"].value.lock()  # a config that could not be loaded says so when it is first used
        if len(rest) > 1 and not positional:
            raise flags.Error(f"unexpected argument {rest[1]!r}: options are written --name=value")
    except Exception as error:  # a config file is a program: it may raise anything
        print(f"error: {_one_line(error, joined)}", file=sys.stderr)
        raise SystemExit(2) from None
    if flags.FLAGS["verbosity"].using_default_value:
        # absl would choose INFO, at which Orbax alone logs a page per checkpoint. What goes wrong is raised as well.
        flags.FLAGS["verbosity"].using_default_value = False
        logging.set_verbosity(logging.FATAL)
    return rest


def _one_line(error: Exception, argv: list[str]) -> str:
    """Describes what is wrong with the command line in one line; ml_collections prints a page."""
    config = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), None)
    if config is None and any(a.startswith("--config.") for a in argv):
        return "a field is given but no config: add --config=bn_dropout"
    text = str(error)
    file = str(config).partition(":")[0]
    if "No such file" in text or "Is a directory" in text:
        return f"config file {file!r} not found: {expected_configs()}"

    # Raised inside the config file: either the error itself, or its traceback as a text.
    trace = "".join(traceback.format_exception(error))
    lines = re.findall(rf'File "[^"]*{re.escape(file)}", line (\d+)', trace)
    if lines:
        last = text.strip().splitlines()[-1] if "Traceback" in text else f"{type(error).__name__}: {text}"
        return f"{file}, line {lines[-1]}: {_plain(last)}"
    if isinstance(error, AttributeError | KeyError):
        # The message is "'sed'\nDid you mean "seed" instead of "sed"?", quoted once more for each level of nesting.
        name = re.search(r"\w+", text)
        argument = next((a for a in argv if name and re.match(rf"--config\.(.*\.)?{name[0]}\b", a)), text)
        return _unknown_field(f"in {argument}", text)
    return " ".join(text.split())


def _plain(message: str) -> str:
    """Rewords ml_collections' messages about a field that is not declared or has another type."""
    types = r"override field '(\w+)'.*?\. (.*) is of .*<class '([\w.]+)'> and .* <class '([\w.]+)'>"
    if wrong_type := re.search(types, message):
        name, value, given, expected = wrong_type.groups()
        return f"config field {name!r} is {value}, a value of type {given}: expected {expected.rpartition('.')[2]}"
    if unknown := re.search(r"Key \W*(\w+)\W* does not exist and cannot be added", message):
        return _unknown_field(repr(unknown[1]), message)
    return message.removeprefix("ValueError: ")


def _unknown_field(field: str, message: str) -> str:
    hint = re.search(r"Did you mean \W*(\w+)\W* instead", message)
    rest = f"did you mean {hint[1]!r}?" if hint else "FIELDS in digits_jax/config.py declares them"
    return f"unknown config field {field}: {rest}"


def required(name: str, example: str) -> Any:
    """Returns the value of the flag `name`; raises a ConfigError where it was not given."""
    value = flags.FLAGS[name].value
    if value is None:
        raise ConfigError(f"--{name} is missing; for example --{name}={example}")
    return value


def again() -> str:
    """Returns the command that started this process."""
    module = sys.modules["__main__"].__spec__
    name = module.name.removesuffix(".__main__") if module else "digits_jax.main"
    return f"python -m {name} {shlex.join(sys.argv[1:])}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppresses what is printed to `console`."""
    console.quiet = True
    try:
        yield
    finally:
        console.quiet = False


def warn(text: str) -> None:
    """Prints one line on standard error, also under `quiet`."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"warning: {text}", markup=False)


def percent(fraction: float) -> str:
    """Formats a fraction as a percentage with two decimals."""
    return f"{100 * fraction:.2f}%"


def duration(seconds: float) -> str:
    """Formats seconds as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
