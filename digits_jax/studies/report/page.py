"""The report of a study: its text, as Markdown, and its plots."""

import io
from collections import Counter
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
from digits_jax.studies.report.statistics import MAX_SEEDS, POWER, Comparison, Estimate, compare_to_baseline, estimate
from digits_jax.studies.report.study import Scale, Study, processor, scale_of, training_images, training_time
from digits_jax.studies.results import Result

_ACCURACIES = ("test/accuracy", "test_augmented/accuracy")
_NAMED = 3  # variants of a kind that the answer names
Plots = dict[str, Callable[[], Figure]]  # by file name


def build_page(study: Study, *, metrics: Sequence[str] = (), accuracy: float | None = None) -> tuple[str, Plots]:
    """Returns the page as Markdown, and functions that draw its plots; raises a UserError if a run lacks a metric.

    It compares `metrics` of the final epoch, by default the accuracy on test images, and on augmented ones if all runs
    have it; the answer at the top is about the first. `accuracy` is that of "time to accuracy", by default the lowest
    mean final accuracy of a variant.
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
        scale, others = scale_of(metric), {variant.name: variant.values(metric) for variant in study.others}
        comparisons = compare_to_baseline(study.baseline.values(metric), others)
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
    """Returns all comparisons in one line, the largest differences first."""
    found: dict[str, list[tuple[str, Estimate]]] = {"better": [], "worse": [], "": []}
    for name, comparison in comparisons.items():
        better = (comparison.difference.mean > 0) == scale.higher_is_better
        kind = ("better" if better else "worse") if comparison.resolved else ""
        found[kind].append((name, comparison.difference))
    unresolved = found.pop("")
    than = f"**{escape(baseline)}**"
    sentences = [
        f"{_listed(group, scale)} {'is' if len(group) == 1 else 'are'} {kind} than {than}."
        for kind, group in found.items() if group
    ]  # fmt: skip
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
    difference, name, baseline = comparison.difference, escape(name), escape(baseline)
    seeds = f"{difference.n} seed{'s' * (difference.n != 1)}"
    if difference.n < 2:
        return f"**{name}**: {seeds} in common with {baseline}, at least 2 are needed to compare them."
    text = f"**{name}**: {_difference(difference, scale)} ({scale.interval(difference, sign=True)}), "
    if comparison.resolved:
        return text + f"{'above' if difference.mean > 0 else 'below'} {baseline}."
    needed = f"about {comparison.seeds_needed:,}" if comparison.seeds_needed else f"more than {MAX_SEEDS:,}"
    return text + f"not distinguishable from {baseline} with {seeds}; a difference of this size needs {needed}."


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
        value = estimate(list(variant.values(metric).values()))
        name = escape(variant.name) + (" (baseline)" if variant is study.baseline else "")
        std = scale.text(value.std) if value.n > 1 else "-"
        rows.append((name, str(value.n), scale.text(value.mean) + scale.unit, std, scale.interval(value)))
    yield markdown_table(("variant", "seeds", "mean", "standard deviation", "95% confidence interval"), rows)
    if not comparisons:
        return
    yield f"![Differences to {escape(baseline)} with their confidence intervals]({plot})"
    yield "\n".join(f"- {verdict(name, found, scale, baseline)}" for name, found in comparisons.items())
    rows = []
    for name, (difference, p_value, needed) in comparisons.items():
        p_text, interval = f"{p_value:.2g}" if difference.n > 1 else "-", scale.interval(difference, sign=True)
        cells = (str(difference.n), scale.text(difference.mean, sign=True), interval, p_text)
        rows.append((escape(name), *cells, f"{needed:,}" if needed else "-"))
    unit = scale.difference_unit or " difference"
    header = (f"minus {escape(baseline)}", "pairs", f"mean,{unit}", "confidence interval", "p-value", "seeds needed")
    yield (
        f"{markdown_table(header, rows)}\n"
        "Differences are paired by seed. The intervals are Student's t and hold simultaneously with 95% confidence, "
        "p-values are those of a paired two-sided t-test; both are Bonferroni-corrected for "
        f"{len(comparisons)} comparison{'s' * (len(comparisons) > 1)}. The last column is the number of seeds with "
        f"which such a test detects a difference of the observed size with probability {POWER:.0%}."
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
    runs, counts = len(study.results), misclassified(study.results)
    by_all, by_half = (sum(count >= least for _, count in counts) for least in (runs, runs / 2))
    yield "## Test images that most runs misclassify"
    if not study.test_set:
        yield "The runs have different test sets, so that their misclassified images cannot be compared."
        return
    images = f"{study.results[0]['dataset']['test_examples']:,} test images"
    shares = f"{by_all} are misclassified by all runs and {by_half} by at least half of them"
    yield f"Of {images}, {shares}. By index, from 0:"
    yield markdown_table(("index", "misclassified by"), ((str(i), f"{count} of {runs}") for i, count in counts[:10]))


def misclassified(results: Sequence[Result]) -> list[tuple[int, int]]:
    """Returns the test images that runs misclassify: (index, number of runs), the most frequent first."""
    counts = Counter(index for result in results for index in result["test_errors"])
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
    counts = misclassified(results)[:24]
    pictures = [(images[index], f"{index}: a {labels[index]}<br>{count} of {runs}") for index, count in counts]
    return digits_gallery("Test images that most runs misclassify", pictures)
