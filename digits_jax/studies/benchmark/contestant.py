"""A program of the benchmark in a process of its own: `python -m digits_jax.studies.benchmark.contestant CASE PROGRAM`

The process builds the program, reads from standard input how often to repeat its pass, one number per line, and prints
the seconds of all repetitions and, with an accelerator, the peak memory in bytes that JAX has taken of it, until
standard input is closed. `Contestant` is the other end.
"""

import math
import os
import select
import signal
import subprocess
import sys
import tempfile
import timeit
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
from absl import flags

from digits_jax import cli
from digits_jax.errors import ConfigError

IMAGES = flags.DEFINE_integer("images", None, "images per pass; default: thousands, on a GPU an epoch", lower_bound=1)
TIMEOUT = 900.0  # seconds that a program may take to start and compile, or for a measurement


class Contestant:
    """Times a command that follows the protocol above; one that fails is reported in one line and takes forever.

    It starts with the first call. Between calls it is stopped, with all of its threads: some wait in busy loops.
    """

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, timeout: float = TIMEOUT
    ) -> None:
        self.failure: str | None = None
        self.answers: list[list[float]] = []
        self._name, self._command, self._timeout = name, command, timeout
        self._environment = {**os.environ, **environment}
        self._process: subprocess.Popen[bytes] | None = None
        self._is_begun = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115

    def __call__(self, repetitions: int) -> float:
        """Returns the seconds of so many passes; infinity if the program fails or has failed."""
        return (self.ask(repetitions) or [math.inf])[0]

    def ask(self, number: int) -> list[float]:
        """Returns the numbers that the program prints for this one; none if it fails or has failed."""
        if not self.failure:
            try:
                self.answers.append(self._ask(number))
                return self.answers[-1]
            except (OSError, EOFError) as error:  # it does not start, hangs, or has ended
                self._errors.seek(0)
                printed = self._errors.read().decode(errors="replace").strip()
                code = self.close()
                reason = f"exit code {code}" if isinstance(error, EOFError | BrokenPipeError) else str(error)
                self.failure = f"{reason}: {' '.join(printed.splitlines()[-1].split())}" if printed else reason
                cli.warn(f"{self._name} failed: {self.failure}")
        return []

    def begin(self, number: int) -> None:
        """Sends a number without waiting for the answer, which the next `ask`, of the same number, returns."""
        if not self._process:
            self._process = subprocess.Popen(
                self._command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
                env=self._environment, process_group=0,
            )  # fmt: skip
        assert self._process.stdin
        os.killpg(self._process.pid, signal.SIGCONT)
        self._process.stdin.write(b"%d\n" % number)
        self._is_begun = True

    def _ask(self, number: int) -> list[float]:
        if not self._is_begun:
            self.begin(number)
        self._is_begun = False
        process = self._process
        assert process
        assert process.stdout
        if not select.select([process.stdout], [], [], self._timeout)[0]:
            raise TimeoutError(f"no answer within {self._timeout:g} s")
        answer = process.stdout.readline()
        if not answer:
            raise EOFError
        os.killpg(process.pid, signal.SIGSTOP)
        return [float(word) for word in answer.split()]

    def close(self) -> int | None:
        """Ends the process, and those that it has started; returns the exit code."""
        self._errors.close()
        process, self._process = self._process, None
        if not process:
            return None
        with process:  # waits for its end
            os.killpg(process.pid, signal.SIGKILL)
        return process.returncode


def serve(create: Callable[[], Callable[[int], Iterable[float]]]) -> None:
    """Prints what the created function returns for each number that is read, until standard input is closed."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what libraries print is no answer
    answer = create()
    for line in sys.stdin:
        print(*answer(int(line)), file=answers, flush=True)


def _device_memory() -> list[float]:
    statistics = None if jax.default_backend() == "cpu" else jax.devices()[0].memory_stats()
    return [statistics["peak_bytes_in_use"]] if statistics else []


def main(argv: list[str]) -> None:
    from digits_jax.studies.benchmark.programs import parse_case, programs

    if len(argv) != 3:
        raise ConfigError(f"{' '.join(argv[1:])!r} is given: expected a case and a program")
    program = programs(parse_case(argv[1], IMAGES.value)).get(argv[2])
    if not program:
        raise ConfigError(f"{argv[2]!r} is no program of {argv[1]}")

    def create() -> Callable[[int], Iterable[float]]:
        run = program.build()
        return lambda repetitions: [timeit.timeit(run, number=repetitions), *_device_memory()]

    serve(create)


if __name__ == "__main__":
    cli.run(main, positional=True)
