"""Evaluates a trained model on test images: `python -m digits_jax.apps.evaluate`."""

from etils import epy

with epy.lazy_api_imports(globals()):  # so that a missing extra is reported in one line
    from digits_jax.apps.evaluate.evaluation import Accuracy, Evaluation, Scores, compute_scores, evaluate
    from digits_jax.apps.evaluate.page import build_tables, write_evaluation

__all__ = ["Accuracy", "Evaluation", "Scores", "build_tables", "compute_scores", "evaluate", "write_evaluation"]
