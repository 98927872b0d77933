"""Exports a trained model to one file for other programs: `python -m digits_jax.apps.export`."""
