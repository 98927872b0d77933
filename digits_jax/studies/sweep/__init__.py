"""Trains the runs of a sweep: `python -m digits_jax.studies.sweep`."""
