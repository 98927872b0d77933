"""Measures the cases of the benchmark: the speed of this project and its peers, operations and memory."""

import contextlib
import datetime
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from digits_jax import cli, ops
from digits_jax.apps import speed
from digits_jax.apps.speed import random_dataset
from digits_jax.errors import UserError
from digits_jax.runs.environment import describe_machine
from digits_jax.runs.identity import differences
from digits_jax.storage import replace_text
from digits_jax.studies.benchmark.contestant import Contestant
from digits_jax.studies.benchmark.page import OURS, read_benchmark
from digits_jax.studies.benchmark.programs import PEAK, Case, Program, programs, tcmalloc

# Overrides that of `apps.command_flags`, which names a directory, where a process imports both.
OUTPUT = cli.DEFINE_path("output", None, "also write the results to this JSON file")
ROUNDS = flags.DEFINE_integer("rounds", 5, "measurements of each program", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 2.0, "approximate duration of each measurement", lower_bound=0.01)
_PEERS = ("torch", "keras", "tensorflow", "tensorflow-cpu", "onnxruntime", "openvino")  # distributions


def flops_per_image(case: Case) -> float:
    """Returns the floating-point operations per image, as XLA counts them for a CPU with its own convolution."""
    config = case.config.copy_and_resolve_references()
    config.execution.kernels, config.num_seeds = "lax", 1
    dataset = random_dataset(config.batch_size, config.eval_batch_size)
    experiment = speed.build_experiment(config, dataset)
    shapes = jax.eval_shape(experiment.create_state, np.uint32(0)).eval_variables
    images = dataset.split("test" if case.work == "evaluation" else "train")[0]

    def forward(params: Any, batch_stats: Any) -> jax.Array:
        logits: Any = experiment.model.apply(
            {"params": params, "batch_stats": batch_stats}, jnp.asarray(images), train=False
        )
        return jnp.square(logits).sum()  # its gradient depends on the logits, as the loss's does

    function = jax.jit(ops.using("lax")(forward if case.work == "evaluation" else jax.value_and_grad(forward)))
    with jax.default_device(jax.local_devices(backend="cpu")[0]):  # for a GPU nothing is counted before it is compiled
        cost: Any = function.lower(shapes["params"], shapes["batch_stats"]).cost_analysis()
    return cost["flops"] / len(images)


def peak_memory(case: Case) -> int:
    """Returns the peak memory, in bytes, of a process that trains the case on as many images as MNIST has."""
    sizes = (case.num_images, case.num_images) if case.images else (60_000, 10_000)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory_here, case.config.to_dict(), sizes).result()


def _peak_memory_here(config: dict[str, Any], sizes: tuple[int, int]) -> int:
    experiment, (state, zero, batches) = speed.start_training(ConfigDict(config), random_dataset(*sizes))
    call = next(experiment.pipeline.calls(batches, first_step=0))
    state, _ = experiment.train_steps(state, zero, *call)
    jax.block_until_ready(experiment.after_each_epoch["test"](state))
    # Not `resource.getrusage`, whose maximum a process inherits from the one that started it.
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def installed(wanted: dict[str, Program]) -> dict[str, Program]:
    """Returns the programs whose packages are installed."""
    return {name: program for name, program in wanted.items() if not _missing([program])}


def _missing(wanted: Iterable[Program]) -> list[str]:
    packages = {package for program in wanted for package in program.packages}
    return sorted(package for package in packages if not importlib.util.find_spec(package))


def report_missing(cases: Iterable[Case]) -> None:
    """Warns about peers of the cases that are skipped because something is not installed."""
    wanted = [program for case in cases for program in programs(case).values()]
    if missing := _missing(wanted):
        cli.warn(f"peers that need {', '.join(missing)} are skipped: ./launch.sh setup benchmark installs them")
    if any("torch" in program.packages for program in wanted) and jax.default_backend() == "cpu" and not tcmalloc():
        cli.warn("PyTorch with tcmalloc is skipped: apt-get install libtcmalloc-minimal4 installs it")


@contextlib.contextmanager
def busy_process() -> Iterator[subprocess.Popen[bytes]]:
    """Keeps a core busy with another process, which also ends if this one is killed."""
    loop = "import os, sys\nwhile os.getppid() == int(sys.argv[1]): sum(range(100_000))"
    process = subprocess.Popen([sys.executable, "-c", loop, str(os.getpid())])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def measure(case: Case, *, rounds: int, seconds: float, torch_compile: bool) -> dict[str, Any]:
    """Measures everything about a case, as the result file has it; raises a UserError if this project's program fails.

    Others that fail have no times, but the reason. With an accelerator all programs start at once: most of their time
    goes into starting and compiling, on the host's cores.
    """
    flops = flops_per_image(case)
    with contextlib.ExitStack() as stack:
        if case.work == "busy":
            stack.enter_context(busy_process())
        command = [sys.executable, "-m", "digits_jax.studies.benchmark.contestant", case.name]
        images = [f"--images={case.images}"] if case.images else []
        contestants = {}
        for name, program in installed(programs(case)).items():
            if torch_compile or not name.startswith("PyTorch compiled"):
                contestant = Contestant(f"{case.name}: {name}", [*command, name, *images], program.environment)
                contestants[name] = stack.enter_context(contextlib.closing(contestant))
                if jax.default_backend() != "cpu":
                    with contextlib.suppress(OSError):  # asked next, it reports this itself
                        contestant.begin(1)
        times = speed.time_in_turns(contestants, rounds=rounds, seconds=seconds)
        failures = {name: contestant.failure for name, contestant in contestants.items() if contestant.failure}
        answers = {name: contestant.answers for name, contestant in contestants.items() if contestant.answers}
    for name in {OURS, PEAK} & failures.keys():
        raise UserError(f"{case.name}: {name} failed ({failures[name]})")
    peak = 2 * speed.product_size() ** 3 / statistics.median(times.pop(PEAK))
    return {
        "case": case.name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "batch_size": case.config.eval_batch_size if case.work == "evaluation" else case.config.batch_size,
        "images": case.num_images * case.config.num_seeds,
        "seconds": {name: [round(t, 6) for t in ts] for name, ts in times.items() if name not in failures},
        "first_seconds": {name: round(found[0][0], 2) for name, found in answers.items() if name in times},
        "failures": failures,
        "flops_per_image": round(flops),
        "machine_flops_per_second": round(peak),
        # Of an accelerator, whose memory the program has reported.
        "peak_memory_bytes": round(answers[OURS][-1][1]) if len(answers[OURS][-1]) > 1 else peak_memory(case),
    }


def environment() -> dict[str, Any]:
    """Describes hardware and versions, without naming the machine."""
    machine, versions = describe_machine(), {}
    for package in _PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    if library := tcmalloc():
        versions["tcmalloc"] = library
    accelerator = {} if jax.default_backend() == "cpu" else {"accelerator": machine["devices"][0]}
    return {**accelerator, "cpu": machine["cpu"], "cores": machine["cores"], **machine["versions"], **versions}


def write_output(**content: Any) -> None:
    """Writes the environment and `content` to the file of `--output`, if given."""
    if OUTPUT.value:
        Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        replace_text(Path(OUTPUT.value), json.dumps({"environment": environment(), **content}, indent=1) + "\n")


def read_output() -> dict[str, dict[str, Any]]:
    """Returns the results by case that an earlier call wrote to the file of `--output`.

    Raises a UserError if it was written on another machine or with other versions.
    """
    path = OUTPUT.value
    if not path or not Path(path).exists():
        return {}
    before, results = read_benchmark(Path(path))
    for field, now, then in differences(environment(), before):
        raise UserError(f"--output={path} has results with {field} {then!r}, this is {now!r}: give another file")
    return results
