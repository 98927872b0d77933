"""Rewrites the chart and the tables of `docs/benchmarks.md`: `python -m digits_jax.studies.benchmark.page`

From `docs/benchmarks/*.json`, a file for each processor, which `python -m digits_jax.studies.benchmark` writes.
"""

import collections
import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.pages import escape, markdown_table
from digits_jax.studies.docs import DOCS, replace_sections

OURS = "digits_jax"
LIBRARIES = ("tutorial Flax", "PyTorch", "Keras", "ONNX Runtime", "OpenVINO")  # peers' names begin with them
NUM_SEEDS = 32  # of the cases `:seeds`
BFLOAT16 = ", bfloat16"  # ends the names of programs that compute in it
_PLOTTED = "vgg:remedies"
Benchmark = tuple[dict[str, Any], dict[str, dict[str, Any]]]  # the environment, and the results by case
_COLORS = {OURS: "#D55E00", "PyTorch": "#0072B2"}  # Okabe & Ito 2008, distinct for color-blind readers; else gray


def read_benchmark(path: Path, *needed: str) -> Benchmark:
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
    """Returns how many times faster than `name` this project was in each round, in increasing order.

    Programs that compute in bfloat16 are compared with each other.
    """
    ours, theirs = result["seconds"][OURS + (BFLOAT16 if name.endswith(BFLOAT16) else "")], result["seconds"][name]
    return sorted(b / a for a, b in zip(ours, theirs, strict=True))


def library(program: str) -> str | None:
    """Returns the library of a peer in float32; None of other programs."""
    return next((name for name in LIBRARIES if program.startswith(name) and not program.endswith(BFLOAT16)), None)


def fastest(result: dict[str, Any], of_library: str | None = None) -> str | None:
    """Returns the name of the fastest peer by its median, of all or of one library; None if there is none."""
    names = [name for name in result["seconds"] if library(name) in ([of_library] if of_library else LIBRARIES)]
    return min(names, key=lambda name: statistics.median(result["seconds"][name]), default=None)


def milliseconds(result: dict[str, Any], name: str) -> list[float]:
    """Returns the milliseconds per batch in each round, in increasing order."""
    factor = 1e3 * result["batch_size"] / result["images"]
    return sorted(seconds * factor for seconds in result["seconds"][name])


def _range(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({values[0]:.2f} to {values[-1]:.2f})"


def results_table(results: Iterable[dict[str, Any]]) -> str:
    """Returns a Markdown table with a row for each case and program."""
    header = ("case", "", "images/s", "ms per batch", "share of peak", "digits_jax is faster by", "peak memory, GB")
    rows: list[tuple[str, ...]] = []
    for result in results:
        counts = collections.Counter(map(library, result["seconds"]))
        notes = {fastest(result, name): "its fastest" for name in LIBRARIES if counts[name] > 1}
        notes[fastest(result)] = "the fastest peer"
        for name, seconds in result["seconds"].items():
            speed, ours = result["images"] / statistics.median(seconds), name == OURS
            rows.append((
                f"`{result['case']}`" if ours else "",
                f"**{name}**" if ours else f"{name} ({notes[name]})" if name in notes else name,
                f"{speed:,.0f}",
                f"{statistics.median(milliseconds(result, name)):.2f}",
                f"{speed * result['flops_per_image'] / result['machine_flops_per_second']:.0%}",
                "" if ours else _range(ratios(result, name)),
                f"{result['peak_memory_bytes'] / 1e9:.2f}" if ours else "",
            ))  # fmt: skip
        rows += [("", f"{name}: failed ({escape(why)})", *[""] * 5) for name, why in result.get("failures", {}).items()]
    return markdown_table(header, rows, text_columns=2)


def summary_table(files: Iterable[Benchmark]) -> str:
    """Returns a Markdown table of this project's speed relative to the fastest peer: cases by processors."""
    files = list(files)
    rows = []
    for case in dict.fromkeys(case for _, results in files for case in results):
        found = [(results[case], fastest(results[case])) if case in results else (None, None) for _, results in files]
        cells = [f"{_range(ratios(result, peer))}, {peer}" if result and peer else "" for result, peer in found]
        if any(cells):
            rows.append((f"`{case}`", *cells))
    header = ("case", *(f"{processor(environment)}, {_days(results.values())}" for environment, results in files))
    return markdown_table(header, rows, text_columns=len(header))


def seeds_sentences(results: dict[str, dict[str, Any]]) -> str:
    """Returns what training several seeds in one program costs, of each config for which it was measured."""
    text = ""
    for case, result in results.items():
        config, _, work = case.partition(":")
        if work == "seeds" and (one := results.get(f"{config}:{result['batch_size']}")):
            many, single = (statistics.median(milliseconds(r, OURS)) for r in (result, one))
            factor = NUM_SEEDS * many / single
            text += f"\n{NUM_SEEDS} seeds of `{config}` in one program take {factor:.1f} times as long as one.\n"
    return text


def plot_remedies(result: dict[str, Any]) -> Figure:
    """Plots the case `vgg:remedies`: a bar for each remedy, for this project and for each library's fastest program."""
    peers = [name for other in LIBRARIES[1:] if (name := fastest(result, other))]
    remedies = [name for name in result["seconds"] if name != OURS and library(name) in (None, LIBRARIES[0])]
    names = [*remedies, OURS, *peers]
    times = {name: milliseconds(result, name) for name in names}
    # The slowest takes several times as long as the next: its bar is cut, or all others would be slivers.
    limit = 1.15 * sorted(values[-1] for values in times.values())[-2]
    figure = Figure(figsize=(9, 0.42 * len(names) + 1.1), dpi=150, layout="constrained")
    axes = figure.subplots()
    for row, (name, values) in enumerate(times.items()):
        middle = statistics.median(values)
        axes.barh(row, min(middle, limit), color=_COLORS.get(name.partition(" ")[0], "#999999"), height=0.72)
        if middle > limit:
            axes.text(limit * 0.99, row, f"{middle:,.0f} \N{RIGHTWARDS ARROW}", va="center", ha="right", color="black")
        else:
            axes.hlines(row, values[0], values[-1], color="black", linewidth=1.2)
            axes.text(values[-1] + limit * 0.008, row, f"{middle:.1f}", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlim(0, limit)
    axes.set_xlabel("milliseconds per training step (median; the line spans all rounds)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def processor(environment: dict[str, Any]) -> str:
    """Returns the name of what computed."""
    return environment.get("accelerator") or f"{environment['cores']} cores of an {environment['cpu']}"


def environment_sentence(environment: dict[str, Any], results: Iterable[dict[str, Any]]) -> str:
    """Describes the machine, the versions, the number of rounds and the days."""
    results = list(results)
    rounds = min(len(seconds) for result in results for seconds in result["seconds"].values())
    peaks = [result["machine_flops_per_second"] / 1e9 for result in results]
    hardware = ("accelerator", "cpu", "cores")
    versions = (f"{name} {version}" for name, version in environment.items() if name not in hardware)
    return (
        f"Matrix products at {min(peaks):.0f} to {max(peaks):.0f} GFLOP/s; {', '.join(versions)}; {rounds} rounds, "
        f"{_days(results)}."
    )


def _days(results: Iterable[dict[str, Any]]) -> str:
    days = sorted({result["date"] for result in results})
    return " to ".join(dict.fromkeys((days[0], days[-1])))


def read_benchmarks(docs: Path) -> dict[str, Benchmark]:
    """Reads the files of all processors, by name; raises a UserError if there are none."""
    paths = sorted((docs / "benchmarks").glob("*.json"))
    if not paths:
        raise UserError(f"{docs / 'benchmarks'} has no results: expected python -m digits_jax.studies.benchmark first")
    return {path.stem: read_benchmark(path) for path in paths}


def sections(files: Mapping[str, Benchmark]) -> dict[str, str]:
    """Returns the generated sections of `benchmarks.md` by name."""
    results = [
        f"### {processor(environment)}\n\n{environment_sentence(environment, found.values())}\n"
        f"{seeds_sentences(found)}\n{results_table(found.values())}"
        for environment, found in files.values()
    ]
    newest = plotted(files)
    chart = f"Measured on {processor(files[newest][0])} (`docs/benchmarks/{newest}.json`)."
    return {"chart": chart, "summary": summary_table(files.values()), "results": "\n".join(results)}


def plotted(files: Mapping[str, Benchmark]) -> str:
    """Returns the name of the file that has the newest results of the case in the chart."""
    dates = {name: results[_PLOTTED]["date"] for name, (_, results) in files.items() if _PLOTTED in results}
    if not dates:
        raise UserError(f"no file has the case {_PLOTTED}: expected python -m digits_jax.studies.benchmark to time it")
    return max(dates, key=dates.__getitem__)


def main(argv: list[str]) -> None:
    docs = Path(DOCS.value)
    files = read_benchmarks(docs)
    plot_remedies(files[plotted(files)][1][_PLOTTED]).savefig(docs / "benchmarks.png")
    replace_sections(docs / "benchmarks.md", sections(files))


if __name__ == "__main__":
    cli.run(main)
