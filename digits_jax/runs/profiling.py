"""A `jax.profiler` trace of the first training steps."""

from pathlib import Path

import jax

from digits_jax.cli import console


class StepProfiler:
    """A context that traces the first `steps` training steps after compilation, rounded up to whole calls; 0: none."""

    def __init__(self, steps: int) -> None:
        self._folder: Path | None = None
        self._left = steps
        self._tracing = False

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def before_call(self, folder: Path) -> None:
        """Starts the trace before the first call, into the folder."""
        if self._left > 0 and not self._tracing:
            self._folder = folder
            jax.profiler.start_trace(folder)
            self._tracing = True

    def after_call(self, steps: int, results: object) -> None:
        """Counts the call's steps; ends the trace once there are enough and `results` are ready."""
        if not self._tracing:
            return
        self._left -= steps
        if self._left <= 0:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that is in progress."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            console.print(f"profile saved; view it with: xprof --logdir {self._folder}", markup=False)
