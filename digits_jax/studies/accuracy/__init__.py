"""Plots accuracy against time. `python -m digits_jax.studies.accuracy` writes the page."""
