"""Measurements, and the studies behind the pages under `docs/`; nothing in the core imports them."""

from digits_jax.studies.results import load_runs
from digits_jax.studies.sweep import Sweep

__all__ = ["Sweep", "load_runs"]
