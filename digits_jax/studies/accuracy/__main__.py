"""Accuracy against time: `python -m digits_jax.studies.accuracy`

Rewrites the plot and tables of `docs/accuracy.md` from the result files of `configs/sweeps/accuracy.py` and
`configs/sweeps/reproduction.py`, from `docs/speed_run.json` (`speed_run.py`), and from what `digits_jax.apps.evaluate`
found of ensembles (`docs/accuracy_ensembles/*.json`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.runs.console import console
from digits_jax.studies.accuracy.page import (
    Point,
    configs_table,
    ensembles_table,
    missed_table,
    plot_points,
    races_table,
    thresholds_table,
)
from digits_jax.studies.docs import DOCS, replace_section
from digits_jax.studies.report.statistics import estimate
from digits_jax.studies.report.study import describe, read_variants
from digits_jax.studies.reproduce.post_log import EXPERIMENTS


def read_points(results: dict[str, list[dict[str, Any]]], configs: dict[str, dict[str, Any]]) -> list[Point]:
    """One for each variant with two runs or more.

    Args:
      results: by variant.
      configs: of `speed_run.json`.

    Raises:
      UserError: a variant has not been timed.
    """
    points = []
    for name, runs in results.items():
        if len(runs) < 2:
            continue
        if name not in configs:
            raise UserError(
                f"speed_run.json has not timed {name!r}: run python -m digits_jax.studies.benchmark.speed_run again"
            )
        images = runs[0]["config"]["dataset"]["train_examples"]
        points.append(
            Point(
                name=name,
                accuracies=[[row["test/accuracy"] for row in run["epochs"]] for run in runs],
                epoch_seconds=[images * seconds for seconds in configs[name]["seconds_per_image"]],
                epoch_flops=images * configs[name]["flops_per_image"],
            )
        )
    return points


def missed_by_all(runs: Sequence[dict[str, Any]]) -> list[int]:
    """The test images that the final epochs of all runs get wrong."""
    return sorted(set.intersection(*(set(run["test_errors"]) for run in runs)))


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    stated = read_variants(docs / "reproduction")
    results = {name: stated[f"{name}, as stated"] for name in EXPERIMENTS} | read_variants(docs / "accuracy")
    speed = _read(docs / "speed_run.json")
    points = read_points(results, speed["configs"])
    plot_points(points).savefig(docs / "accuracy.png")
    machine = speed["environment"]
    strongest = max(points, key=lambda point: estimate(point.final).mean)
    sections = {
        "runs": describe([run for runs in results.values() for run in runs]),
        "machine": f"Timed on {machine['cores']} cores of {machine['cpu']}, jax {machine['jax']}.",
        "configs": configs_table(points),
        "thresholds": thresholds_table(points),
        "races": races_table(speed["races"]),
        "ablation": _answer(docs / "ablations/fast/report.md"),
        "ensembles": ensembles_table({f.stem: _read(f) for f in sorted(docs.glob("accuracy_ensembles/*.json"))}),
        "missed": missed_table(strongest, missed_by_all(results[strongest.name])),
    }
    for section, text in sections.items():
        replace_section(docs / "accuracy.md", section, text)
    console.print(f"{len(points)} configs in {docs / 'accuracy.md'}")


def _answer(report: Path) -> str:
    """Of a report, which opens with its question and the answer."""
    return _text(report).split("\n\n")[1] if report.exists() else "Its runs are missing."


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(_text(file))
    except ValueError as error:
        raise UserError(f"{file} cannot be read ({error})") from None


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error})") from None


if __name__ == "__main__":
    cli.run(main)
