"""Times training and evaluation on this machine: `python -m digits_jax.studies.benchmark`

Each case trains (or evaluates) one network on random pixels at one batch size. This project, tutorial Flax, PyTorch,
Keras and inference runtimes (of the extra `benchmark`) run in a process each and are timed in turns, round by round, so
that a drift of the machine's speed slows all of them; ratios are taken within a round. The fastest peer counts.
"""

import os

from absl import flags
from rich.markdown import Markdown

from digits_jax import cli
from digits_jax.studies.benchmark.contestant import IMAGES
from digits_jax.studies.benchmark.measure import (
    ROUNDS,
    SECONDS,
    measure,
    read_output,
    report_missing,
    write_output,
)
from digits_jax.studies.benchmark.page import results_table
from digits_jax.studies.benchmark.programs import parse_case

_CASES = [
    "linear:64", "linear:1024", "vgg:64", "vgg:256", "vgg:1024", "vgg_augmented:64", "bn_dropout:64", "bn_dropout:1024",
    "bn_dropout:busy", "vgg:evaluation", "vgg:remedies",
]  # fmt: skip
CASES = flags.DEFINE_list("cases", _CASES, "what to time: config:batch size, :busy, :seeds, :evaluation or :remedies")
COMPILE = flags.DEFINE_bool("torch_compile", True, "also time torch.compile, which takes a minute to start")


def main(argv: list[str]) -> None:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # several processes share a GPU's memory
    results, cases = read_output(), [parse_case(text, IMAGES.value) for text in CASES.value]
    report_missing(cases)
    for case in cases:
        result = measure(case, rounds=ROUNDS.value, seconds=SECONDS.value, torch_compile=COMPILE.value)
        results[case.name] = result
        cli.console.print(Markdown(results_table([result])))
        flops, peak = result["flops_per_image"] / 1e6, result["machine_flops_per_second"] / 1e9
        cli.console.print(f"{flops:.3g} MFLOP per image; products of float32 matrices reach {peak:.0f} GFLOP/s\n")
        write_output(results=list(results.values()))


if __name__ == "__main__":
    cli.run(main)
