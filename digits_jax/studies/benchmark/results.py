"""The result file of the benchmark: the machine, and per case the seconds of this project and its peers."""

import importlib.metadata
import importlib.util
import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from absl import flags

from digits_jax.config import differences
from digits_jax.errors import UserError
from digits_jax.pages import markdown_table
from digits_jax.runs.workdir import describe_machine
from digits_jax.storage.disk import replace_text

OUTPUT = flags.DEFINE_string("output", None, "also write the results to this JSON file")
OURS = "digits_jax"


def environment() -> dict[str, Any]:
    """Describes hardware and versions, without naming the machine."""
    machine = describe_machine()
    torch = {"torch": importlib.metadata.version("torch")} if importlib.util.find_spec("torch") else {}
    return {"cpu": machine["cpu"], "cores": machine["cores"], **machine["versions"], **torch}


def write_output(**content: Any) -> None:
    """Writes the environment and `content` to the file of `--output`, if given."""
    if OUTPUT.value:
        replace_text(Path(OUTPUT.value), json.dumps({"environment": environment(), **content}, indent=1) + "\n")


def read_benchmark(path: Path, *needed: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Reads a result file: the environment, and the results by case.

    Raises:
      UserError: it is not a result file, or has no result of a `needed` case.
    """
    try:
        data = json.loads(path.read_text())
        before, results = data["environment"], {result["case"]: result for result in data["results"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read as results of the benchmark ({error!r})") from None
    for case in needed:
        if case not in results:
            raise UserError(f"{path} has no case {case}: expected python -m digits_jax.studies.benchmark to time it")
    return before, results


def read_output() -> dict[str, dict[str, Any]]:
    """Returns the results that an earlier call wrote to the file of `--output`, by case.

    Raises:
      UserError: it is not a result file, or was written on another machine or with other versions.
    """
    path = OUTPUT.value
    if not path or not Path(path).exists():
        return {}
    before, results = read_benchmark(Path(path))
    for field, now, then in differences(environment(), before):
        raise UserError(f"--output={path} has results with {field} {then!r}, this is {now!r}: give another file")
    return results


def ratios(result: dict[str, Any], name: str) -> list[float]:
    """Returns how many times faster than `name` this project was in each round, in increasing order."""
    ours, theirs = result["seconds"][OURS], result["seconds"][name]
    return sorted(b / a for a, b in zip(ours, theirs, strict=True))


def fastest_torch(result: dict[str, Any]) -> str | None:
    """Returns the name of the fastest PyTorch program, by its median."""
    names = [name for name in result["seconds"] if name.startswith("PyTorch")]
    return min(names, key=lambda name: statistics.median(result["seconds"][name]), default=None)


def milliseconds(result: dict[str, Any], name: str) -> list[float]:
    """Returns the milliseconds per batch in each round, in increasing order."""
    factor = 1e3 * result["batch_size"] / result["images"]
    return sorted(seconds * factor for seconds in result["seconds"][name])


def results_table(results: Iterable[dict[str, Any]]) -> str:
    """Returns a Markdown table with a row for each case and program."""
    header = ("case", "", "images/s", "ms per batch", "share of peak", "digits_jax is faster by", "peak memory, GB")
    rows = []
    for result in results:
        best = fastest_torch(result)
        for name, seconds in result["seconds"].items():
            speed, factors, ours = result["images"] / statistics.median(seconds), ratios(result, name), name == OURS
            rows.append((
                f"`{result['case']}`" if ours else "",
                f"**{name}**" if ours else f"{name} (its fastest)" if name == best else name,
                f"{speed:,.0f}",
                f"{statistics.median(milliseconds(result, name)):.2f}",
                f"{speed * result['flops_per_image'] / result['machine_flops_per_second']:.0%}",
                "" if ours else f"{statistics.median(factors):.2f} ({factors[0]:.2f} to {factors[-1]:.2f})",
                f"{result['peak_memory_bytes'] / 1e9:.2f}" if ours else "",
            ))  # fmt: skip
    return markdown_table(header, rows, text_columns=2)
