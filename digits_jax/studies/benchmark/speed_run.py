"""Times training to an accuracy, beside PyTorch:
`python -m digits_jax.studies.benchmark.speed_run --output=docs/speed_run.json`

Two measurements on one machine, which is to have nothing else to do. The six experiments and the variants of
`configs/sweeps/accuracy.py` are timed in turn, round by round, for some thousand images each. And `configs/fast.py` and
the same recipe in PyTorch (`torch_recipe.py`, after `./launch.sh setup benchmark`) are trained to their end in turn,
seed by seed. Compilation and scoring are in none of these seconds.
"""

import functools
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import cli
from digits_jax.data import Dataset
from digits_jax.runs import console
from digits_jax.storage import enable_compilation_cache, replace_text
from digits_jax.studies.benchmark import torch_recipe
from digits_jax.studies.benchmark.__main__ import (
    OUTPUT,
    ROUNDS,
    SECONDS,
    Case,
    compare,
    environment,
    flops_per_image,
    parse_case,
)
from digits_jax.studies.benchmark.contestants import digits_jax_training, random_arrays
from digits_jax.studies.reproduce.post_log import EXPERIMENTS
from digits_jax.studies.sweep.__main__ import SOURCE
from digits_jax.studies.sweep.plan import load_sweep, plan
from digits_jax.train import train_seeds

SEEDS = flags.DEFINE_integer("seeds", 5, "trained by each side", lower_bound=1)

_SWEEP = "configs/sweeps/accuracy.py"
_RACED = "fast"  # what the variants are called that are also trained to their end


def train(config: FrozenConfigDict, dataset: Dataset, seed: int) -> tuple[float, float]:
    """Trains a resolved config with a seed; returns the seconds of training and the final test accuracy."""
    with console.quiet(), TemporaryDirectory() as folder:
        [rows] = train_seeds(config, [seed], lambda _: folder, dataset=dataset)
    return sum(row["train/seconds"] for row in rows), rows[-1]["test/accuracy"]


def time_cases(cases: Sequence[Case], *, rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """By name, the seconds per image of each round, and the floating-point operations per image."""
    passes = {case.name: digits_jax_training(case.config, random_arrays(case.num_images, 1)) for case in cases}
    times = compare(passes, rounds=rounds, seconds=seconds)
    return {
        case.name: {
            "seconds_per_image": [float(f"{t / case.num_images:.4g}") for t in times[case.name]],
            "flops_per_image": round(flops_per_image(case)),
        }
        for case in cases
    }


def race(contestants: dict[str, Callable[[int], tuple[float, float]]], *, seeds: int) -> dict[str, dict[str, Any]]:
    """By name, seconds and test accuracy of each seed; the contestants take turns."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "accuracy": []} for name in contestants}
    for seed in range(seeds):
        for name, train_seed in contestants.items():
            seconds, accuracy = train_seed(seed)
            found[name]["seconds"].append(round(seconds, 2))
            found[name]["accuracy"].append(accuracy)
            console.console.print(f"{name}, seed {seed}: {100 * accuracy:.2f} % after {seconds:.1f} s")
    return found


def main(argv: list[str]) -> None:
    enable_compilation_cache()
    runs = [(run, data) for run, data in plan(load_sweep(_SWEEP), source_dir=SOURCE.value) if run.seed == 0]
    contestants: dict[str, Callable[[int], tuple[float, float]]] = {}
    for run, data in runs:
        if run.variant.startswith(_RACED):
            contestants[run.variant] = functools.partial(train, run.config, data)
            if importlib.util.find_spec("torch"):
                contestants[f"{run.variant} in PyTorch"] = torch_recipe.create_training(run.config, data)
    cases = [parse_case(f"{name}:64")._replace(name=name) for name in EXPERIMENTS]
    cases += [Case(run.variant, ConfigDict(run.config.to_dict()), "training") for run, _ in runs]
    configs = time_cases(cases, rounds=ROUNDS.value, seconds=SECONDS.value)
    races = race(contestants, seeds=SEEDS.value)
    if OUTPUT.value:
        text = json.dumps({"environment": environment(), "configs": configs, "races": races}, indent=1)
        replace_text(Path(OUTPUT.value), text + "\n")
        console.console.print(f"all figures in {OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
