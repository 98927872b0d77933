"""A `jax.profiler` trace of the first training steps."""

from typing import TYPE_CHECKING

import jax

from digits_jax.cli import console

if TYPE_CHECKING:
    from digits_jax.runs.run import Run


class StepProfiler:
    """A context that traces the first `steps` training steps after compilation, rounded up to whole calls; 0: none.

    The trace is written to the directory `profile` of the first run that trains; on exit, its path is printed.
    """

    def __init__(self, steps: int) -> None:
        self._left = steps
        self._traced = 0
        self._run: Run | None = None  # while a trace is in progress
        self._saved = "no trace: there was no step left to train" if steps else ""

    def __enter__(self) -> "StepProfiler":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        if self._saved:
            console.print(f"\n{self._saved}")

    def before_call(self, run: "Run") -> None:
        """Starts the trace before the first call."""
        if self._left > 0 and not self._run:
            jax.profiler.start_trace(run.profile, create_perfetto_trace=True)  # Perfetto cannot open JAX's own format
            self._run = run

    def after_call(self, steps: int, results: object) -> None:
        """Counts the call's steps; ends the trace once there are enough and `results` are ready."""
        if self._run:
            self._left -= steps
            self._traced += steps
            if self._left <= 0:
                jax.block_until_ready(results)
                self._stop()

    def _stop(self) -> None:
        if self._run:
            jax.profiler.stop_trace()
            folder, path = self._run.profile, f"{self._run.path}/profile"
            file = max(folder.rglob("perfetto_trace.json.gz")).relative_to(folder)  # named after the time
            self._saved = (
                f"trace of {self._traced} steps in {path}; to view it, open\n  {path}/{file}\n"
                f"in https://ui.perfetto.dev, or run: pip install xprof && xprof --logdir={path}"
            )
            self._run = None
