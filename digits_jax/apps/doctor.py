"""Checks whether this machine is ready to train: `python -m digits_jax.apps.doctor`

Nothing is downloaded. A failed check prints its remedy. Exit code 0 if all is well, else 1.
"""

import os
import shutil
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from digits_jax import cli, data, storage
from digits_jax.apps import speed
from digits_jax.config import load_config
from digits_jax.data import read_cache
from digits_jax.runs.console import console
from digits_jax.runs.environment import describe_machine

_EXPERIMENT = "bn_dropout"  # is trained, at its own batch size
_NUM_IMAGES = 1024  # in each of its passes
_ENOUGH_DISK = 500e6  # bytes: MNIST takes 82 MB, a run with its checkpoints up to 25
_PRECISIONS = {"cpu": "float32", "gpu": "TF32 from Ampere on, else float32", "tpu": "bfloat16"}  # docs/scaling.md


class Finding(NamedTuple):
    what: str
    found: str
    remedy: str = ""  # of a failed check


def check_versions() -> Iterator[Finding]:
    found = describe_machine()["versions"]
    remedy = "" if found["jax"] == found["jaxlib"] else "jax and jaxlib belong together: ./launch.sh setup"
    yield Finding("versions", ", ".join(f"{name} {version}" for name, version in found.items()), remedy)


def check_devices() -> Iterator[Finding]:
    machine = describe_machine()
    counts = ", ".join(f"{count} x {kind}" for kind, count in Counter(machine["devices"]).items())
    remedy = ""
    for extra, name, files in (("cuda", "an NVIDIA GPU", "nvidia[0-9]"), ("tpu", "a TPU", "accel[0-9]")):
        if jax.default_backend() == "cpu" and any(Path("/dev").glob(files)):
            remedy = f"there is {name}, which JAX does not use: ./launch.sh setup {extra} (and unset JAX_PLATFORMS)"
    yield Finding("devices", counts, remedy)
    yield Finding("cores", f"{machine['cores']} of {machine['cpu'] or 'an unknown processor'}")


def check_precision() -> Iterator[Finding]:
    configured = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    products = configured or _PRECISIONS.get(jax.default_backend(), "the device's default")
    x64 = jax.config.jax_enable_x64  # type: ignore[attr-defined]
    text = f"products of float32 in {products}, 64-bit numbers {'on' if x64 else 'off'}"
    yield Finding("precision", text, "runs are made for 32-bit numbers: unset JAX_ENABLE_X64" if x64 else "")


def check_disk() -> Iterator[Finding]:
    """Measures the space in the directories that commands write to, and writes a temporary file to each."""
    folders = data.resolve_data_dir(), Path("runs").absolute(), storage.user_cache_dir()
    others = "TFDS_DATA_DIR", "--workdir", "XDG_CACHE_HOME"
    for what, folder, other in zip(("data", "runs", "caches"), folders, others, strict=True):
        existing = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
        try:
            with tempfile.TemporaryFile(dir=existing):
                free = shutil.disk_usage(existing).free
            found = f"{free / 1e9:.1f} GB free at {existing}"
            remedy = "" if free > _ENOUGH_DISK else f"make room for {_ENOUGH_DISK / 1e6:.0f} MB"
        except OSError as error:
            found = f"{existing} cannot be written ({error.strerror})"
            has_data = what == "data" and any(data.cache_file(name).exists() for name in data.DATASETS)
            remedy = "" if has_data else f"name a directory that can be: {other}=FOLDER"  # data are written once
        yield Finding(f"disk for {what}", found, remedy)


def check_data() -> Iterator[Finding]:
    """Lists the prepared data sets, and verifies the hash of their cached arrays."""
    absent = []
    for name in data.DATASETS:
        cache = data.cache_file(name)
        if cached := read_cache(cache):
            sizes = f"{len(cached[0].train_labels):,} + {len(cached[0].test_labels):,} images"
            yield Finding(name, f"{cache.parent}: {sizes}, verified")
        elif cache.exists():
            yield Finding(name, f"{cache} is corrupted", f"prepare it again: python -m digits_jax.data --name={name}")
        elif data.is_prepared(cache.parent):
            yield Finding(name, f"{cache.parent}: prepared, decoded by the first run")
        else:
            absent.append(name)
    if absent:
        yield Finding("not prepared", f"{', '.join(absent)} (python -m digits_jax.data --name=...)")


def check_determinism() -> Iterator[Finding]:
    """Trains for the same steps twice, with dropout and batch normalization, and compares all bits of the states."""
    config, dataset = load_config(_EXPERIMENT), speed.random_dataset(_NUM_IMAGES, 1)
    states = [speed.training_pass(config, dataset)() for _ in range(2)]
    first, second = (b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)) for state in states)
    if first == second:
        yield Finding("determinism", "the same steps give the same bits twice")
    else:
        gpu = jax.default_backend() == "gpu"
        flag = "xla_gpu_deterministic_ops=true" if gpu else "xla_cpu_multi_thread_eigen=false"
        found = "the same steps give different bits: runs cannot be repeated exactly"
        yield Finding("determinism", found, f"XLA_FLAGS=--{flag}")


def measure_speed(seconds: float = 1.0) -> tuple[float, float]:
    """Returns images per second of training, and floating-point operations per second of matrix products."""
    config, dataset = load_config(_EXPERIMENT), speed.random_dataset(_NUM_IMAGES, 1)
    passes = {"training": speed.training_pass(config, dataset), "product": speed.matrix_product()}
    timers = {name: speed.timer(run) for name, run in passes.items()}
    times = {name: statistics.median(t) for name, t in speed.time_in_turns(timers, rounds=3, seconds=seconds).items()}
    return _NUM_IMAGES / times["training"], 2 * speed.product_size() ** 3 / times["product"]


def check_speed() -> Iterator[Finding]:
    images, flops = measure_speed()
    found = f"{_EXPERIMENT} trains on {images:,.0f} images/s; matrix products reach {flops / 1e9:.0f} GFLOP/s"
    load = f"(load average {os.getloadavg()[0]:.1f}; docs/benchmarks.md has typical speeds)"
    yield Finding("speed", f"{found} {load}")


CHECKS = (check_versions, check_devices, check_precision, check_disk, check_data, check_determinism, check_speed)


def main(argv: list[str]) -> int:
    storage.enable_compilation_cache()
    failed = 0
    for check in CHECKS:
        for what, found, remedy in check():
            console.print(f"{'WRONG' if remedy else 'ok':5}  {what:13}  {found}")
            if remedy:
                console.print(f"{'':20}  -> {remedy}")
                failed += 1
    console.print("all is well" if not failed else f"{failed} wrong: the remedy is below each")
    return min(failed, 1)


if __name__ == "__main__":
    cli.run(main)
