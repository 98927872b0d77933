"""A run's directory: checkpoints, metadata and results, metric writers, console output, signals, trained models."""

from digits_jax.runs.checkpoint import Progress
from digits_jax.runs.console import announce, show_epoch, show_results
from digits_jax.runs.diagnosis import diagnose
from digits_jax.runs.extension import extend
from digits_jax.runs.history import Row
from digits_jax.runs.interrupts import Interrupted, StopRequest
from digits_jax.runs.pretrained import describe_taken, load_initial, load_weights
from digits_jax.runs.profiling import StepProfiler
from digits_jax.runs.run import Run, open_runs
from digits_jax.runs.workdir import default_workdir, describe_code_and_data
from digits_jax.runs.writers import Writer

__all__ = [
    "Interrupted", "Progress", "Row", "Run", "StepProfiler", "StopRequest", "Writer", "announce", "default_workdir",
    "describe_code_and_data", "describe_taken", "diagnose", "extend", "load_initial", "load_weights", "open_runs",
    "show_epoch", "show_results",
]  # fmt: skip
