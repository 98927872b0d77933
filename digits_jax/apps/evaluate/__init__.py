"""Evaluates a trained model on test images: `python -m digits_jax.apps.evaluate`."""
