"""Summarizes a sweep's results as a page: `python -m digits_jax.studies.report`."""
