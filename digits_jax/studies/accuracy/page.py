"""The plot and the tables of `docs/accuracy.md`."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure

from digits_jax.pages import markdown_table
from digits_jax.runs.curves import scale_accuracies
from digits_jax.studies.report.statistics import Estimate, estimate
from digits_jax.studies.report.study import scale_of

THRESHOLDS = (0.99, 0.994)

# Test images whose label fewer than three of five people agreed with, of those that Northcutt et al. 2021 ("Pervasive
# label errors in test sets", labelerrors.com) showed to people because a model contradicted it.
MISLABELLED = frozenset((947, 1621, 1901, 2130, 2462, 2597, 2654, 3520, 3558, 5937, 6651, 6783, 8527, 9679, 9729))


class Reference(NamedTuple):
    """A published accuracy, whose time on a CPU nobody has published."""

    accuracy: float
    what: str


REFERENCES = (
    Reference(0.9943, "the post, final of 16 epochs, one run"),
    Reference(0.9964, "Deotte 2018: one network, 30 epochs"),
    Reference(0.9970, "An et al. 2020: one network, mean of 30 final epochs (150)"),
)
_ACCURACY = scale_of("test/accuracy")
_COLOUR, _REFERENCE = "#0072B2", "#D55E00"  # Okabe & Ito 2008


class Point(NamedTuple):
    """A config's runs, and what an epoch costs.

    Attributes:
      name: the variant's.
      accuracies: test accuracy by run and epoch.
      epoch_seconds: of training, by measurement.
      epoch_flops: floating-point operations.
    """

    name: str
    accuracies: list[list[float]]
    epoch_seconds: list[float]
    epoch_flops: float

    @property
    def final(self) -> list[float]:
        """Test accuracy of each run's final epoch."""
        return [epochs[-1] for epochs in self.accuracies]

    @property
    def num_epochs(self) -> int:
        return len(self.accuracies[0])

    @property
    def seconds(self) -> float:
        """Of a run's training, by the median of the measurements."""
        return self.num_epochs * statistics.median(self.epoch_seconds)


def plot_points(points: Sequence[Point]) -> Figure:
    """Mean final test accuracy with its 95 % interval against seconds of training, and what is published."""
    figure = Figure(figsize=(9, 6), dpi=130, layout="constrained")
    axes = figure.subplots()
    best = 0.0
    for point in sorted(points, key=lambda point: point.seconds):
        value = estimate(point.final)
        on_front = value.mean > best
        best = max(best, value.mean)
        colour = _COLOUR if on_front else "#777777"
        axes.errorbar(
            point.seconds, value.mean, yerr=[[value.mean - value.low], [value.high - value.mean]],
            fmt="o" if on_front else "s", color=colour, capsize=3, markersize=5,
        )  # fmt: skip
        # Above and left of the front there is nothing; slanted, the names on it do not lie on each other either.
        side = {"xytext": (-5, 6), "rotation": -50, "ha": "right"} if on_front else {"xytext": (7, 0)}
        axes.annotate(
            point.name, (point.seconds, value.mean), textcoords="offset points", rotation_mode="anchor", va="center",
            fontsize=9, color=colour, **side,
        )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.xaxis.set_major_formatter("{x:g}")
    scale_accuracies(axes, [estimate(p.final).mean for p in points] + [reference.accuracy for reference in REFERENCES])
    for reference in REFERENCES:
        axes.axhline(reference.accuracy, color=_REFERENCE, linewidth=0.9, linestyle="--")
        axes.text(
            0.01, reference.accuracy, f"{reference.what}: {100 * reference.accuracy:.2f} %", color=_REFERENCE,
            fontsize=8, va="bottom", transform=axes.get_yaxis_transform(),
        )  # fmt: skip
    axes.set_xlabel("seconds of training")
    axes.set_ylabel("test accuracy of the final epoch, mean over seeds")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def configs_table(points: Sequence[Point]) -> str:
    """What each config reaches and costs, the cheapest first."""
    rows = [
        (
            f"`{point.name}`", str(len(point.final)), _mean(estimate(point.final)), str(point.num_epochs),
            f"{point.seconds:,.0f}", f"{point.num_epochs * point.epoch_flops / 1e12:.3g}",
        )
        for point in sorted(points, key=lambda point: point.seconds)
    ]  # fmt: skip
    header = ("config", "seeds", "final test accuracy (95 % interval)", "epochs", "seconds of training", "TFLOP")
    return markdown_table(header, rows)


def _mean(value: Estimate) -> str:
    return f"{_ACCURACY.text(value.mean)} % ({_ACCURACY.interval(value)})"


def first_epoch(point: Point, threshold: float) -> int | None:
    """The first epoch, from 1, after which the mean over the seeds is at the threshold or above."""
    means = [statistics.fmean(epoch) for epoch in zip(*point.accuracies, strict=True)]
    return next((number for number, mean in enumerate(means, 1) if mean >= threshold), None)


def thresholds_table(points: Sequence[Point]) -> str:
    """Seconds of training until the mean over seeds reaches each of `THRESHOLDS`, for the configs that reach one."""
    rows = []
    for point in points:
        epochs = [first_epoch(point, threshold) for threshold in THRESHOLDS]
        if any(epochs):
            seconds = statistics.median(point.epoch_seconds)
            cells = (f"{n * seconds:,.0f} ({n} epoch{'s' * (n > 1)})" if n else "" for n in epochs)
            rows.append((f"`{point.name}`", *cells))
    return markdown_table(("seconds to", *(f"{100 * threshold:.1f} %" for threshold in THRESHOLDS)), rows)


def races_table(races: Mapping[str, Mapping[str, Any]]) -> str:
    """Each of this project's recipes above the same in PyTorch."""
    rows = []
    for name, found in races.items():
        seconds, ours = sorted(found["seconds"]), races[name.removesuffix(" in PyTorch")]["seconds"]
        ratios = sorted(b / a for a, b in zip(ours, found["seconds"], strict=True))
        faster = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        rows.append((
            name, str(len(seconds)), _mean(estimate(found["accuracy"])),
            f"{statistics.median(seconds):.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f})",
            faster if name.endswith("PyTorch") else "",
        ))  # fmt: skip
    header = (
        "recipe",
        "seeds",
        "final test accuracy (95 % interval)",
        "seconds of training",
        "digits_jax is faster by",
    )
    return markdown_table(header, rows)


def ensembles_table(evaluations: Mapping[str, Mapping[str, Any]]) -> str:
    """Of `evaluation.json` files by name."""
    rows = [
        (
            f"`{name}`", str(len(found["models"])), found["views"],
            f"{100 * statistics.fmean(model['accuracy'] for model in found['models']):.2f} %",
            f"{100 * found['accuracy']['fraction']:.2f} %",
        )
        for name, found in evaluations.items()
    ]  # fmt: skip
    return markdown_table(("seeds of", "number", "views of an image", "each alone (mean)", "together"), rows)


def missed_table(point: Point, missed: Sequence[int]) -> str:
    """The test images that all runs of a config get wrong."""
    known = [index for index in missed if index in MISLABELLED]
    listed = ", ".join(f"**{index}**" if index in MISLABELLED else str(index) for index in missed)
    return (
        f"All {len(point.final)} runs of `{point.name}` get {len(missed)} images wrong, {len(known)} of them (in bold) "
        f"among the {len(MISLABELLED)} known to be mislabelled. By their index, from 0: {listed}."
    )
