"""Sweeps: what to train to answer a question. `python -m digits_jax.studies.sweep` trains the runs of one."""

from digits_jax.studies.sweep.definition import ON_HELD_OUT_WRITERS, ON_MORE_WRITERS, Sweep, check_sweep, load_sweep

__all__ = ["ON_HELD_OUT_WRITERS", "ON_MORE_WRITERS", "Sweep", "check_sweep", "load_sweep"]
