"""The report of a study: its text, as Markdown, and its plots."""

import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from digits_jax.data import Arrays
from digits_jax.errors import UserError
from digits_jax.pages import code, digits_gallery, escape, markdown_table, to_html
from digits_jax.storage import replace_bytes, replace_text, write_error
from digits_jax.studies.report.plots import plot_curves, plot_differences
from digits_jax.studies.report.statistics import (
    POWER,
    Comparison,
    Estimate,
    compare_to_baseline,
    estimate,
    estimate_over_images,
)
from digits_jax.studies.report.study import (
    Scale,
    Study,
    describe_diverged,
    processor,
    scale_of,
    training_images,
    training_time,
)
from digits_jax.studies.results import Result

_ACCURACIES = ("test/accuracy", "test_augmented/accuracy", "validation/accuracy")
_NAMED = 3  # variants of a kind that the answer names
Plots = dict[str, Callable[[], Figure]]  # by file name


def build_page(study: Study, *, metrics: Sequence[str] = (), accuracy: float | None = None) -> tuple[str, Plots]:
    """Returns the page as Markdown, and functions that draw its plots; raises a UserError if a run lacks a metric.

    It compares `metrics` of the final epoch, by default those of the accuracies on test images, augmented test images
    and held-out images that all runs have; the answer at the top is about the first. `accuracy` is that of "time to
    accuracy", by default the lowest mean final accuracy of a variant.
    """
    metrics = metrics or [m for m in _ACCURACIES if all(m in result["final"] for result in study.results)]
    for result in study.results:
        for metric in metrics:
            if metric not in result["final"]:
                known = ", ".join(key for key in result["final"] if "/" in key)
                raise UserError(f"--metrics has {metric!r}: expected some of {known}")
    title, mark, notes = study.sweep.question.partition("? ")
    answers: list[str] = []
    compared: list[str] = []
    plots = Plots()
    baseline = study.baseline.name
    for metric in metrics:
        log_odds = study.log_odds(metric)
        scale, others = scale_of(metric, log_odds=log_odds), {v.name: study.scores(v, metric) for v in study.others}
        comparisons = compare_to_baseline(study.scores(study.baseline, metric), others, log_odds=log_odds)
        name = f"differences{'-' + metric.replace('/', '-') if metric != metrics[0] else ''}.png"
        if comparisons:
            plots[name] = partial(plot_differences, comparisons, scale, baseline)
            found = answer(comparisons, scale, baseline)
            answers.append(found if metric == metrics[0] else f"{scale.name.capitalize()}: {found}")
        compared += _comparison(study, metric, comparisons, plot=name)
    first = [(v.name, v.results[0]["config"]["seed"]) for v in study.variants]
    commands = [(escape(name), code(study.sweep.command(name, seed))) for name, seed in first]
    plots["curves.png"] = partial(plot_curves, study, study.each_epoch(metrics[0]))
    sections = [
        f"# {escape(title)}{mark}",
        *answers,
        describe_diverged(study.diverged, study.results),
        escape(notes),
        _summary(study),
        *compared,
        "## Learning curves",
        "![Mean over seeds by epoch; bands span the lowest to the highest seed](curves.png)",
        *_time_to_accuracy(study, accuracy),
        *_misclassified(study),
        "## Commands",
        "One command per variant; `--config.seed` selects the other seeds.",
        markdown_table(("variant", "command"), commands, text_columns=2),
    ]
    return "\n\n".join(part.strip() for part in sections if part) + "\n", plots


def answer(comparisons: dict[str, Comparison], scale: Scale, baseline: str) -> str:
    """Returns all comparisons in a few sentences, the largest differences first."""
    found: dict[str, list[tuple[str, Estimate]]] = defaultdict(list)
    for name, comparison in comparisons.items():
        kind = "better" if (comparison.over_seeds.mean > 0) == scale.higher_is_better else "worse"
        if comparison.resolved:
            found[kind].append((name, comparison.widest))
        elif comparison.over_seeds.excludes_zero:
            found[f"{kind} on these images"].append((name, comparison.over_seeds))
        else:
            found[""].append((name, comparison.widest))
    than, unresolved = f"**{escape(baseline)}**", found.pop("", [])
    sentences = []
    for kind, before, after in (
        ("better", "", f"better than {than}"),
        ("worse", "", f"worse than {than}"),
        ("better on these images", "On these images, if not on others, ", "better"),
        ("worse on these images", "On these images, if not on others, ", "worse"),
    ):
        if group := found.get(kind):
            sentences.append(f"{before}{_listed(group, scale)} {'is' if len(group) == 1 else 'are'} {after}.")
    if unresolved:
        seeds = min(difference.n for _, difference in unresolved)
        with_seeds = f"with {seeds} seed{'s' * (seeds != 1)}"
        sentences.append(f"Not distinguishable from {than} {with_seeds}: {_listed(unresolved, scale)}.")
    return " ".join(sentences)


def _listed(found: list[tuple[str, Estimate]], scale: Scale) -> str:
    found = sorted(found, key=lambda item: -abs(item[1].mean))
    named = [f"**{escape(name)}** ({_difference(d, scale)}, {scale.interval(d, sign=True)})" for name, d in found]
    shown = named[:_NAMED] + ([f"{len(named) - _NAMED} more"] if len(named) > _NAMED else [])
    return " and ".join([", ".join(shown[:-1]), shown[-1]]) if len(shown) > 1 else shown[0]


def _difference(difference: Estimate, scale: Scale) -> str:
    return scale.text(difference.mean, sign=True) + scale.difference_unit


def verdict(name: str, comparison: Comparison, scale: Scale, baseline: str) -> str:
    """Returns one comparison in words."""
    over_seeds, over_images, name, baseline = *comparison[:2], escape(name), escape(baseline)
    seeds = f"{over_seeds.n} seed{'s' * (over_seeds.n != 1)}"
    if over_seeds.n < 2:
        return f"**{name}**: {seeds} in common with {baseline}, at least 2 are needed to compare them."
    intervals = scale.interval(over_seeds, sign=True)
    if over_images:
        intervals += f" on these images, {scale.interval(over_images, sign=True)} on others"
    text = f"**{name}**: {_difference(over_seeds, scale)} ({intervals}), "
    side = "above" if over_seeds.mean > 0 else "below"
    if comparison.resolved:
        return text + f"{side} {baseline}."
    if over_seeds.excludes_zero:
        return text + f"{side} {baseline} on these images only."
    smallest = scale.text(comparison.smallest) + scale.difference_unit
    return text + f"not distinguishable from {baseline}: {seeds} resolve {smallest}."


def _summary(study: Study) -> str:
    first = study.results[0]
    datasets = " or ".join(dict.fromkeys(escape(result["dataset"]["name"]) for result in study.results))
    machines = " and on ".join(escape(machine) for machine in dict.fromkeys(map(processor, study.results)))
    return (
        f"{len(study.results)} runs of {len(study.variants)} variants on {datasets} "
        f"({training_images(study.results)} training images), trained in {training_time(study.results)} "
        f"on {machines} with jax {escape(first['versions']['jax'])}. Baseline: **{escape(study.baseline.name)}**."
    )


def _comparison(study: Study, metric: str, comparisons: dict[str, Comparison], *, plot: str) -> Iterator[str]:
    scale, baseline = scale_of(metric), study.baseline.name
    yield f"## {scale.name.capitalize()} of the final epoch"
    rows: list[tuple[str, ...]] = []
    for variant in study.variants:
        scores = study.scores(variant, metric)
        value = estimate(list(scores.values.values()))
        name = escape(variant.name) + (" (baseline)" if variant is study.baseline else "")
        cells = [str(value.n), scale.text(value.mean) + scale.unit, scale.text(value.std) if value.n > 1 else "-"]
        cells += [scale.interval(value), scale.interval(estimate_over_images(scores)) if scores.wrong else "-"]
        rows.append((name, *cells))
    header = ("variant", "seeds", "mean", "standard deviation", "95% CI over seeds", "over seeds and images")
    yield markdown_table(header, rows)
    if not comparisons:
        return
    scale = scale_of(metric, log_odds=study.log_odds(metric))
    yield f"![Differences to {escape(baseline)} with their confidence intervals]({plot})"
    yield "\n".join(f"- {verdict(name, found, scale, baseline)}" for name, found in comparisons.items())
    rows = []
    for name, found in comparisons.items():
        difference = found.over_seeds
        cells = [str(difference.n), scale.text(difference.mean, sign=True), scale.interval(difference, sign=True)]
        cells.append(scale.interval(found.over_images, sign=True) if found.over_images else "-")
        numbers = [f"{found.widest.p_value:.2g}", f"{found.correlation:.2f}", scale.text(found.smallest)]
        rows.append((escape(name), *cells, *(numbers if difference.n > 1 else "---")))
    unit = scale.difference_unit or " difference"
    columns = (
        f"minus {escape(baseline)}", "pairs", f"mean,{unit}", "CI over seeds", "over seeds and images", "p-value",
        "correlation", f"resolved,{unit}",
    )  # fmt: skip
    odds = "Differences are of log(p / (1 - p)), because an accuracy p is below 95%. " * study.log_odds(metric)
    yield (
        f"{markdown_table(columns, rows)}\n{odds}"
        "Differences are paired by seed; the correlation is that of the paired values. Intervals over seeds hold for "
        "these images, those over seeds and images for others of the same kind; the p-value is of the wider one. All "
        f"are Bonferroni-corrected for {len(comparisons)} comparison{'s' * (len(comparisons) > 1)}, to hold together "
        "with 95% confidence. The last column is the difference that as many seeds find on these images with "
        f"probability {POWER:.0%}."
    )


def _time_to_accuracy(study: Study, threshold: float | None) -> Iterator[str]:
    metric = study.each_epoch()
    means = [estimate([r["epochs"][-1][metric] for r in variant.results]).mean for variant in study.variants]
    threshold = threshold or int(1000 * min(means)) / 1000
    comparable = len({(r["cpu"], r["cores"]) for r in study.results}) == 1
    rows = []
    for variant in study.variants:
        epochs, seconds = [], []
        for run in variant.results:
            at = next((n for n, row in enumerate(run["epochs"], 1) if row[metric] >= threshold), None)
            if at:
                epochs.append(at)
                seconds.append(sum(row["train/seconds"] for row in run["epochs"][:at]))
        reached = f"{len(epochs)} of {len(variant.results)}"
        times = (f"{np.median(epochs):g}", f"{np.median(seconds):.1f}") if epochs else ("-", "-")
        rows.append((escape(variant.name), reached, *times[: 1 + comparable]))
    header = ("variant", "runs that reach it", "epochs (median)", "seconds of training (median)")
    yield f"## Time to {100 * threshold:.2f}% {scale_of(metric).name}"
    yield markdown_table(header[: 3 + comparable], rows)


def _misclassified(study: Study) -> Iterator[str]:
    images, runs, counts = study.images(study.split), len(study.results), misclassified(study.results, study.split)
    by_all, by_half = (sum(count >= least for _, count in counts) for least in (runs, runs / 2))
    yield f"## {study.split.capitalize()} images that most runs misclassify"
    if not images:
        yield f"The runs have different {study.split} images, so that the misclassified ones cannot be compared."
        return
    shares = f"{by_all} are misclassified by all runs and {by_half} by at least half of them"
    yield f"Of {images[-1]:,} {study.split} images, {shares}. By index, from 0:"
    yield markdown_table(("index", "misclassified by"), ((str(i), f"{count} of {runs}") for i, count in counts[:10]))


def misclassified(results: Sequence[Result], split: str) -> list[tuple[int, int]]:
    """Returns the images of a split that runs misclassify: (index, number of runs), the most frequent first."""
    counts = Counter(index for result in results for index in result[f"{split}_errors"])
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def write_page(folder: Path, markdown: str, plots: Mapping[str, Callable[[], Figure]], *, appendix: str = "") -> None:
    """Writes `report.md`, its plots, and `report.html`, which contains them; raises a UserError if it cannot."""
    images = {}
    for name, draw in plots.items():
        file = io.BytesIO()
        draw().savefig(file, format="png")
        images[name] = file.getvalue()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace_text(folder / "report.md", markdown)
        replace_text(folder / "report.html", to_html(markdown, images, appendix=appendix))
        for name, data in images.items():
            replace_bytes(folder / name, data)
    except OSError as error:
        raise UserError(f"{write_error(folder, error)}: give another --page") from None


def gallery(results: Sequence[Result], test_set: Arrays) -> str:
    """Returns HTML with pictures of the test images that most runs misclassify."""
    images, labels, runs = test_set.test_images, test_set.test_labels, len(results)
    counts = misclassified(results, "test")[:24]
    pictures = [(images[index], f"{index}: a {labels[index]}<br>{count} of {runs}") for index, count in counts]
    return digits_gallery("Test images that most runs misclassify", pictures)
