"""Signals that ask training to stop: recorded here, acted on by the training loop between two compiled calls."""

import signal
import threading
from collections.abc import Callable
from types import FrameType

from digits_jax import cli


class Interrupted(Exception):
    """Training stopped on request; everything up to this moment is saved."""

    def __init__(self, signum: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(signum).name)
        self.exit_code = cli.EXIT_CODES[signal.Signals(signum)]


class StopRequest:
    """A context in which the first signal only sets `signum`; a second Ctrl-C interrupts at once.

    `agree` takes this process's `signum` and returns that of all processes of the program.
    """

    def __init__(self, agree: Callable[[int], int] = lambda signum: signum) -> None:
        self.signum = 0
        self._agree = agree

    def poll(self) -> bool:
        """Returns whether to stop; all processes have to ask at the same places, and get the same answer."""
        if cli.Terminal.is_closed:
            self.signum = self.signum or signal.SIGPIPE
        agreed = self._agree(self.signum)
        self.signum = self.signum or agreed
        return agreed != 0

    def __enter__(self) -> "StopRequest":
        # Python sets signal handlers in no other thread.
        numbers = cli.stop_signals() if threading.current_thread() is threading.main_thread() else ()
        self._previous = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.signum = self.signum or signum
        # The next Ctrl-C does not wait; a script's background jobs begin with it ignored.
        signal.signal(signal.SIGINT, signal.default_int_handler)
