"""The text of a report, as Markdown, and its figures: everything that `report.py` writes down."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from digits_jax.errors import UserError
from digits_jax.pages import markdown_table
from digits_jax.runs.console import duration
from digits_jax.studies.report.plots import plot_curves, plot_differences
from digits_jax.studies.report.statistics import POWER, Comparison, Estimate, compare, estimate
from digits_jax.studies.report.study import Scale, Study, Variant, processor, scale_of

_MOST_MISSED = 24
_ACCURACIES = ("test/accuracy", "test_augmented/accuracy")
_NAMED = 3  # variants of one kind that the answer names


def verdict(name: str, comparison: Comparison, scale: Scale, baseline: str) -> str:
    """One comparison in words."""
    difference = comparison.difference
    if difference.n < 2:
        return f"**{name}**: {difference.n} seed in common with {baseline}, which is too few to say anything."
    size = f"{scale.text(difference.mean, sign=True)}{scale.difference_unit} ({scale.interval(difference, sign=True)})"
    if comparison.resolved:
        return f"**{name}**: {size}, {'above' if difference.mean > 0 else 'below'} {baseline}."
    needed = comparison.seeds_needed
    more = f"some {needed:,} seeds would resolve one of this size" if needed else "no number of seeds in sight would"
    return f"**{name}**: {size}, no difference from {baseline} that {difference.n} seeds resolve; {more}."


def answer(comparisons: dict[str, Comparison], scale: Scale, baseline: str) -> str:
    """All comparisons in one sentence, the largest differences first."""

    def listed(found: list[tuple[str, Estimate]]) -> str:
        named = [
            f"**{name}** ({scale.text(d.mean, sign=True)}{scale.difference_unit}, {scale.interval(d, sign=True)})"
            for name, d in sorted(found, key=lambda item: -abs(item[1].mean))
        ]
        shown = named[:_NAMED] + ([f"{len(named) - _NAMED} more"] if len(named) > _NAMED else [])
        return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]

    better: list[tuple[str, Estimate]] = []
    worse: list[tuple[str, Estimate]] = []
    open_: list[tuple[str, Estimate]] = []
    for name, comparison in comparisons.items():
        higher = comparison.difference.mean > 0
        group = (better if higher == scale.higher_is_better else worse) if comparison.resolved else open_
        group.append((name, comparison.difference))
    than, parts = f"than **{baseline}**", []
    for found, word in ((better, "better"), (worse, "worse")):
        if found:
            parts.append(f"{listed(found)} {'is' if len(found) == 1 else 'are'} {word} {than}".strip())
            than = ""
    if open_:
        seeds = min(difference.n for _, difference in open_)
        from_ = "it" if parts else f"**{baseline}**"
        parts.append(f"{seeds} seed{'s do' if seeds > 1 else ' does'} not tell {listed(open_)} apart from {from_}")
    return "; ".join(parts) + "."


def time_to_accuracy(variant: Variant, threshold: float) -> tuple[list[int], list[float]]:
    """Epochs and seconds of training until the test accuracy first reached the threshold, for the runs that did."""
    epochs, seconds = [], []
    for result in variant.results:
        for index, row in enumerate(result["epochs"], 1):
            if row["test/accuracy"] >= threshold:
                epochs.append(index)
                seconds.append(sum(r["train/seconds"] for r in result["epochs"][:index]))
                break
    return epochs, seconds


def most_missed(results: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Test images by index, with how many runs' final epochs get them wrong, the most missed first."""
    counts = Counter(index for result in results for index in result["test_errors"])
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_MISSED]


def build_page(
    study: Study, *, metrics: Sequence[str] = (), accuracy: float | None = None
) -> tuple[str, dict[str, Figure]]:
    """The page as Markdown, and its figures by file name.

    Args:
      study: as from `create_study`.
      metrics: of the final epoch; what is compared, the first of them in the answer at the top. Empty: the accuracy on
        test images, and on augmented ones where all runs are scored on these.
      accuracy: for "time to accuracy"; None: what the final epochs of the weakest variant reach on average.

    Raises:
      UserError: a run has no such metric.
    """
    metrics = metrics or [m for m in _ACCURACIES if all(m in result["final"] for result in study.results)]
    for result in study.results:
        for metric in metrics:
            if metric not in result["final"]:
                known = ", ".join(key for key in result["final"] if "/" in key)
                raise UserError(f"--metrics has {metric!r}: expected some of {known}")
    title, mark, notes = study.question.partition("? ")
    threshold = accuracy or _reached_by_all(study)
    answers, figures, compared = [], {}, []
    for metric in metrics:
        comparisons = compare(study.baseline.values(metric), {v.name: v.values(metric) for v in study.others})
        name = f"differences{'-' + metric.replace('/', '-') if metric != metrics[0] else ''}.png"
        if comparisons:
            figures[name] = plot_differences(comparisons, scale_of(metric), study.baseline.name)
            found = answer(comparisons, scale_of(metric), study.baseline.name)
            answers.append(found if metric == metrics[0] else f"{scale_of(metric).name.capitalize()}: {found}")
        compared.append(_metric_section(study, metric, comparisons, figure=name))
    first = study.baseline.results[0]["epochs"][0]
    figures["curves.png"] = plot_curves(study, metrics[0] if metrics[0] in first else "test/accuracy")
    commands = ((v.name, f"`{v.results[0]['study']['command']}`") for v in study.variants)
    sections = [
        f"# {title}{mark}",
        *answers,
        notes,
        _summary(study),
        *compared,
        "## Learning curves",
        "![Means by epoch, in bands from the lowest to the highest seed](curves.png)",
        f"## Time to {100 * threshold:.2f} % test accuracy",
        _time_table(study, threshold),
        "## Test images that most runs get wrong",
        _missed_section(study),
        "## Commands",
        "One of each; `--config.seed` takes the others.",
        markdown_table(("variant", "command"), commands, text_columns=2),
    ]
    return "\n\n".join(part.strip() for part in sections if part) + "\n", figures


def _metric_section(study: Study, metric: str, comparisons: dict[str, Comparison], *, figure: str) -> str:
    scale, baseline = scale_of(metric), study.baseline.name
    estimates = {variant.name: estimate(list(variant.values(metric).values())) for variant in study.variants}
    parts = [f"## {scale.name.capitalize()} of the final epoch", _means_table(study, estimates, scale)]
    if comparisons:
        parts += [
            f"![Differences to {baseline} with their intervals]({figure})",
            "\n".join(f"- {verdict(name, found, scale, baseline)}" for name, found in comparisons.items()),
            _differences_table(comparisons, scale, baseline),
        ]
    return "\n\n".join(part.strip() for part in parts)


def _reached_by_all(study: Study) -> float:
    means = [float(np.mean(list(variant.values("test/accuracy").values()))) for variant in study.variants]
    return int(1000 * min(means)) / 1000


def _summary(study: Study) -> str:
    first = study.results[0]
    machines = Counter(map(processor, study.results))
    seconds = sum(row["train/seconds"] for r in study.results for row in r["epochs"])
    sizes = sorted({r["config"]["dataset"]["train_examples"] for r in study.results})
    return (
        f"{len(study.results)} runs of {len(study.variants)} variants on {first['dataset']['name']} "
        f"({' or '.join(f'{size:,}' for size in sizes)} training images), trained in {duration(seconds)} on "
        f"{' and on '.join(machines)} with jax {first['versions']['jax']}. Baseline: **{study.baseline.name}**."
    )


def _means_table(study: Study, estimates: dict[str, Estimate], scale: Scale) -> str:
    rows = [
        (
            f"{name} (baseline)" if name == study.baseline.name else name,
            str(value.n),
            scale.text(value.mean) + scale.unit,
            scale.text(value.std) if value.n > 1 else "-",
            scale.interval(value),
        )
        for name, value in estimates.items()
    ]
    return markdown_table(("variant", "seeds", "mean", "standard deviation", "95 % interval of the mean"), rows)


def _differences_table(comparisons: dict[str, Comparison], scale: Scale, baseline: str) -> str:
    rows = [
        (
            name,
            str(c.difference.n),
            scale.text(c.difference.mean, sign=True),
            scale.interval(c.difference, sign=True),
            f"{c.p_value:.2g}" if c.difference.n > 1 else "-",
            f"{c.seeds_needed:,}" if c.seeds_needed else "-",
        )
        for name, c in comparisons.items()
    ]
    header = (
        f"minus {baseline}",
        "pairs",
        f"mean,{scale.difference_unit or ' difference'}",
        "interval",
        "p",
        "seeds to resolve it",
    )
    return (
        f"{markdown_table(header, rows)}\n"
        "Differences are taken within a seed, which both variants share. The intervals are Student's t and hold "
        "together with 95 % confidence, p is that of a paired two-sided t test: both corrected after Bonferroni for "
        f"{len(comparisons)} comparison{'s' * (len(comparisons) > 1)}. The last column is how many seeds such a test "
        f"needs to find a difference of the size seen with probability {POWER:.0%}."
    )


def _time_table(study: Study, threshold: float) -> str:
    comparable = len({(r["cpu"], r["cores"]) for r in study.results}) == 1
    rows = []
    for variant in study.variants:
        epochs, seconds = time_to_accuracy(variant, threshold)
        reached = f"{len(epochs)} of {len(variant.results)}"
        times = (f"{np.median(epochs):g}", f"{np.median(seconds):.1f}") if epochs else ("-", "-")
        rows.append((variant.name, reached, *times[: 1 + comparable]))
    header = ("variant", "runs that reach it", "epochs (median)", "seconds of training (median)")
    return markdown_table(header[: 3 + comparable], rows)


def _missed_section(study: Study) -> str:
    runs = len(study.results)
    counts = Counter(index for result in study.results for index in result["test_errors"])
    by_all, by_most = (sum(count >= least for count in counts.values()) for least in (runs, runs / 2))
    rows = [(str(index), f"{count} of {runs}") for index, count in most_missed(study.results)[:10]]
    return (
        f"Of {study.results[0]['dataset']['test_examples']:,} test images all runs get {by_all} wrong, and at least "
        f"half of the runs {by_most}. By their index, from 0:\n\n"
        + markdown_table(("index", "runs that get it wrong"), rows)
    )
