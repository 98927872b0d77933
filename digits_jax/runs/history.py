"""The rows of metrics of a run, one per epoch, and the best of them."""

from typing import Any

from ml_collections import FrozenConfigDict

Row = dict[str, Any]  # the metrics of one epoch, a line of `metrics.jsonl`


def score_key(config: FrozenConfigDict) -> str:
    """Returns the metric that selects the best epoch: on the held-out images if there are any, else on the test set."""
    return "validation/accuracy" if config.dataset.validation_examples else "test/accuracy"


def best_row(rows: list[Row], key: str) -> Row:
    """Returns the first epoch's row with the highest score."""
    return max(rows, key=lambda row: row[key])
