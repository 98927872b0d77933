"""Compares our runs with the post's printed log: `python -m digits_jax.studies.reproduce`."""
