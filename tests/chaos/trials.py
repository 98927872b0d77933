"""One trial each: a run is killed, or a checkpoint damaged; the same command goes on; its end is compared."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax import load_model

ROOT = Path(__file__).parents[2]
_TIMEOUT = 300  # seconds for one process


def command(workdir: Path) -> list[str]:
    """`bn_dropout` with augmentation and dropout on 1,437 images for three epochs."""
    return [
        sys.executable, "-m", "digits_jax.main", "--config=configs/bn_dropout.py", f"--workdir={workdir}",
        "--config.dataset.name=optical_digits", "--config.dataset.validation_examples=200",
        "--config.learning_rates=0.01,0.02,0.01", "--config.epochs=1,1,1",
        "--config.augment.rotation=8.0", "--config.augment.shear=0.3", "--config.augment.zoom=0.08",
        "--config.execution.steps_per_call=2",
    ]  # fmt: skip


def start(workdir: Path) -> subprocess.Popen:
    return subprocess.Popen(
        command(workdir), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(workdir: Path) -> str:
    """Runs the command to its end, and returns what it warned of."""
    process = start(workdir)
    try:
        _, err = process.communicate(timeout=_TIMEOUT)
    finally:
        process.kill()
    if process.returncode:
        raise RuntimeError(f"exit code {process.returncode}: {err.strip()}")
    return err


def outcome(workdir: Path) -> dict[str, Any]:
    """What a run ended with, without what a clock decides.

    Its result (the final state's hash, the scores of the final and the best epoch), its rows, which checkpoints it has,
    and the predictions of the best model.
    """
    result = json.loads((workdir / "result.json").read_text())
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    for row in (result["final"], result["best"], *result["epochs"], *rows):
        row.pop("train/seconds", None)
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


def kill(workdir: Path, draw: random.Random, signum: signal.Signals, *, seconds: float) -> str:
    """Sends a signal to the run at a random moment of so many seconds; returns where it was, or its exit code."""
    process = start(workdir)
    try:
        process.wait(draw.uniform(0, seconds))
    except subprocess.TimeoutExpired:
        process.send_signal(signum)
    try:
        process.communicate(timeout=_TIMEOUT)
    finally:
        process.kill()
    where = phase(workdir)
    return where if signum == signal.SIGKILL else f"{where}, exit code {process.returncode}"


def wait_for_epochs(workdir: Path, count: int) -> None:
    """Trains until so many epochs are saved, and stops the run there with SIGTERM."""
    process = start(workdir)
    metrics = workdir / "metrics.jsonl"
    deadline = time.monotonic() + _TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= count:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=_TIMEOUT)


def flip_bit(step: Path, other: Path, draw: random.Random) -> str:
    file = _draw_file(step, draw, least=1)
    content = bytearray(file.read_bytes())
    bit = draw.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return f"bit {bit} of {file.relative_to(step)}"


def truncate(step: Path, other: Path, draw: random.Random) -> str:
    file = _draw_file(step, draw, least=1)
    size = draw.randrange(file.stat().st_size)
    os.truncate(file, size)
    return f"{file.relative_to(step)} cut to {size} bytes"


def delete(step: Path, other: Path, draw: random.Random) -> str:
    file = _draw_file(step, draw, least=0)
    file.unlink()
    return f"{file.relative_to(step)} deleted"


def swap(step: Path, other: Path, draw: random.Random) -> str:
    """Takes a file from another checkpoint."""
    pairs = [
        (file, twin)
        for file in sorted(step.rglob("*"))
        if file.is_file() and (twin := other / file.relative_to(step)).is_file()
    ]
    file, twin = draw.choice([pair for pair in pairs if pair[0].read_bytes() != pair[1].read_bytes()])
    shutil.copy(twin, file)
    return f"{file.relative_to(step)} from step {other.name}"


def _draw_file(step: Path, draw: random.Random, *, least: int) -> Path:
    files = [path for path in sorted(step.rglob("*")) if path.is_file() and path.stat().st_size >= least]
    return draw.choice(files)


DAMAGES: dict[str, Callable[[Path, Path, random.Random], str]] = {
    "bit flips": flip_bit, "truncations": truncate, "deletions": delete, "swapped files": swap
}  # fmt: skip


def damage_and_go_on(original: Path, workdir: Path, damage: str, draw: random.Random) -> tuple[bool, str]:
    """Damages the latest checkpoint of a copy of a run and trains the copy to its end.

    Returns:
      Whether the damage was found and named, and what it was.
    """
    shutil.copytree(original, workdir)
    steps = sorted((path for path in workdir.glob("checkpoints/*") if path.name.isdigit()), key=lambda p: int(p.name))
    what = DAMAGES[damage](steps[-1], steps[-2], draw)
    warnings = finish(workdir)
    return f"warning: the checkpoint of step {steps[-1].name} is corrupted" in warnings, what
