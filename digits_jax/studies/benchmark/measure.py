"""Measures the cases of the benchmark: the speed of this project and its peers, operations and memory."""

import importlib.metadata
import importlib.util
import itertools
import json
import multiprocessing
import re
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from ml_collections import ConfigDict

from digits_jax import augment, cli, ops
from digits_jax.apps import speed
from digits_jax.apps.speed import Pass, random_dataset
from digits_jax.config import load_config
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.metrics import Metrics
from digits_jax.runs.environment import describe_machine
from digits_jax.runs.identity import differences
from digits_jax.storage import replace_text
from digits_jax.studies.benchmark import pytorch, tutorial_flax
from digits_jax.studies.benchmark.page import OURS, read_benchmark

# Overrides that of `apps.command_flags`, which names a directory, where a process imports both.
OUTPUT = cli.DEFINE_path("output", None, "also write the results to this JSON file")
ROUNDS = flags.DEFINE_integer("rounds", 5, "measurements of each program", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 2.0, "approximate duration of each measurement", lower_bound=0.01)


class Case(NamedTuple):
    """One network at one batch size: trained, evaluated, or trained with one remedy for tutorial Flax after another."""

    name: str
    config: ConfigDict
    work: str  # "training", "evaluation" or "remedies"

    @property
    def num_images(self) -> int:
        """The images of one pass: whole batches, for 0.1 seconds or more; fewer for the slowest of the remedies."""
        if self.work == "evaluation":
            return 10_000
        images = 640 if self.work == "remedies" else 2**16 if self.config.model.name == "linear" else 2**12
        return max(1, images // self.config.batch_size) * self.config.batch_size


def parse_case(text: str) -> Case:
    """Parses "vgg:64" (experiment and batch size), "vgg:evaluation" or "vgg:remedies", or raises a ConfigError."""
    name, _, work = text.partition(":")
    try:
        config = load_config(name)
    except ConfigError as error:
        raise ConfigError(f"--cases={text}: {error}") from None
    if re.fullmatch("[1-9][0-9]*", work):
        config.batch_size, work = int(work), "training"
    elif work not in ("evaluation", "remedies"):
        raise ConfigError(f"--cases={text}: expected a batch size, 'evaluation' or 'remedies' after the colon")
    if work == "remedies" and (config.model.name != "vgg" or pytorch.is_augmented(config)):
        raise ConfigError(f"--cases={text}: the remedies are for convolutions without augmentation, unlike {name}")
    return Case(text, config, work)


def create_passes(case: Case, *, torch_compile: bool) -> dict[str, Pass]:
    """Creates the programs that do the case's work, by name: this project, tutorial Flax, and PyTorch if installed.

    PyTorch runs in contiguous and channels_last memory, eager and, with `torch_compile`, compiled. The peers do not
    augment: an augmented config is compared with itself without augmentation.
    """
    config, evaluation = case.config, case.work == "evaluation"
    dataset = random_dataset(64, case.num_images) if evaluation else random_dataset(case.num_images, 1)
    ours = evaluation_pass if evaluation else speed.training_pass
    passes = {OURS: ours(config, dataset)}
    if pytorch.is_augmented(config):
        plain = config.copy_and_resolve_references()
        plain.augment.update(dict.fromkeys(augment.RANGES, 0.0))
        return passes | {f"{OURS}, not augmented": ours(plain, dataset)}
    if case.work == "remedies":
        passes |= tutorial_flax.remedies(config, dataset)
    elif config.model.name == "vgg" and not evaluation:
        passes["tutorial Flax"] = tutorial_flax.training_pass(config, dataset)
    if importlib.util.find_spec("torch"):
        modes = ("eager", "compiled") if torch_compile else ("eager",)
        for mode, layout in itertools.product(modes, ("contiguous", "channels_last")):
            trainer = pytorch.Trainer(config, dataset, layout=layout, compiled=mode == "compiled")
            passes[f"PyTorch {mode} {layout}"] = trainer.evaluate if evaluation else trainer.train_epoch
    return passes


def evaluation_pass(config: ConfigDict, dataset: Dataset) -> Pass:
    """Returns a function that evaluates the initial state on all test images."""
    experiment = speed.build_experiment(config, dataset)
    evaluate, state = experiment.after_each_epoch["test"], experiment.create_state(np.uint32(0))
    return lambda: jax.block_until_ready(evaluate(state))


def flops_per_image(case: Case) -> float:
    """Returns the floating-point operations per image, as XLA counts them with its own convolution."""
    config = case.config.copy_and_resolve_references()
    config.execution.kernels = "lax"
    dataset = random_dataset(config.batch_size, config.eval_batch_size)
    experiment = speed.build_experiment(config, dataset)
    state, model = experiment.create_state(np.uint32(0)), experiment.model
    images = jnp.asarray(dataset.split("test" if case.work == "evaluation" else "train")[0])

    def forward(params: Any) -> jax.Array:
        logits: Any = model.apply({"params": params, "batch_stats": state.batch_stats}, images, train=False)
        return jnp.square(logits).sum()  # its gradient depends on the logits, as the loss's does

    function = forward if case.work == "evaluation" else jax.value_and_grad(forward)
    cost: Any = jax.jit(ops.using("lax")(function)).lower(state.params).cost_analysis()
    return cost["flops"] / len(images)


def peak_memory(case: Case) -> int:
    """Returns the peak memory, in bytes, of a process that trains the case on as many images as MNIST has."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory_here, case.config.to_dict()).result()


def _peak_memory_here(config: dict[str, Any]) -> int:
    experiment = speed.build_experiment(ConfigDict(config), random_dataset(60_000, 10_000))
    batches = jnp.arange(60_000 // config["batch_size"] * config["batch_size"]).reshape(-1, config["batch_size"])
    call = next(experiment.pipeline.calls([batches], first_step=0))
    state, _ = experiment.train_steps(
        experiment.create_state(np.uint32(0)), Metrics.zero(experiment.config.metrics), *call
    )
    jax.block_until_ready(experiment.after_each_epoch["test"](state))
    # Not `resource.getrusage`, whose maximum a process inherits from the one that started it.
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def measure(case: Case, *, rounds: int, seconds: float, torch_compile: bool) -> dict[str, Any]:
    """Measures everything about a case, as the result file has it."""
    passes = create_passes(case, torch_compile=torch_compile)
    times = speed.time_in_turns(passes | {"": speed.matrix_product()}, rounds=rounds, seconds=seconds)
    products = times.pop("")
    return {
        "case": case.name,
        "batch_size": case.config.eval_batch_size if case.work == "evaluation" else case.config.batch_size,
        "images": case.num_images,
        "seconds": {name: [round(value, 6) for value in values] for name, values in times.items()},
        "flops_per_image": round(flops_per_image(case)),
        "machine_flops_per_second": round(2 * speed.PRODUCT_SIZE**3 / statistics.median(products)),
        "peak_memory_bytes": peak_memory(case),
    }


def environment() -> dict[str, Any]:
    """Describes hardware and versions, without naming the machine."""
    machine = describe_machine()
    torch = {"torch": importlib.metadata.version("torch")} if importlib.util.find_spec("torch") else {}
    return {"cpu": machine["cpu"], "cores": machine["cores"], **machine["versions"], **torch}


def write_output(**content: Any) -> None:
    """Writes the environment and `content` to the file of `--output`, if given."""
    if OUTPUT.value:
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
