"""The cases of the benchmark, and the programs that do the work of each: this project and its peers."""

import ctypes.util
import itertools
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from digits_jax import augment
from digits_jax.apps import speed
from digits_jax.apps.speed import Pass
from digits_jax.config import load_config, resolve
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError
from digits_jax.storage import num_cores
from digits_jax.studies.benchmark import keras3, pytorch, runtimes, tutorial_flax
from digits_jax.studies.benchmark.page import BFLOAT16, NUM_SEEDS, OURS

PEAK = "matrix product"  # the program that measures the machine's peak


class Case(NamedTuple):
    """One network at one batch size, and what is done with it."""

    name: str
    config: ConfigDict
    work: str  # "training", "busy" (training beside another process), "seeds", "evaluation" or "remedies"
    images: int | None = None  # of a pass, about; None: see `num_images`

    @property
    def num_images(self) -> int:
        """The images of one pass: an epoch on an accelerator, else whole batches for 0.1 seconds or more."""
        if self.work == "evaluation":
            return self.images or 10_000
        images = 640 if self.work in ("remedies", "seeds") else 2**16 if self.config.model.name == "linear" else 2**12
        images = self.images or (60_000 if jax.default_backend() != "cpu" else images)
        return max(1, images // self.config.batch_size) * self.config.batch_size

    def dataset(self) -> Dataset:
        """Returns random images for a pass."""
        return speed.random_dataset(*((64, self.num_images) if self.work == "evaluation" else (self.num_images, 1)))


def parse_case(text: str, images: int | None = None) -> Case:
    """Parses "vgg:64" (experiment and batch size), "vgg:busy" and so on, or raises a ConfigError."""
    name, _, work = text.partition(":")
    try:
        config = load_config(name)
    except ConfigError as error:
        raise ConfigError(f"--cases={text}: {error}") from None
    if re.fullmatch("[1-9][0-9]*", work):
        config.batch_size, work = int(work), "training"
    elif work not in ("busy", "seeds", "evaluation", "remedies"):
        raise ConfigError(f"--cases={text}: expected a batch size, busy, seeds, evaluation or remedies after the colon")
    if work == "remedies" and (config.model.name != "vgg" or pytorch.is_augmented(config)):
        raise ConfigError(f"--cases={text}: the remedies are for convolutions without augmentation, unlike {name}")
    if work == "seeds":
        config.num_seeds = NUM_SEEDS
    return Case(text, config, work, images)


class Program(NamedTuple):
    """Does the work of a case, in a process of its own."""

    build: Callable[[], Pass]
    packages: tuple[str, ...] = ()  # of the extra `benchmark`
    environment: Mapping[str, str] = {}


def programs(case: Case) -> dict[str, Program]:
    """Returns the programs that can do the case's work, by name, whether their packages are installed or not.

    Of the peers only PyTorch augments; an augmented config is also compared with itself without augmentation.
    """
    evaluation, on_cpu = case.work == "evaluation", jax.default_backend() == "cpu"
    augmented = pytorch.is_augmented(case.config) and not evaluation
    bfloat16 = {"model.dtype": "bfloat16"}

    def changed(changes: Mapping[str, Any]) -> ConfigDict:
        config = ConfigDict(case.config.to_dict())
        config.update_from_flattened_dict(changes)
        return config

    def ours(*, changes: Mapping[str, Any] = {}, environment: Mapping[str, str] = {}) -> Program:
        create_pass, config = evaluation_pass if evaluation else speed.training_pass, changed(changes)
        return Program(lambda: create_pass(config, case.dataset()), environment=environment)

    def peer(
        build: Callable[..., Pass],
        *packages: str,
        changes: Mapping[str, Any] = {},
        environment: Mapping[str, str] = {},
    ) -> Program:
        config = changed(changes)
        return Program(lambda: build(resolve(config, data := case.dataset()), data), packages, environment)

    found = {PEAK: Program(speed.matrix_product), OURS: ours()}
    if augmented:
        found[f"{OURS}, not augmented"] = ours(changes={f"augment.{name}": 0.0 for name in augment.RANGES})
    elif not on_cpu and case.config.model.name == "vgg":
        for kernels in ("lax", "winograd") if case.work == "seeds" else ("matmul",):  # each besides the default
            found[f"{OURS}, {kernels}"] = ours(changes={"execution.kernels": kernels})
        found[f"{OURS}, deterministic"] = ours(environment={"XLA_FLAGS": "--xla_gpu_deterministic_ops=true"})
        found[OURS + BFLOAT16] = ours(changes=bfloat16)
    if case.work == "seeds":
        return found
    if case.config.model.name == "vgg" and not (evaluation or augmented):
        flax = tutorial_flax.REMEDIES if case.work == "remedies" else {"tutorial Flax": {}}
        for name, remedies in flax.items():
            found[name] = peer(partial(tutorial_flax.training_pass, **remedies))
    modes = ("eager", "compiled") if on_cpu or evaluation else ("eager", "compiled", "graph")
    for mode, layout in itertools.product(modes, ("contiguous", "channels_last") if on_cpu else ("channels_last",)):
        build = partial(pytorch.create_pass, layout=layout, mode=mode, evaluation=evaluation)
        found[f"PyTorch {mode} {layout}"] = peer(build, "torch")
        if mode == "graph":
            found[f"PyTorch {mode} {layout}{BFLOAT16}"] = peer(build, "torch", changes=bfloat16)
        # Compiled and contiguous is left out: it is the slowest of the four, and programs take minutes.
        if (library := tcmalloc()) and (mode, layout) != ("compiled", "contiguous"):
            found[f"PyTorch {mode} {layout}, tcmalloc"] = peer(build, "torch", environment=tuned_environment(library))
    if augmented:
        return found
    keras = keras3.evaluation_pass if evaluation else keras3.training_pass
    found["Keras on TensorFlow"] = peer(keras, "keras", "tensorflow", environment={"KERAS_BACKEND": "tensorflow"})
    found["Keras on JAX"] = peer(keras, "keras", environment={"KERAS_BACKEND": "jax"})
    if evaluation and on_cpu:
        found["ONNX Runtime"] = peer(runtimes.onnxruntime_pass, "onnx", "onnxruntime")
        for hint in ("latency", "throughput"):
            found[f"OpenVINO, {hint}"] = peer(partial(runtimes.openvino_pass, hint=hint), "onnx", "openvino")
    return found


def evaluation_pass(config: ConfigDict, dataset: Dataset) -> Pass:
    """Returns a function that evaluates the initial state on all test images."""
    experiment = speed.build_experiment(config, dataset)
    evaluate, state = experiment.after_each_epoch["test"], experiment.create_state(np.uint32(0))
    return lambda: jax.block_until_ready(evaluate(state))


def tcmalloc() -> str | None:
    """Returns the name of tcmalloc's library, as the linker finds it; None without it or on an accelerator."""
    if jax.default_backend() != "cpu":
        return None
    return ctypes.util.find_library("tcmalloc_minimal") or ctypes.util.find_library("tcmalloc")


def tuned_environment(library: str) -> dict[str, str]:
    """Returns what PyTorch's tuning guide recommends on CPUs: tcmalloc, and a thread pinned to each core.

    https://docs.pytorch.org/tutorials/recipes/recipes/tuning_guide.html#cpu-specific-optimizations
    """
    openmp = {"OMP_NUM_THREADS": str(num_cores()), "OMP_PROC_BIND": "CLOSE", "OMP_SCHEDULE": "STATIC"}
    return {"LD_PRELOAD": library, **openmp}
