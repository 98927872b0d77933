"""Is this machine fit to train, and is all as it should be? `python -m digits_jax.apps.doctor`

Says what is installed, what JAX computes on and in what precision, which data are here, whether a step has the same
bits twice, and how fast it is beside `docs/benchmarks.json`; under what is wrong, what to do about it. Nothing is
downloaded. Exit code 0 where all is well, else 1.
"""

import json
import os
import shutil
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import digits_jax
from digits_jax import cli
from digits_jax.data import DATASETS, cache_file, is_prepared, read_cache, resolve_data_dir
from digits_jax.metrics import Metrics
from digits_jax.runs.console import console
from digits_jax.runs.workdir import describe_machine
from digits_jax.storage import enable_compilation_cache
from digits_jax.studies.benchmark import __main__ as benchmark
from digits_jax.studies.benchmark import contestants

BENCHMARKS = Path(digits_jax.__file__).parent.parent / "docs" / "benchmarks.json"

_CASE = "bn_dropout:64"  # is stepped and timed
_NUM_IMAGES = 1024  # in a pass over them
_MUCH_SLOWER = 0.5  # of the recorded speed; machines that are shared drift by less
_ENOUGH_DISK = 500e6  # bytes: MNIST takes 82 MB, a run with its checkpoints up to 25
_PRECISIONS = {"cpu": "float32", "gpu": "TF32 from Ampere on, else float32", "tpu": "bfloat16"}  # docs/scaling.md


class Finding(NamedTuple):
    """One line of the report."""

    what: str
    found: str
    remedy: str = ""  # where it is wrong, what to do about it


def check_versions() -> Iterator[Finding]:
    found = describe_machine()["versions"]
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    same = found["jax"] == found["jaxlib"]
    yield Finding("versions", text, "" if same else "jax and jaxlib belong together: ./launch.sh setup")


def check_devices() -> Iterator[Finding]:
    machine = describe_machine()
    kinds = machine["devices"]
    counts = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
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
    for what, folder in (("data", resolve_data_dir(None)), ("runs", Path("runs").absolute())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        remedy = "" if free > _ENOUGH_DISK else f"make room for {_ENOUGH_DISK / 1e6:.0f} MB"
        yield Finding(f"disk for {what}", f"{free / 1e9:.1f} GB free at {there}", remedy)


def check_data() -> Iterator[Finding]:
    """Which data sets are prepared, and whether their cached arrays have the hash that they were written with."""
    absent = []
    for name in DATASETS:
        cache = cache_file(name)
        prepared = cache.parent
        if cached := read_cache(cache):
            sizes = f"{len(cached[0].train_labels):,} + {len(cached[0].test_labels):,} images"
            yield Finding(name, f"{prepared}: {sizes}, verified")
        elif cache.exists():
            remedy = f"make it again: python -m digits_jax.data --name={name}"
            yield Finding(name, f"{cache} is damaged", remedy)
        elif is_prepared(prepared):
            yield Finding(name, f"{prepared}: prepared, not decoded yet (the first start does it)")
        else:
            absent.append(name)
    if absent:
        yield Finding("not here yet", f"{', '.join(absent)} (python -m digits_jax.data --name=...)")


def check_determinism() -> Iterator[Finding]:
    """Takes the same two steps twice, with dropout and batch normalisation, and compares all bits."""
    config = benchmark.parse_case(_CASE).config
    experiment = contestants.digits_jax_experiment(config, _arrays())
    batches = jnp.arange(2 * config.batch_size).reshape(2, -1)
    call = next(experiment.feed.calls([batches], first_step=0))
    start = experiment.initial_state
    ends = [experiment.train_steps(jax.tree.map(jnp.copy, start), Metrics.zero(), *call)[0] for _ in range(2)]
    first, second = (b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(end)) for end in ends)
    if first == second:
        yield Finding("determinism", "the same steps twice give the same bits")
        return
    gpu = jax.default_backend() == "gpu"
    remedy = "XLA_FLAGS=--xla_gpu_deterministic_ops=true" if gpu else "XLA_FLAGS=--xla_cpu_multi_thread_eigen=false"
    yield Finding("determinism", "the same steps twice give other bits: runs cannot be repeated exactly", remedy)


def _arrays() -> contestants.Arrays:
    return contestants.random_arrays(_NUM_IMAGES, 1)


def measure_speed(seconds: float = 1.0) -> tuple[float, float]:
    """Trains for some seconds, in turn with matrix products: images, and floating-point operations, per second."""
    config = benchmark.parse_case(_CASE).config
    passes = {"ours": contestants.digits_jax_training(config, _arrays()), "product": benchmark.matrix_product()}
    times = {name: statistics.median(t) for name, t in benchmark.compare(passes, rounds=3, seconds=seconds).items()}
    return _NUM_IMAGES / times["ours"], 2 * benchmark.PRODUCT_SIZE**3 / times["product"]


def check_speed(recorded: Path = BENCHMARKS) -> Iterator[Finding]:
    """Compares with what is recorded for this processor."""
    speed, flops = measure_speed()
    text = f"{_CASE.replace(':', ' at batch ')}: {speed:,.0f} images/s; matrix products: {flops / 1e9:.0f} GFLOP/s"
    expected = _recorded(recorded)
    if expected is None:
        yield Finding("speed", f"{text}; docs/benchmarks.json has no figure for this processor")
        return
    ratio, flops_ratio = speed / expected[0], flops / expected[1]
    text += f"; {ratio:.2f} and {flops_ratio:.2f} of what docs/benchmarks.json has"
    remedy = ""
    if ratio < _MUCH_SLOWER:
        load = f"the load is {os.getloadavg()[0]:.1f} on {describe_machine()['cores']} cores"
        remedy = (
            f"see what else is running ({load}), and whether versions and XLA_FLAGS are those of docs/benchmarks.md"
        )
    yield Finding("speed", text, remedy)


def _recorded(file: Path) -> tuple[float, float] | None:
    """Images per second and floating-point operations per second on this processor; None where there is no figure."""
    try:
        data = json.loads(file.read_text())
    except OSError:  # an installed package has no docs
        return None
    here = benchmark.environment()
    if any(data["environment"][key] != here[key] for key in ("cpu", "cores")) or jax.default_backend() != "cpu":
        return None
    result = next(result for result in data["results"] if result["case"] == _CASE)
    return result["images"] / statistics.median(result["seconds"]["digits_jax"]), result["machine_flops_per_second"]


CHECKS = (check_versions, check_devices, check_precision, check_disk, check_data, check_determinism, check_speed)


def main(argv: list[str]) -> int:
    enable_compilation_cache()
    wrong = 0
    for check in CHECKS:
        for finding in check():
            console.print(f"{'WRONG' if finding.remedy else 'ok':5}  {finding.what:13}  {finding.found}", markup=False)
            if finding.remedy:
                console.print(f"{'':20}  -> {finding.remedy}", markup=False)
                wrong += 1
    console.print("all is well" if not wrong else f"{wrong} wrong: what to do is below each")
    return 1 if wrong else 0


if __name__ == "__main__":
    cli.run(main)
