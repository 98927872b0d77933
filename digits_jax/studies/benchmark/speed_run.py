"""Times training to an accuracy, next to PyTorch:
`python -m digits_jax.studies.benchmark.speed_run --output=docs/speed_run.json --races=docs/races.jsonl`

Needs a machine that does nothing else. The six experiments and the variants of the sweep `accuracy` are timed round by
round, for some thousand images each. Then `fast` and the same recipe in PyTorch (with the extra `benchmark`, and with
tcmalloc and pinned threads if installed) are trained in turns, seed by seed, in a process each, and the race is added
to those before. No time includes compilation or evaluation.
"""

import contextlib
import datetime
import functools
import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import cli, storage
from digits_jax.apps.speed import time_in_turns, timer, training_pass
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs.environment import git_revision
from digits_jax.studies.benchmark import measure, programs, pytorch
from digits_jax.studies.benchmark.contestant import Contestant, serve
from digits_jax.studies.benchmark.programs import Case, parse_case
from digits_jax.studies.reproduce.post_log import EXPERIMENTS
from digits_jax.studies.sweep import load_sweep
from digits_jax.studies.sweep.plan import plan
from digits_jax.train_loop import train_seeds

RACES = cli.DEFINE_path("races", None, "file to add the race to; default: it is only printed")
RECIPES = flags.DEFINE_list("recipes", ["fast:sprint", "fast"], "what to race; none: only to time the configs")
SEEDS = flags.DEFINE_integer("seeds", 5, "trained by each side", lower_bound=1)

TrainSeed = Callable[[int], tuple[float, float]]  # returns the seconds of training and the final test accuracy


def train(config: FrozenConfigDict, dataset: Dataset, seed: int) -> tuple[float, float]:
    """Trains a resolved config with a seed; returns the seconds of training and the final test accuracy."""
    with cli.quiet(), TemporaryDirectory() as folder:
        [progress] = train_seeds(config, [seed], lambda _: folder, dataset=dataset).values()
    return sum(row["train/seconds"] for row in progress.rows), progress.rows[-1]["test/accuracy"]


def time_cases(cases: Sequence[Case], *, rounds: int, seconds: float) -> dict[str, dict[str, Any]]:
    """Measures, by name, the seconds per image in each round and the floating-point operations per image."""
    timers = {case.name: timer(training_pass(case.config, case.dataset())) for case in cases}
    times = time_in_turns(timers, rounds=rounds, seconds=seconds)
    found = {}
    for case in cases:
        seconds_per_image = [float(f"{t / case.num_images:.4g}") for t in times[case.name]]
        flops = round(measure.flops_per_image(case))
        found[case.name] = {"seconds_per_image": seconds_per_image, "flops_per_image": flops}
    return found


def race(sides: Mapping[str, TrainSeed], *, seeds: int) -> dict[str, dict[str, Any]]:
    """Trains each seed with each side in turn; returns, by name, the seconds and the test accuracy of each seed."""
    found: dict[str, dict[str, Any]] = {name: {"seconds": [], "accuracy": []} for name in sides}
    for seed in range(seeds):
        for name, train_seed in sides.items():
            seconds, accuracy = train_seed(seed)
            found[name]["seconds"].append(round(seconds, 2))
            found[name]["accuracy"].append(accuracy)
            cli.console.print(f"{name}, seed {seed}: {100 * accuracy:.2f} % after {seconds:.1f} s")
    return found


def in_process(name: str, stack: contextlib.ExitStack) -> TrainSeed:
    """Returns a function that trains a side of the race in a process of its own, until the stack is closed."""
    library = programs.tcmalloc() if name.endswith("PyTorch") else None
    environment = programs.tuned_environment(library) if library else {}
    command = [sys.executable, "-m", "digits_jax.studies.benchmark.speed_run", name]
    contestant = stack.enter_context(contextlib.closing(Contestant(name, command, environment)))

    def train_seed(seed: int) -> tuple[float, float]:
        answer = contestant.ask(seed)
        if not answer:
            raise UserError(f"the race ends: {name} failed")
        return answer[0], answer[1]

    return train_seed


def main(argv: list[str]) -> None:
    storage.enable_compilation_cache()
    runs = [(run, data) for run, data in plan(load_sweep("accuracy")) if run.seed == 0]
    sides: dict[str, TrainSeed] = {}
    for run, data in runs:
        if run.variant in RECIPES.value:
            sides[run.variant] = functools.partial(train, run.config, data)
            if importlib.util.find_spec("torch"):
                sides[f"{run.variant} in PyTorch"] = functools.partial(pytorch.train, run.config, data)
    if len(argv) > 1:  # one side, as a contestant
        if argv[1] not in sides:
            raise ConfigError(f"{argv[1]!r} is given: expected a side of the race, one of {', '.join(sides)}")
        return serve(lambda: sides[argv[1]])
    if measure.OUTPUT.value:
        cases = [parse_case(f"{name}:64")._replace(name=name) for name in EXPERIMENTS]
        cases += [Case(run.variant, ConfigDict(run.config.to_dict()), "training") for run, _ in runs]
        measure.write_output(configs=time_cases(cases, rounds=measure.ROUNDS.value, seconds=measure.SECONDS.value))
        cli.console.print(f"times written to {measure.OUTPUT.value}")
    with contextlib.ExitStack() as stack:
        found = race({name: in_process(name, stack) for name in sides}, seeds=SEEDS.value)
    if RACES.value and found:
        path, today = Path(RACES.value), datetime.datetime.now(datetime.UTC).date().isoformat()
        note = "PyTorch with tcmalloc" if programs.tcmalloc() else "PyTorch without tcmalloc"
        fields = {"date": today, "commit": (git_revision() or "unknown")[:7], "note": note}
        line = json.dumps({**fields, "environment": measure.environment(), "sides": found}) + "\n"
        storage.replace_text(path, (storage.read_text(path) if path.exists() else "") + line)
        cli.console.print(f"race added to {RACES.value}")


if __name__ == "__main__":
    cli.run(main, positional=True)
