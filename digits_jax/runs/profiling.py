"""A `jax.profiler` trace of the first training steps."""

from pathlib import Path

import jax

from digits_jax.runs import console


class StepProfiler:
    """Traces the first `steps` training steps after compilation, rounded up to whole calls; 0: none."""

    def __init__(self, folder: Path, *, steps: int) -> None:
        self._folder = folder
        self._left = steps
        self._tracing = False

    def before_call(self) -> None:
        if self._left > 0 and not self._tracing:
            jax.profiler.start_trace(self._folder)
            self._tracing = True

    def after_call(self, steps: int, results: object) -> None:
        """Counts the call's steps, and ends the trace once there are enough and `results` are ready."""
        if not self._tracing:
            return
        self._left -= steps
        if self._left <= 0:
            jax.block_until_ready(results)
            self.close()

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._tracing:
            jax.profiler.stop_trace()
            self._tracing = False
            console.console.print(f"profile saved; look at it with: xprof --logdir {self._folder}")
