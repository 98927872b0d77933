"""Rewrites the chart and the tables of `docs/benchmarks.md`. `python -m digits_jax.studies.benchmark.page`

From `docs/benchmarks.json`, as `python -m digits_jax.studies.benchmark --output=docs/benchmarks.json` writes it.
"""

import json
import statistics
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.pages import markdown_table
from digits_jax.studies.benchmark.__main__ import fastest_torch, ratios
from digits_jax.studies.docs import DOCS, replace_section

_OURS = "digits_jax"
_COLOURS = {_OURS: "#D55E00", "PyTorch": "#0072B2"}  # Okabe & Ito 2008, apart for colour-blind readers
_OTHER_COLOUR = "#999999"


def milliseconds(result: dict[str, Any], name: str) -> list[float]:
    """Per step (or batch evaluated), round by round, in increasing order."""
    factor = 1e3 * result["batch_size"] / result["images"]
    return sorted(seconds * factor for seconds in result["seconds"][name])


def plot_remedies(result: dict[str, Any], path: Path) -> None:
    """A bar per contestant, from the slowest way to write it down to this project; beside it PyTorch.

    Args:
      result: of a case `...:remedies`.
      path: of the PNG.
    """
    names = [*(name for name in result["seconds"] if name != _OURS), _OURS]
    names.sort(key=lambda name: name.startswith("PyTorch"))
    times = {name: milliseconds(result, name) for name in names}
    # The slowest is several times the next: its bar is cut, or all the others would be slivers.
    limit = 1.15 * sorted(values[-1] for values in times.values())[-2]
    figure = Figure(figsize=(9, 0.42 * len(names) + 1.1), dpi=150, layout="constrained")
    axes = figure.subplots()
    for row, (name, values) in enumerate(times.items()):
        middle = statistics.median(values)
        colour = _COLOURS.get(name.partition(" ")[0], _OTHER_COLOUR)
        axes.barh(row, min(middle, limit), color=colour, height=0.72)
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
    figure.savefig(path)


def results_table(results: list[dict[str, Any]]) -> str:
    """One line per case and contestant."""
    header = ("case", "", "images/s", "ms per batch", "share of peak", "digits_jax is faster by", "peak memory, GB")
    rows = []
    for result in results:
        best = fastest_torch(result)
        for name, seconds in result["seconds"].items():
            factors = ratios(result, name)
            speed = result["images"] / statistics.median(seconds)
            ours = name == _OURS
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


def main(argv: list[str]) -> None:
    folder = Path(DOCS.value)
    try:
        data = json.loads((folder / "benchmarks.json").read_text())
        remedies = next(result for result in data["results"] if result["case"] == "vgg:remedies")
    except (OSError, ValueError, LookupError, StopIteration) as error:
        raise UserError(f"{folder}/benchmarks.json: no benchmark with a case vgg:remedies ({error})") from None
    plot_remedies(remedies, folder / "benchmarks.png")
    replace_section(folder / "benchmarks.md", "results", results_table(data["results"]))
    versions = ", ".join(
        f"{name} {value}" for name, value in data["environment"].items() if name not in ("cpu", "cores")
    )
    rounds = min(len(seconds) for result in data["results"] for seconds in result["seconds"].values())
    peaks = [result["machine_flops_per_second"] / 1e9 for result in data["results"]]
    text = (
        f"{data['environment']['cores']} cores of an {data['environment']['cpu']}, whose product of matrices reaches "
        f"{min(peaks):.0f} to {max(peaks):.0f} GFLOP/s; {versions}; {rounds} rounds."
    )
    replace_section(folder / "benchmarks.md", "environment", text)


if __name__ == "__main__":
    cli.run(main)
