"""What every command shares: flags are parsed, and a user's mistake becomes one line and an exit code.

Exit codes: 0 done, 1 the run cannot go on (data, files), 2 the command line or config is wrong, 75 stopped by
SIGTERM or SIGUSR1 and 130 by Ctrl-C, everything saved.
"""

import functools
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from absl import app, flags, logging

from digits_jax.errors import ConfigError, UserError


def run(main: Callable[[list[str]], int | None], *, positional: bool = False) -> NoReturn:
    """Parses the flags, calls `main(argv)` and exits with what it returns.

    Args:
      main: takes the arguments that are left after the flags, the program's name first; returns an exit code or None.
      positional: whether there may be such arguments.

    Raises:
      SystemExit: always; see the module's docstring for the codes.
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


def _parse_flags(argv: list[str], *, positional: bool) -> list[str]:
    try:
        rest = flags.FLAGS(argv)
        if "config" in flags.FLAGS and flags.FLAGS["config"].value is not None:
            flags.FLAGS["config"].value.lock()  # a config that could not be loaded says so when it is first used
        if len(rest) > 1 and not positional:
            raise flags.Error(f"unexpected argument {rest[1]!r}: options are written --name=value")
    except Exception as error:  # a config file is a program: it may raise anything
        print(f"error: {_one_line(error, argv)}", file=sys.stderr)
        raise SystemExit(2) from None
    if flags.FLAGS["verbosity"].using_default_value:
        # absl would choose INFO, at which Orbax alone logs a page per checkpoint. What goes wrong is raised as well.
        flags.FLAGS["verbosity"].using_default_value = False
        logging.set_verbosity(logging.FATAL)
    return rest


def _one_line(error: Exception, argv: list[str]) -> str:
    """What is wrong with the command line, in one line that names the argument; ml_collections prints a page."""
    config = next((a.partition("=")[2] for a in argv if a.startswith("--config=")), None)
    if config is None and any(a.startswith("--config.") for a in argv):
        return "a field is given but no config: add --config=configs/bn_dropout.py"
    text = str(error)
    file = str(config).partition(":")[0]
    if "No such file" in text or "Is a directory" in text:
        return f"config file {file!r} not found: configs/ holds those that come with the project"

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
    """What ml_collections says of a field that is not declared or of another type, in plain words."""
    types = r"override field '(\w+)'.*?\. (.*) is of .*<class '([\w.]+)'> and .* <class '([\w.]+)'>"
    if wrong_type := re.search(types, message):
        name, value, given, expected = wrong_type.groups()
        return f"config field {name!r} is {value}, a value of type {given}: expected {expected.rpartition('.')[2]}"
    if unknown := re.search(r"Key \W*(\w+)\W* does not exist and cannot be added", message):
        return _unknown_field(repr(unknown[1]), message)
    return message.removeprefix("ValueError: ")


def _unknown_field(field: str, message: str) -> str:
    hint = re.search(r"Did you mean \W*(\w+)\W* instead", message)
    rest = f"did you mean {hint[1]!r}?" if hint else "configs/default.py declares them all"
    return f"unknown config field {field}: {rest}"


def required(name: str, example: str) -> Any:
    """The value of the flag `name`; raises a ConfigError where it was not given."""
    value = flags.FLAGS[name].value
    if value is None:
        raise ConfigError(f"--{name} is missing; for example --{name}={example}")
    return value


def again() -> str:
    """The command that started this process."""
    module = sys.modules["__main__"].__spec__
    name = module.name.removesuffix(".__main__") if module else "digits_jax.main"
    return f"python -m {name} {shlex.join(sys.argv[1:])}"
