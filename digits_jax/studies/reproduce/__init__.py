"""Compares the post's log with ours. `python -m digits_jax.studies.reproduce` writes the page."""

from digits_jax.studies.reproduce.post_log import EXPERIMENTS

__all__ = ["EXPERIMENTS"]
