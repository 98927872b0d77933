"""How fast is training on this machine? `python -m digits_jax.studies.benchmark`

Each case trains (or evaluates) one network on random pixels at one batch size. Its contestants (`contestants.py`) are
timed in turn, round by round, so that a machine whose speed drifts slows all of them; ratios are taken within a round.
PyTorch runs in its four usual ways (contiguous or channels_last memory, eager or `torch.compile`), of which the fastest
counts; it comes with the extra `benchmark`, and is left out where it is not installed.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import re
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from absl import flags
from ml_collections import ConfigDict
from rich.table import Table

from digits_jax import augment, cli
from digits_jax.config import differences, validate
from digits_jax.errors import ConfigError, UserError
from digits_jax.metrics import Metrics
from digits_jax.runs.console import console
from digits_jax.runs.workdir import describe_machine
from digits_jax.storage import replace_text
from digits_jax.studies.benchmark import contestants
from digits_jax.studies.benchmark.contestants import Pass

DEFAULT_CASES = (
    "linear:64", "linear:1024", "vgg:64", "vgg:256", "vgg:1024", "vgg_augmented:64", "bn_dropout:64", "bn_dropout:1024",
    "vgg:evaluation", "vgg:remedies",
)  # fmt: skip
CASES = flags.DEFINE_list("cases", list(DEFAULT_CASES), "what to time: config:batch size, :evaluation or :remedies")
ROUNDS = flags.DEFINE_integer("rounds", 5, "measurements of each contestant", lower_bound=1)
SECONDS = flags.DEFINE_float("seconds", 2.0, "aimed at for each measurement", lower_bound=0.01)
COMPILE = flags.DEFINE_bool("torch_compile", True, "time torch.compile too, which takes a minute to start")
OUTPUT = flags.DEFINE_string("output", None, "also write the results to this JSON file")

_OURS = "digits_jax"
_PRODUCT = "matrix product"
PRODUCT_SIZE = 2048  # of the square matrices whose product gives the machine's speed


class Case(NamedTuple):
    """One network: trained, evaluated, or trained by tutorial Flax with one remedy after another."""

    name: str
    config: ConfigDict
    work: Literal["training", "evaluation", "remedies"]

    @property
    def num_images(self) -> int:
        """In one pass: whole batches; a tenth of a second or more, but seconds in the slowest of the remedies."""
        if self.work == "evaluation":
            return 10_000
        training = 2**16 if self.config.model.name == "linear" else 2**12
        images = 640 if self.work == "remedies" else training
        return max(1, images // self.config.batch_size) * self.config.batch_size


def parse_case(text: str) -> Case:
    """ "vgg:64" is `configs/vgg.py` at batch size 64; "vgg:evaluation" and "vgg:remedies" its other works.

    Raises:
      ConfigError: there is no such config, or the batch size is no positive integer.
    """
    name, _, size = text.partition(":")
    if not name.isidentifier() or importlib.util.find_spec(f"configs.{name}") is None:
        raise ConfigError(f"--cases={text}: there is no configs/{name}.py")
    config = importlib.import_module(f"configs.{name}").get_config()
    work = size if size in ("evaluation", "remedies") else "training"
    if work == "training":
        if not re.fullmatch("[1-9][0-9]*", size):
            raise ConfigError(f"--cases={text}: expected a batch size, 'evaluation' or 'remedies' after the colon")
        config.batch_size = int(size)
    if work == "remedies" and config.model.name != "vgg":
        raise ConfigError(f"--cases={text}: the remedies are for convolutions, which {name} has not")
    validate(config)
    return Case(name=text, config=config, work=cast(Any, work))


def create_contestants(case: Case, *, torch_compile: bool) -> dict[str, Pass]:
    """The programs that do the case's work, by name; this project's is called "digits_jax"."""
    config, evaluation = case.config, case.work == "evaluation"
    arrays = contestants.random_arrays(*((64, case.num_images) if evaluation else (case.num_images, 1)))
    ours = contestants.digits_jax_evaluation if evaluation else contestants.digits_jax_training
    passes = {_OURS: ours(config, arrays)}
    if case.work == "remedies":
        passes |= contestants.remedies(config, arrays)
    elif any(config.augment[name] for name in augment.RANGES):  # the others do not augment
        plain = ConfigDict(config.to_dict())
        plain.augment.update(dict.fromkeys(augment.RANGES, 0.0))
        return passes | {"digits_jax, not augmented": ours(plain, arrays)}
    elif config.model.name == "vgg" and not evaluation:
        passes["tutorial Flax"] = contestants.tutorial_flax_training(config, arrays)
    if importlib.util.find_spec("torch"):
        theirs = contestants.torch_evaluation if evaluation else contestants.torch_training
        for mode in ("eager", "compiled") if torch_compile else ("eager",):
            for layout in ("contiguous", "channels_last"):
                passes[f"PyTorch {mode} {layout}"] = theirs(
                    config, arrays, channels_last=layout == "channels_last", compiled=mode == "compiled"
                )
    return passes


def compare(passes: dict[str, Pass], *, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds per pass of each, measured in turn `rounds` times.

    A measurement repeats the pass until about `seconds` have gone by. The first pass compiles and is thrown away; the
    second sets the number of repetitions.
    """
    repetitions = {}
    for name, take in passes.items():
        take()
        repetitions[name] = max(1, round(seconds / _time(take, 1)))
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(rounds):
        for name, take in passes.items():
            times[name].append(_time(take, repetitions[name]))
    return times


def _time(take: Pass, repetitions: int) -> float:
    begin = time.perf_counter()
    for _ in range(repetitions):
        take()
    return (time.perf_counter() - begin) / repetitions


def matrix_product() -> Pass:
    """The product of two square float32 matrices: what this machine can do at best."""
    a, b = (jax.random.normal(jax.random.key(i), (PRODUCT_SIZE, PRODUCT_SIZE)) for i in range(2))
    product = jax.jit(jnp.matmul)
    return lambda: jax.block_until_ready(product(a, b))


def flops_per_image(case: Case) -> float:
    """Floating-point operations that the case needs per image: as XLA counts the program with its own convolution."""
    config = ConfigDict(case.config.to_dict())
    config.model.conv = "lax"
    arrays = contestants.random_arrays(config.batch_size, config.eval_batch_size)
    experiment = contestants.digits_jax_experiment(config, arrays)
    state, model = experiment.initial_state, experiment.model
    images = jnp.asarray(arrays.test_images if case.work == "evaluation" else arrays.train_images)
    variables = {"params": state.params, "batch_stats": state.batch_stats}

    def forward(params: Any) -> jax.Array:
        logits: Any = model.apply(variables | {"params": params}, images, train=False)
        return jnp.square(logits).sum()  # its gradient depends on the logits, as the loss's does

    function = forward if case.work == "evaluation" else jax.value_and_grad(forward)
    cost: Any = jax.jit(function).lower(state.params).cost_analysis()
    return cost["flops"] / len(images)


def peak_memory(case: Case) -> int:
    """Bytes that a process takes at most which trains the case on as many images as MNIST has."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory_here, case.config.to_dict()).result()


def _peak_memory_here(config: dict[str, Any]) -> int:
    experiment = contestants.digits_jax_experiment(ConfigDict(config), contestants.random_arrays(60_000, 10_000))
    batches = jnp.arange(60_000 // config["batch_size"] * config["batch_size"]).reshape(-1, config["batch_size"])
    call = next(experiment.feed.calls([batches], first_step=0))
    state, _ = experiment.train_steps(experiment.initial_state, Metrics.zero(), *call)
    jax.block_until_ready(experiment.after_each_epoch["test"](state))
    # Not `resource.getrusage`, whose maximum a process takes over from the one that started it.
    found = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def measure(case: Case, *, rounds: int, seconds: float, torch_compile: bool) -> dict[str, Any]:
    """All figures of a case, as they are written to the JSON file."""
    passes = create_contestants(case, torch_compile=torch_compile)
    times = compare(passes | {_PRODUCT: matrix_product()}, rounds=rounds, seconds=seconds)
    products = times.pop(_PRODUCT)
    return {
        "case": case.name,
        "batch_size": case.config.eval_batch_size if case.work == "evaluation" else case.config.batch_size,
        "images": case.num_images,
        "seconds": {name: [round(value, 6) for value in values] for name, values in times.items()},
        "flops_per_image": round(flops_per_image(case)),
        "machine_flops_per_second": round(2 * PRODUCT_SIZE**3 / statistics.median(products)),
        "peak_memory_bytes": peak_memory(case),
    }


def ratios(result: dict[str, Any], name: str) -> list[float]:
    """How many times as fast as `name` this project was, round by round, in increasing order."""
    ours, theirs = result["seconds"][_OURS], result["seconds"][name]
    return sorted(b / a for a, b in zip(ours, theirs, strict=True))


def fastest_torch(result: dict[str, Any]) -> str | None:
    names = [name for name in result["seconds"] if name.startswith("PyTorch")]
    return min(names, key=lambda name: statistics.median(result["seconds"][name]), default=None)


def show(result: dict[str, Any]) -> None:
    """The case as a table: one line per contestant."""
    best = fastest_torch(result)
    table = Table("", "images/s", "ms/step", "share of peak", "digits_jax is faster by", title=result["case"], box=None)
    for name, values in result["seconds"].items():
        speed = result["images"] / statistics.median(values)
        factors = ratios(result, name)
        table.add_row(
            f"{name} (its fastest)" if name == best else name,
            f"{speed:,.0f}",
            f"{result['batch_size'] / speed * 1e3:.2f}",
            f"{speed * result['flops_per_image'] / result['machine_flops_per_second']:.0%}",
            "" if name == _OURS else f"{statistics.median(factors):.2f} ({factors[0]:.2f} to {factors[-1]:.2f})",
        )
    console.print(table)
    console.print(
        f"{result['flops_per_image'] / 1e6:.3g} MFLOP per image; products of float32 matrices reach "
        f"{result['machine_flops_per_second'] / 1e9:.0f} GFLOP/s; peak memory of digits_jax "
        f"{result['peak_memory_bytes'] / 1e9:.2f} GB\n"
    )


def environment() -> dict[str, Any]:
    """Hardware and versions; nothing that names the machine."""
    machine = describe_machine()
    torch = {"torch": importlib.metadata.version("torch")} if importlib.util.find_spec("torch") else {}
    return {"cpu": machine["cpu"], "cores": machine["cores"], **machine["versions"], **torch}


def read_output(path: str | None) -> list[dict[str, Any]]:
    """The results that an earlier call left in the file.

    Raises:
      UserError: it is no such file, or was written on another machine or with other versions.
    """
    if not path or not Path(path).exists():
        return []
    try:
        data = json.loads(Path(path).read_text())
        before, results = data["environment"], data["results"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"--output={path} cannot be read as results of the benchmark ({error!r})") from None
    for field, now, then in differences(environment(), before):
        raise UserError(f"--output={path} has results with {field} {then!r}, this is {now!r}: give another file")
    return results


def main(argv: list[str]) -> None:
    cases = [parse_case(text) for text in CASES.value]
    results = {result["case"]: result for result in read_output(OUTPUT.value)}
    for case in cases:
        results[case.name] = measure(case, rounds=ROUNDS.value, seconds=SECONDS.value, torch_compile=COMPILE.value)
        show(results[case.name])
    if OUTPUT.value:
        text = json.dumps({"environment": environment(), "results": list(results.values())}, indent=1)
        replace_text(Path(OUTPUT.value), text + "\n")


if __name__ == "__main__":
    cli.run(main)
