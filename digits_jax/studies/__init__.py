"""Measurements, and the studies behind the pages under `docs/`; nothing in the core imports them."""

from digits_jax.studies.results import load_runs
from digits_jax.studies.sweep import ON_HELD_OUT_WRITERS, ON_MORE_WRITERS, Sweep

__all__ = ["ON_HELD_OUT_WRITERS", "ON_MORE_WRITERS", "Sweep", "load_runs"]
