"""Compares the post's log with ours. `python -m digits_jax.studies.reproduce` writes the page."""
