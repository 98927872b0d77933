"""Ctrl-C as a request that the training loop answers between two compiled calls."""

import signal
import threading
from types import FrameType


class Interrupted(Exception):
    """Training stopped on request; everything up to this moment is saved."""


class StopRequest:
    """While entered, the first SIGINT only sets `requested`; a second one interrupts at once."""

    def __init__(self) -> None:
        self.requested = False
        self._previous = signal.getsignal(signal.SIGINT)

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():  # Python sets signal handlers in no other
            signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._previous)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a script's background jobs begin with it ignored
