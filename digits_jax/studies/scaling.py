"""Estimates the speed of more devices, and shows what larger batches cost: `python -m digits_jax.studies.scaling`

Rewrites the tables of `docs/scaling.md` from `docs/benchmarks/avx2.json` and the results of the sweep `scaling`.
"""

import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from digits_jax import cli
from digits_jax.pages import markdown_table
from digits_jax.studies.benchmark.page import OURS, read_benchmark
from digits_jax.studies.docs import DOCS, replace_sections
from digits_jax.studies.report.study import Study, read_study, scale_of

PARAMETERS = 594_922  # of `vgg`
NUM_DEVICES = (1, 8, 64, 256)
_MEASURED = "vgg:64"


class Machine(NamedTuple):
    """Equal devices on a network that is a torus of `dimensions` (a ring has 1)."""

    images_per_second: float  # forward and backward, of one device with enough work
    step_seconds: float  # minimum duration of a step
    bytes_per_second: float  # that a device sends and receives, over all its links
    hop_seconds: float  # from one device to the next
    dimensions: int


def create_machines(result: dict[str, Any]) -> dict[str, Machine]:
    """Describes machines like the measured one on 10 Gbit/s Ethernet with 50 us per hop, and TPU v5e.

    Google states 197 TFLOP/s, 1,600 Gbit/s and a 2D torus for the latter (cloud.google.com/tpu/docs/v6e); the share of
    the peak that is reached, a third, and both durations are guesses.
    """
    speed = result["images"] / statistics.median(result["seconds"][OURS])
    return {
        "cpu": Machine(speed, 0.0, 10e9 / 8, 50e-6, 1),
        "tpu": Machine(197e12 / 3 / result["flops_per_image"], 50e-6, 1600e9 / 8, 1e-6, 2),
    }


def step_seconds(machine: Machine, batch_size: int, num_devices: int) -> float:
    """Returns the duration of a step, if computation and all-reduce do not overlap.

    Each device computes its share of the batch. Gradients, 4 bytes per parameter, are summed by a reduce-scatter and an
    all-gather. Each of them sends (n - 1) / n of the gradients through every device (Patarasuk and Yuan 2009), around
    rings that are used in both directions, so that the farthest device is half a ring away.
    """
    share = math.ceil(batch_size / num_devices)
    computing = max(machine.step_seconds, share / machine.images_per_second)
    if num_devices == 1:
        return computing
    sent = 2 * (num_devices - 1) / num_devices * 4 * PARAMETERS
    ring = num_devices ** (1 / machine.dimensions)
    return computing + sent / machine.bytes_per_second + 2 * machine.dimensions * ring / 2 * machine.hop_seconds


def expected_table(machine: Machine, batch_sizes: Iterable[int]) -> str:
    """Returns a table of the duration of a step, and its speedup over one device."""
    rows = []
    for batch_size in batch_sizes:
        times = [step_seconds(machine, batch_size, n) for n in NUM_DEVICES]
        milliseconds = (f"{1e3 * t:.3g}" if t < 1 else f"{1e3 * t:,.0f}" for t in times)
        cells = (f"{ms} ms ({times[0] / t:.3g}x)" for ms, t in zip(milliseconds, times, strict=True))
        rows.append((f"{batch_size:,}", *cells))
    return markdown_table(("batch", *(f"{n} device{'s' * (n > 1)}" for n in NUM_DEVICES)), rows, text_columns=0)


def learned_table(study: Study) -> str:
    """Returns a table of test accuracy after five epochs, by batch size and learning rate.

    The sweep's variants have names such as "256, square root".
    """
    results = {name: runs[0] for name, runs in study.by_variant().items()}
    diverged = {run["variant"] for run in study.diverged}
    scale = scale_of("test/accuracy")
    rows = []
    for variant, changes in study.sweep.variants.items():
        size, rate, rule = changes["batch_size"], changes["learning_rates"][1], variant.partition(", ")[2]
        found = results.get(variant)
        cells = [f"{scale.text(found[which]['test/accuracy'])} %" if found else "" for which in ("final", "best")]
        cells[0] = cells[0] or ("diverged" if variant in diverged else "not run")
        rows.append((f"{size:,}", str(math.ceil(60_000 / size)), f"{rate:g}", rule, *cells))
    header = ("batch size", "steps per epoch", "learning rate", "its scaling", "final test accuracy", "best epoch")
    return markdown_table(header, rows, text_columns=0)


def sections(docs: Path) -> dict[str, str]:
    """Returns the generated sections of `scaling.md` by name, from the files in `docs`."""
    measured = read_benchmark(docs / "benchmarks/avx2.json", _MEASURED)[1][_MEASURED]
    study = read_study(docs / "scaling")
    sizes = list(dict.fromkeys(changes["batch_size"] for changes in study.sweep.variants.values()))
    tables = {name: expected_table(machine, sizes) for name, machine in create_machines(measured).items()}
    return {**tables, "learned": learned_table(study)}


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    replace_sections(docs / "scaling.md", sections(docs))


if __name__ == "__main__":
    cli.run(main)
