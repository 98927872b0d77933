"""What more devices give, on paper, and what larger batches cost, measured: `python -m digits_jax.studies.scaling`

Rewrites the tables of `docs/scaling.md` from `docs/benchmarks.json` and the result files of
`configs/sweeps/scaling.py`.
"""

import json
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

from configs.sweeps import scaling as sweep
from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.pages import markdown_table
from digits_jax.studies.docs import DOCS, replace_section
from digits_jax.studies.report.study import scale_of
from digits_jax.studies.results import read_results

PARAMETERS = 594_922  # of `vgg`
NUM_DEVICES = (1, 8, 64, 256)


class Machine(NamedTuple):
    """Equal devices on a network that is a torus of `dimensions` (a ring is one of 1)."""

    images_per_second: float  # forward and backward, of one device with enough to do
    step_seconds: float  # that a step takes at least
    bytes_per_second: float  # that a device sends and receives, over all its links
    hop_seconds: float  # from one device to the next
    dimensions: int


def cpu_nodes(result: dict[str, Any]) -> Machine:
    """Machines like the one that was measured, on 10 Gbit/s Ethernet with 50 us from one to the next.

    Args:
      result: of the case `vgg:64` of `docs/benchmarks.json`.
    """
    speed = result["images"] / statistics.median(result["seconds"]["digits_jax"])
    return Machine(speed, 0.0, 10e9 / 8, 50e-6, 1)


def tpu_v5e(result: dict[str, Any]) -> Machine:
    """Peak and links as Google states them (cloud.google.com/tpu/docs/v6e: 197 TFLOP/s, 1,600 Gbit/s, a 2D torus).

    That a third of the peak is reached, that a step takes 50 us at least, and a microsecond per hop, are guesses.

    Args:
      result: as for `cpu_nodes`.
    """
    return Machine(197e12 / 3 / result["flops_per_image"], 50e-6, 1600e9 / 8, 1e-6, 2)


def step_seconds(machine: Machine, batch_size: int, num_devices: int) -> float:
    """A step's time, where computing and adding up gradients do not overlap.

    Each device computes its share of the batch. The gradients, 4 bytes for each parameter, are added up by a
    reduce-scatter and an all-gather, each of which sends (n - 1) / n of them through every device (Patarasuk and Yuan
    2009), around rings that are used in both directions, so that the farthest device is half a ring away.
    """
    share = math.ceil(batch_size / num_devices)
    computing = max(machine.step_seconds, share / machine.images_per_second)
    if num_devices == 1:
        return computing
    sent = 2 * (num_devices - 1) / num_devices * 4 * PARAMETERS
    ring = num_devices ** (1 / machine.dimensions)
    return computing + sent / machine.bytes_per_second + 2 * machine.dimensions * ring / 2 * machine.hop_seconds


def expected_table(machine: Machine) -> str:
    """The time of a step, and how many times faster than one device it is."""
    rows = []
    for batch_size in sweep.SIZES:
        times = [step_seconds(machine, batch_size, n) for n in NUM_DEVICES]
        milliseconds = (f"{1e3 * t:.3g}" if t < 1 else f"{1e3 * t:,.0f}" for t in times)
        rows.append(
            (f"{batch_size:,}", *(f"{ms} ms ({times[0] / t:.3g}x)" for ms, t in zip(milliseconds, times, strict=True)))
        )
    return markdown_table(("batch", *(f"{n} device{'s' * (n > 1)}" for n in NUM_DEVICES)), rows, text_columns=0)


def learned_table(results: list[dict[str, Any]]) -> str:
    """Test accuracy in five epochs, by batch size and learning rate; runs without a result diverged."""
    scale = scale_of("test/accuracy")
    found = {result["variant"]: result for result in results}
    rows = []
    for variant, changes in sweep.get_sweep().variants.items():
        size, growth = changes["batch_size"], variant.partition(", ")[2]
        cells = ["diverged", ""]
        if variant in found:
            cells = [f"{scale.text(found[variant][which]['test/accuracy'])} %" for which in ("final", "best")]
        steps = math.ceil(60_000 / size)
        rows.append((f"{size:,}", str(steps), f"{changes['learning_rates'][1]:g}", growth, *cells))
    header = ("batch", "steps per epoch", "learning rate", "its growth", "final test accuracy", "of the best epoch")
    return markdown_table(header, rows, text_columns=0)


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    try:
        cases = {case["case"]: case for case in json.loads((docs / "benchmarks.json").read_text())["results"]}
        measured = cases["vgg:64"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{docs / 'benchmarks.json'} has no case vgg:64 ({error!r})") from None
    results = read_results([docs / "scaling"])
    sections = {
        "cpu": expected_table(cpu_nodes(measured)),
        "tpu": expected_table(tpu_v5e(measured)),
        "learned": learned_table(results),
    }
    for section, text in sections.items():
        replace_section(docs / "scaling.md", section, text)


if __name__ == "__main__":
    cli.run(main)
