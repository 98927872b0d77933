"""Exports a trained model to one file for other programs: `python -m digits_jax.apps.export`."""

from etils import epy

with epy.lazy_api_imports(globals()):  # so that a missing extra is reported in one line
    from digits_jax.apps.export.formats import FORMATS, Agreement, export_model
    from digits_jax.apps.export.model_card import build_model_card

__all__ = ["FORMATS", "Agreement", "build_model_card", "export_model"]
