"""The rows of metrics of a run, one per epoch, and the best of them."""

from typing import Any

from ml_collections import FrozenConfigDict

from digits_jax.bounds import FINITE, Bounds, integer, list_of, number
from digits_jax.errors import UserError
from digits_jax.storage import Schema

Row = dict[str, Any]  # the metrics of one epoch, a line of `metrics.jsonl`


def _is_row(value: Any) -> bool:
    places = isinstance(value, dict) and all(integer(1).accepts(value.get(name)) for name in ("epoch", "step"))
    return places and all(FINITE.accepts(metric) for metric in value.values())


ROW = Bounds(_is_row, "a row of metrics with its epoch and step")
HISTORY: Schema = {"seconds": number(0), "rows": list_of(ROW)}  # of a checkpoint


def score_key(config: FrozenConfigDict) -> str:
    """Returns the metric that selects the best epoch: on the held-out images if there are any, else on the test set."""
    return "validation/accuracy" if config.dataset.validation_examples else "test/accuracy"


def best_row(rows: list[Row], key: str) -> Row:
    """Returns the first epoch's row with the highest score; raises a UserError if one has none."""
    for row in rows:
        if key not in row:
            raise UserError(f"epoch {row['epoch']} of the run has no {key}, which selects its best epoch")
    return max(rows, key=lambda row: row[key])
