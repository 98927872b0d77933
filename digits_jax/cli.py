"""Shared by all commands: parses flags, turns a user's mistake into one line and an exit code, prints.

Exit codes: 0 done, 1 data or files are unusable or training diverged, 2 the command line or config is wrong; those of
`EXIT_CODES` stopped by a signal, everything saved.
"""

import contextlib
import errno
import functools
import io
import os
import re
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict
from rich.console import Console

from digits_jax.errors import ConfigError, UserError

# SIGINT is Ctrl-C, SIGTERM what schedulers send before they kill, SIGUSR1 SLURM's warning (`--signal=USR1@60`), SIGHUP
# a closed terminal. SIGPIPE, which any socket may cause, has no handler: it stands for a closed standard output.
EXIT_CODES = {signal.SIGINT: 130, signal.SIGPIPE: 141}
EXIT_CODES |= dict.fromkeys((signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP), 75)  # EX_TEMPFAIL of sysexits.h: try again


class Terminal(Console):
    """Standard output, for plain text. Once its reader is gone, as in `| head`, it discards the rest."""

    is_closed = False  # of all instances: a process has one standard output

    def __init__(self, **options: Any) -> None:
        # In a notebook, too, lines of text: Rich would display each as an HTML element.
        options["force_jupyter"] = False
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        """Discards what is still printed. Rich's default ends the process, before anything is saved."""
        Terminal.is_closed = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def _check_buffer(self) -> None:  # where Rich writes
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):  # the latter of a closed terminal
                raise
            self.on_broken_pipe()


console = Terminal()


def run(main: Callable[[list[str]], int | None], *, positional: bool = False) -> NoReturn:
    """Parses the flags, calls `main(argv)` and exits with the code that it returns, or 0 for None.

    Its argument is the program's name and, with `positional`, the arguments that are no flags.
    """

    def guarded_main(argv: list[str]) -> int | None:
        try:
            code = main(argv)
            print(end="", flush=True)  # at exit, an error would be a traceback
            return code
        except UserError as error:
            return _fail(error, error.exit_code)
        except OSError as error:  # one that nobody has explained, such as a full disk
            if not error.filename:
                console.on_broken_pipe()  # or the flush at exit would fail, too
            if isinstance(error, BrokenPipeError):
                return EXIT_CODES[signal.SIGPIPE]
            name = error.filename2 or error.filename or "standard output or a connection"
            return _fail(f"{name} cannot be used ({error.strerror or error})", 1)
        except (RuntimeError, AssertionError) as error:
            source = traceback.extract_tb(error.__traceback__)[-1].filename
            if source.endswith("pathlib.py"):  # `Path.expanduser`
                return _fail("the home directory is unknown: set HOME", 1)
            if not source.endswith("xla_bridge.py"):
                raise
            found = f"{os.environ.get('JAX_PLATFORMS')!r} ({' '.join(str(error).split()) or 'no such device'})"
            return _fail(f"JAX_PLATFORMS is {found}: expected a kind of device that this machine has, such as cpu", 1)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return EXIT_CODES[signal.SIGINT]

    for number in stop_signals():
        if number != signal.SIGINT:  # raises KeyboardInterrupt
            signal.signal(number, lambda number, _: sys.exit(EXIT_CODES[signal.Signals(number)]))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal may have no UTF-8
    app.run(guarded_main, flags_parser=functools.partial(_parse_flags, positional=positional))
    raise AssertionError("app.run exits")


def _fail(reason: object, exit_code: int) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return exit_code


def stop_signals() -> list[signal.Signals]:
    """Returns the signals that ask a command to stop; without SIGHUP where it is ignored, as under `nohup`."""
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    return signals if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [*signals, signal.SIGHUP]


class _PathParser(flags.ArgumentParser):
    def parse(self, argument: str) -> str:
        argument.encode()  # raises a ValueError in a locale without UTF-8, in which TensorStore finds no other path
        return os.path.expanduser(argument)  # an unknown user's stays as it is, as in a shell


def DEFINE_path(name: str, default: str | None, help: str) -> Any:
    """Defines a flag for a path, in which `~` is expanded; as absl's DEFINE_string."""
    return flags.DEFINE(_PathParser(), name, default, help)


def DEFINE_code() -> None:
    """Defines the flags that `code_policy` reads."""
    flags.DEFINE_bool("fresh", False, "where other code trained a run, train it anew beside that")
    flags.DEFINE_bool("accept_code", False, "where other code trained a run, continue it and record the change")


def code_policy() -> str:
    """Returns what the flags say about runs of other code: "check" (refuse them), "fresh" or "accept"."""
    if flags.FLAGS.fresh and flags.FLAGS.accept_code:
        raise ConfigError("--fresh and --accept_code are given: expected one of them")
    return "fresh" if flags.FLAGS.fresh else "accept" if flags.FLAGS.accept_code else "check"


def DEFINE_cluster() -> None:
    """Defines the flags that `cluster` reads; SLURM, Open MPI and TPU pods set all but the last two."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT where process 0 waits for the others")
    flags.DEFINE_integer("num_processes", None, "number of processes", lower_bound=1)
    flags.DEFINE_integer("process_id", None, "number of this process, from 0", lower_bound=0)
    flags.DEFINE_string("bind_address", None, "HOST:PORT that process 0 listens on; default: all addresses")
    flags.DEFINE_integer("peer_timeout", 30, "seconds after which a silent process is dead", lower_bound=1)


def cluster() -> list[Any]:
    """Returns the arguments of `parallel.initialize`."""
    names = ("coordinator", "num_processes", "process_id", "bind_address", "peer_timeout")
    return [flags.FLAGS[name].value for name in names]


flags.disclaim_key_flags()  # those of DEFINE_path are of the modules that call it: `--help` shows them


def config_path(name: str) -> str:
    """Returns the path of the config file that `--config=NAME[:ARGUMENT]` names, with the argument.

    A name such as `bn_dropout` is one of the project's experiments, found wherever the command is run; so are
    `bn_dropout.py` and `configs/bn_dropout.py` where there is no such file. Anything else is a path already.
    """
    file, colon, argument = os.path.expanduser(name).partition(":")
    stem = file.removeprefix("configs/").removesuffix(".py")
    if stem in _known_configs() and (file == stem or not os.path.exists(file)):
        file = f"{configs_directory() / stem}.py"
    return file + colon + argument


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


_NAMES = ("augment.names", "callbacks", "freeze", "metrics")  # tuples of names, which need no quotes


def _parse_flags(argv: list[str], *, positional: bool) -> list[str]:
    joined: list[str] = []
    for argument in argv:
        if joined and re.fullmatch(r"--config(\.[\w.]+)?", joined[-1]) and not argument.startswith("-"):
            argument = f"{joined.pop()}={argument}"
        if argument.startswith("--config="):
            argument = f"--config={config_path(argument.removeprefix('--config='))}"
        if names := re.fullmatch(rf"(--config\.(?:{'|'.join(_NAMES)}))=([^'\"()]*)", argument):
            argument = f"{names[1]}={tuple(filter(None, names[2].split(',')))!r}"
        joined.append(argument)
    last = {name: value for name, _, value in (argument.partition("=") for argument in joined)}
    # ml_collections would parse None as a path named None, or as no number.
    unset = [name for name, value in last.items() if name.startswith("--config.") and value == "None"]
    try:
        rest = flags.FLAGS([argument for argument in joined if not re.fullmatch(r"--config\..*=None", argument)])
        if "config" in flags.FLAGS and (config := flags.FLAGS["config"].value) is not None:
            config.lock()  # a config that could not be loaded says so when it is first used
            for field in (name.removeprefix("--config.") for name in unset):
                if isinstance(functools.reduce(getattr, field.split("."), config), ConfigDict):
                    raise flags.Error(f"config.{field} is None: expected a value for one of its fields")
                config.update_from_flattened_dict({field: None})  # `config.validate` knows which fields may be None
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


_ON_A_VALUE = re.compile(
    "is not a dataclass in the parent|indices must be integers|object does not support|does not support indexing"
)


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
    if section := re.search(r"--config\.([\w.]+)=(.*): Failed to parse .* as a ConfigDict", text):
        return f"config.{section[1]} has fields of its own: did you mean --config.{section[1]}.name={section[2]}?"
    if given := next((a for a in argv if re.match(r"--config(\.\w+){2,}=", a) and _ON_A_VALUE.search(text)), None):
        return f"unknown config field in {given}: {given.partition('=')[0].rpartition('.')[0][2:]} has no fields"
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
    Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False).print(f"warning: {text}")


def percent(fraction: float) -> str:
    """Formats a fraction as a percentage with two decimals."""
    return f"{100 * fraction:.2f}%"


def duration(seconds: float) -> str:
    """Formats seconds as minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
