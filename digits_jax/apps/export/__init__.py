"""Exports a trained model to ONNX, StableHLO or npz: `python -m digits_jax.apps.export`."""
