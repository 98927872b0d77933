"""Measurements and studies; nothing in the core imports them."""

from digits_jax.studies.results import load_runs

__all__ = ["load_runs"]
