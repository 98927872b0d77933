"""Measures the speed of training and evaluation: `python -m digits_jax.studies.benchmark`."""
