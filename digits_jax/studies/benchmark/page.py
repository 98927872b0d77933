"""Rewrites the chart and the tables of `docs/benchmarks.md`: `python -m digits_jax.studies.benchmark.page`

From `docs/benchmarks.json`, which `python -m digits_jax.studies.benchmark --output=docs/benchmarks.json` writes.
"""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.pages import markdown_table
from digits_jax.studies.docs import DOCS, replace_sections

OURS = "digits_jax"
_PLOTTED = "vgg:remedies"
_COLORS = {OURS: "#D55E00", "PyTorch": "#0072B2"}  # Okabe & Ito 2008, distinct for color-blind readers; else gray


def read_benchmark(path: Path, *needed: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Reads the environment, and the results by case; raises a UserError if a `needed` case is missing."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        before, results = data["environment"], {result["case"]: result for result in data["results"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} cannot be read as results of the benchmark ({error!r})") from None
    for case in needed:
        if case not in results:
            raise UserError(f"{path} has no case {case}: expected python -m digits_jax.studies.benchmark to time it")
    return before, results


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


def plot_remedies(result: dict[str, Any]) -> Figure:
    """Plots a bar for each program of the case `vgg:remedies`: tutorial Flax first, then this project, then PyTorch."""
    names = [*(name for name in result["seconds"] if name != OURS), OURS]
    names.sort(key=lambda name: name.startswith("PyTorch"))
    times = {name: milliseconds(result, name) for name in names}
    # The slowest takes several times as long as the next: its bar is cut, or all others would be slivers.
    limit = 1.15 * sorted(values[-1] for values in times.values())[-2]
    figure = Figure(figsize=(9, 0.42 * len(names) + 1.1), dpi=150, layout="constrained")
    axes = figure.subplots()
    for row, (name, values) in enumerate(times.items()):
        middle = statistics.median(values)
        axes.barh(row, min(middle, limit), color=_COLORS.get(name.partition(" ")[0], "#999999"), height=0.72)
        if middle > limit:
            axes.text(limit * 0.99, row, f"{middle:,.0f} \N{RIGHTWARDS ARROW}", va="center", ha="right", color="white")
        else:
            axes.hlines(row, values[0], values[-1], color="black", linewidth=1.2)
            axes.text(values[-1] + limit * 0.008, row, f"{middle:.1f}", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, limit)
    axes.set_xlabel("milliseconds per training step (median; the line spans all rounds)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def environment_sentence(environment: dict[str, Any], results: list[dict[str, Any]]) -> str:
    """Describes the machine, the versions and the number of rounds."""
    rounds = min(len(seconds) for result in results for seconds in result["seconds"].values())
    peaks = [result["machine_flops_per_second"] / 1e9 for result in results]
    versions = (f"{name} {version}" for name, version in environment.items() if name not in ("cpu", "cores"))
    return (
        f"{environment['cores']} cores of an {environment['cpu']}, which multiply matrices at {min(peaks):.0f} to "
        f"{max(peaks):.0f} GFLOP/s; {', '.join(versions)}; {rounds} rounds."
    )


def sections(docs: Path) -> dict[str, str]:
    """Returns the generated sections of `benchmarks.md` by name, from the files in `docs`."""
    environment, results = read_benchmark(docs / "benchmarks.json")
    every = list(results.values())
    return {"results": results_table(every), "environment": environment_sentence(environment, every)}


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    _, results = read_benchmark(docs / "benchmarks.json", _PLOTTED)
    plot_remedies(results[_PLOTTED]).savefig(docs / "benchmarks.png")
    replace_sections(docs / "benchmarks.md", sections(docs))


if __name__ == "__main__":
    cli.run(main)
