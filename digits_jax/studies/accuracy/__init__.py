"""Writes the page of accuracy against time: `python -m digits_jax.studies.accuracy`."""
