"""Seconds to an accuracy, beside PyTorch: `python -m digits_jax.studies.speed_run --output=docs/speed_run.json`

Two measurements on one machine, which is to have nothing else to do. The six experiments and the variants of
`configs/sweeps/accuracy.py` are timed in turn, round by round, for some thousand images each. And `configs/fast.py` and
the same recipe in PyTorch (`torch_recipe.py`, after `./launch.sh setup benchmark`) are trained to
their end in turn, seed by seed. Compilation and scoring are in none of these seconds.
"""

import functools
import importlib.util
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import command_line, compilation, input_pipeline
from digits_jax.console import console
from digits_jax.datasets import Dataset
from digits_jax.disk import replace_text
from digits_jax.experiment import build, evaluate
from digits_jax.metrics import Metrics
from digits_jax.studies import torch_recipe
from digits_jax.studies.benchmark import (
    OUTPUT,
    ROUNDS,
    SECONDS,
    Case,
    compare,
    environment,
    flops_per_image,
    parse_case,
)
from digits_jax.studies.contestants import digits_jax_training, random_arrays
from digits_jax.studies.plan import load_sweep, plan
from digits_jax.studies.post_log import EXPERIMENTS
from digits_jax.train_step import create_keys

SEEDS = flags.DEFINE_integer("seeds", 5, "trained by each side", lower_bound=1)
SOURCE_DIR = flags.DEFINE_string("source_dir", None, "folder with the data's IDX files, where it is not prepared yet")

_SWEEP = "configs/sweeps/accuracy.py"
_RACED = "fast"  # what the variants are called that are also trained to their end


def train(config: FrozenConfigDict, dataset: Dataset, seed: int) -> tuple[float, float]:
    """Trains a resolved config with a seed as `train.py` does, but scores the end only and writes nothing.

    Returns:
      Seconds of training, and the test accuracy.
    """
    seeded = ConfigDict(config.to_dict())
    seeded.seed = seed
    experiment = build(FrozenConfigDict(seeded), dataset)
    state, order = experiment.initial_state, create_keys(seed).order
    seconds = 0.0
    for epoch in range(experiment.num_epochs):
        batches = input_pipeline.epoch_batches(
            order, epoch, num_examples=experiment.feed.num_examples, batch_size=config.batch_size
        )
        metrics = Metrics.zero()
        for call in experiment.feed.empty_calls(batches):  # compiles
            state, metrics = experiment.train_steps(state, metrics, *call)
        begin = time.perf_counter()
        for call in experiment.feed.calls(batches, first_step=0):
            state, metrics = experiment.train_steps(state, metrics, *call)
        jax.block_until_ready((state, metrics))
        seconds += time.perf_counter() - begin
    if experiment.before_scoring:
        state = experiment.before_scoring(state)
    scores = evaluate(experiment.after_each_epoch | experiment.at_the_end, [state])[0]
    return seconds, scores.metrics["test/accuracy"]


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
            console.print(f"{name}, seed {seed}: {100 * accuracy:.2f} % after {seconds:.1f} s")
    return found


def main(argv: list[str]) -> None:
    compilation.enable_cache()
    runs = {run.variant: (run, data) for run, data in plan(load_sweep(_SWEEP), source_dir=SOURCE_DIR.value)[::-1]}
    contestants: dict[str, Callable[[int], tuple[float, float]]] = {}
    for variant, (run, data) in runs.items():
        if variant.startswith(_RACED):
            contestants[variant] = functools.partial(train, run.config, data)
            if importlib.util.find_spec("torch"):
                contestants[f"{variant} in PyTorch"] = torch_recipe.create_training(run.config, data)
    cases = [parse_case(f"{name}:64")._replace(name=name) for name in EXPERIMENTS]
    cases += [Case(variant, ConfigDict(run.config.to_dict()), "training") for variant, (run, _) in runs.items()]
    configs = time_cases(cases, rounds=ROUNDS.value, seconds=SECONDS.value)
    races = race(contestants, seeds=SEEDS.value)
    if OUTPUT.value:
        text = json.dumps({"environment": environment(), "configs": configs, "races": races}, indent=1)
        replace_text(Path(OUTPUT.value), text + "\n")
        console.print(f"all figures in {OUTPUT.value}")


if __name__ == "__main__":
    command_line.run(main)
