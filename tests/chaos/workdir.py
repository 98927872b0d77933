"""What a run's directory tells: where a killed run was, and what it ended with."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax import load_model

ROOT = Path(__file__).parents[2]


def outcome(workdir: Path) -> dict[str, Any]:
    """What a run ended with, without what a clock decides.

    Its result (the final state's hash, the scores of the final and the best epoch), its rows, which checkpoints it has,
    and the predictions of the best model.
    """
    result = json.loads((workdir / "result.json").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in (result["final"], result["best"], *result["epochs"], *rows):
        row.pop("train/seconds", None)
    result.pop("checksum")  # of the clock's numbers, too
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28, 1), np.uint8)
    return {
        "result": result,
        "rows": rows,
        "checkpoints": sorted(path.name for path in (workdir / "checkpoints").iterdir()),
        "predictions": load_model(workdir).predict(images).tolist(),
    }


def phase(workdir: Path) -> str:
    """Where a killed run was, as far as its folder tells."""
    if (workdir / "result.json").exists():
        return "finished"
    if list(workdir.glob("checkpoints/*tmp*")):
        return "saving"
    saved = [path for path in workdir.glob("checkpoints/*") if path.name.isdigit()]
    if not saved:
        return "starting"
    if not all((path / "SHA256SUMS").exists() for path in saved):
        return "saving"
    rows = (workdir / "metrics.jsonl").read_text().count("\n") if (workdir / "metrics.jsonl").exists() else 0
    return f"epoch {rows + 1}"
