"""A `jax.profiler` trace of the first training steps."""

from pathlib import Path

import jax

from digits_jax.cli import console


class StepProfiler:
    """A context that traces the first `steps` training steps after compilation, rounded up to whole calls; 0: none."""

    def __init__(self, steps: int) -> None:
        self._folder: Path | None = None  # while a trace is in progress
        self._left = steps

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def before_call(self, folder: Path) -> None:
        """Starts the trace before the first call, into the folder."""
        if self._left > 0 and not self._folder:
            jax.profiler.start_trace(folder)
            self._folder = folder

    def after_call(self, steps: int, results: object) -> None:
        """Counts the call's steps; ends the trace once there are enough and `results` are ready."""
        self._left -= steps
        if self._folder and self._left <= 0:
            jax.block_until_ready(results)
            self._close()

    def _close(self) -> None:
        if self._folder:
            jax.profiler.stop_trace()
            console.print(f"profile saved; view it with: xprof --logdir {self._folder}")
            self._folder = None
