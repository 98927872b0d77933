"""The tables and plots of `docs/reproduction.md`."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from digits_jax.errors import UserError
from digits_jax.pages import markdown_table
from digits_jax.studies.report.plots import format_curves
from digits_jax.studies.report.statistics import Scores, compare, estimate, estimate_over_images
from digits_jax.studies.report.study import describe, describe_diverged, read_study, read_variants, scale_of, scores_of
from digits_jax.studies.reproduce import post_log
from digits_jax.studies.reproduce.post_log import EXPERIMENTS, METRICS, VALIDATION, inside, numbers_of
from digits_jax.studies.results import Result

PROTOCOLS = ("as logged", "as stated", "Glorot")  # of `configs/sweeps/reproduction.py`, after the experiment's name
_ACCURACY = scale_of("test/accuracy")
_LOGGED, _STATED, _OUTSIDE = "#0072B2", "#999999", "#D55E00"  # Okabe & Ito 2008

# The post's conclusions as differences of test accuracies: the experiment and epoch (0: the last) of either side.
_CONCLUSIONS = (
    ("augmentation, linear model", ("linear_augmented", 0), ("linear", 0)),
    ("augmentation, network", ("vgg_augmented", 0), ("vgg", 0)),
    ("dropout", ("dropout", 0), ("vgg", 0)),
    ("batch normalization and one dropout, 11 epochs", ("bn_dropout", 11), ("vgg", 11)),
    ("five more epochs of `bn_dropout`", ("bn_dropout", 16), ("bn_dropout", 11)),
)


class Data(NamedTuple):
    post: dict[str, np.ndarray]  # the printed numbers by experiment, `[epochs, 4]`
    reasons: dict[tuple[str, str, str], str]  # why one lies outside, by experiment, epoch and metric
    results: dict[str, list[Result]]  # by variant, such as "vgg, as logged"
    causes: dict[str, list[Result]]
    diverged: list[Result]

    def runs(self, name: str, protocol: str, validation: Sequence[str] = VALIDATION) -> np.ndarray:
        """Returns the numbers of the runs of an experiment, `[runs, epochs, 4]`; empty if there are none."""
        return np.array([numbers_of(r, validation) for r in self.results.get(f"{name}, {protocol}", [])])

    def hits(self, name: str, protocol: str = "as logged", validation: Sequence[str] = VALIDATION) -> np.ndarray:
        """Returns which of the post's numbers lie in the interval of the runs, bool `[epochs, 4]`."""
        return inside(self.post[name], self.runs(name, protocol, validation))

    def scores(self, variant: str, epoch: int) -> Scores:
        """Returns the test accuracy after an epoch; the misclassified images are known of the last one, epoch 0."""
        results = self.results.get(variant, [])
        if epoch == 0:
            return scores_of(results, "test/accuracy")
        return Scores({r["config"]["seed"]: r["epochs"][epoch - 1]["test/accuracy"] for r in results})


def read_data(docs: Path) -> Data:
    """Reads the results, the post's log, and the reasons for what lies outside.

    Raises a UserError if a file cannot be read, or a variant has fewer than two runs.
    """
    folder = docs / "reproduction"
    study, causes = read_study(folder), read_variants(docs / "reproduction_causes")
    results = study.by_variant()
    for variant in (f"{name}, {protocol}" for name in EXPERIMENTS for protocol in PROTOCOLS[:2]):
        if len(results.get(variant, [])) < 2:
            raise UserError(f"{folder} has fewer than 2 runs of {variant!r}: run the sweep's others first")
    outliers = post_log.read_table(folder / "outliers.csv", ("experiment", "epoch", "metric", "why"))
    reasons = {(name, epoch, metric): why for name, epoch, metric, why in outliers}
    return Data(post_log.read_post_log(folder / "post_log.csv"), reasons, results, causes, study.diverged)


def sections(data: Data) -> dict[str, str]:
    """Returns the generated sections of the page."""
    results = [result for runs in data.results.values() for result in runs]
    return {
        "runs": f"{describe(results)} {describe_diverged(data.diverged, results)}",
        "score": _score_table(data),
        "levels": _levels_table(data),
        "outliers": _outliers_table(data),
        "causes": _causes_table(data),
        "validation": _validation_table(data),
        "conclusions": _conclusions_table(data),
        "schedule": _schedule_table(data),
        "as stated": headline_table(data, "as stated"),
        "as logged": headline_table(data, "as logged"),
        **{f"numbers {name}": _numbers_table(data, name) for name in EXPERIMENTS},
    }


def readme_section(data: Data) -> str:
    """Returns the results in the README."""
    stated, logged = (
        np.concatenate([data.hits(name, protocol) for name in EXPERIMENTS]) for protocol in ("as stated", "as logged")
    )
    shown = [run for name in EXPERIMENTS for run in data.results[f"{name}, as stated"]]
    diverged = [run for run in data.diverged if run["variant"].endswith(", as stated")]
    return (
        f"{headline_table(data, 'as stated', selection=False)}\n{describe_diverged(diverged, shown)}\n\n"
        f"These runs train as the post's text says; {stated.sum()} of its {stated.size} printed numbers fall inside "
        f"their 99% prediction intervals. The post's code did something else, and so does `:as_logged`: {logged.sum()} "
        "numbers fall inside the intervals of those runs."
    )


def _score_table(data: Data) -> str:
    """Returns how many of the post's numbers lie in the interval of each protocol's runs."""
    totals = np.zeros((len(PROTOCOLS), 2), int)
    all_own: list[bool] = []
    rows = []
    for name in EXPERIMENTS:
        cells = []
        for total, protocol in zip(totals, PROTOCOLS, strict=True):
            cells.append("")
            if (runs := len(data.runs(name, protocol))) > 1:
                hits = data.hits(name, protocol)
                total += hits.sum(), hits.size
                cells[-1] = f"{hits.sum()} of {hits.size} ({runs} runs)"
        logged = data.runs(name, "as logged")
        own = np.ravel(list(post_log.inside_without_each(logged))).tolist() if len(logged) > 2 else []
        all_own += own
        rows.append((f"`{name}`", *cells, f"{np.mean(own):.1%}" if own else ""))
    parts = [f"**{hits} of {size}** ({hits / size:.0%})" if size else "" for hits, size in totals]
    rows.append(("all", *parts, f"{np.mean(all_own):.1%}" if all_own else ""))
    header = ("experiment", "as logged", "as stated", "as logged, true Glorot", "each of our runs among the others")
    return markdown_table(header, rows)


def _levels_table(data: Data) -> str:
    """Returns how many of the post's numbers lie in narrower intervals, and in those of each epoch's own variance."""
    rows = []
    for confidence in (0.5, 0.8, 0.9, 0.95, 0.99):
        cells = []
        for pooled in (True, False):
            hits, own = [], []
            for name in EXPERIMENTS:
                runs = data.runs(name, "as logged")
                hits.append(inside(data.post[name], runs, confidence=confidence, pooled=pooled).mean())
                each = post_log.inside_without_each(runs, confidence=confidence, pooled=pooled)
                own.append(np.mean(list(each)))
            sizes = [data.post[name].size for name in EXPERIMENTS]
            cells += [f"{np.dot(hits, sizes):.0f} ({np.average(hits, weights=sizes):.0%})"]
            cells += [f"{np.average(own, weights=sizes):.0%}"]
        rows.append((f"{confidence:.0%}", *cells))
    header = ("interval", "of the post's numbers", "of our own", "not averaged: of the post's", "of our own")
    return markdown_table(header, rows)


def _numbers_table(data: Data, name: str) -> str:
    """Returns every printed number, the mean and range as logged and the mean as stated."""
    logged, stated = (data.runs(name, protocol) for protocol in PROTOCOLS[:2])
    within, rows = data.hits(name), []
    for epoch, printed in enumerate(data.post[name]):
        row = [str(epoch + 1)]
        for column, number in enumerate(printed):
            ours = logged[:, epoch, column]
            row += [
                f"{number:.4f}" if within[epoch, column] else f"**{number:.4f}**",
                f"{ours.mean():.4f} ({ours.min():.4f} to {ours.max():.4f})",
                f"{stated[:, epoch, column].mean():.4f}",
            ]
        rows.append(row)
    columns = (column for metric in METRICS for column in (f"{metric}: post", "as logged", "as stated"))
    return markdown_table(("epoch", *columns), rows)


def _outliers_table(data: Data) -> str:
    """Returns the post's numbers outside the interval as logged, each with its reason."""
    rows = []
    for name in EXPERIMENTS:
        for epoch, column in np.argwhere(~data.hits(name)):
            ours, metric = data.runs(name, "as logged")[:, epoch, column], METRICS[column]
            rows.append((
                f"`{name}`", f"{metric}, epoch {epoch + 1}", data.reasons.get((name, str(epoch + 1), metric), "open"),
                f"{data.post[name][epoch, column]:.4f}", f"{ours.min():.4f} to {ours.max():.4f}",
            ))  # fmt: skip
    return markdown_table(("experiment", "number", "why", "post", "our runs"), rows, text_columns=3)


def _conclusions_table(data: Data) -> str:
    """Returns the post's conclusions, as paired differences over the seeds that both sides have."""
    rows = []
    for question, (a, a_epoch), (b, b_epoch) in _CONCLUSIONS:
        sides = (((f"{a}, {p}", a_epoch), (f"{b}, {p}", b_epoch)) for p in PROTOCOLS[:2])
        rows.append((question, *(_difference(data, *side, num_comparisons=len(_CONCLUSIONS)) for side in sides)))
    return markdown_table(("points of test accuracy", "as logged", "as stated"), rows)


def _schedule_table(data: Data) -> str:
    """Returns the stated learning rates against the constant one, from the same initial weights."""
    rows = []
    for name in EXPERIMENTS:
        constant = f"{name}, Glorot" if f"{name}, Glorot" in data.results else f"{name}, as logged"
        sides = ((f"{name}, as stated", 0), (constant, 0))
        rows.append((f"`{name}`", _difference(data, *sides, num_comparisons=len(EXPERIMENTS))))
    return markdown_table(("config", "stated rates minus a constant 0.01, points"), rows)


def _difference(data: Data, a: tuple[str, int], b: tuple[str, int], *, num_comparisons: int) -> str:
    comparison = compare(data.scores(*a), data.scores(*b), num_comparisons=num_comparisons)
    difference = comparison.over_seeds
    if difference.n < 2:
        return ""
    mean, over_seeds = _ACCURACY.text(difference.mean, sign=True), _ACCURACY.interval(difference, sign=True)
    both = comparison.over_images
    over_images = f"; {_ACCURACY.interval(both, sign=True)}" if both else ""
    text = f"{mean} ({over_seeds}{over_images}), {difference.n} pairs"
    return f"**{text}**" if comparison.resolved else text


def _causes_table(data: Data) -> str:
    """Returns, for each suspected cause, how many of the first numbers lie in the interval with and without it."""
    rows = []
    for variant, results in data.causes.items():
        name, _, change = variant.partition(", ")
        if len(results) < 2:
            continue
        runs = np.array([numbers_of(result) for result in results])
        epochs = runs.shape[1]
        logged, post = data.runs(name, "as logged")[: len(runs), :epochs], data.post[name]
        hits = [(inside(post[:epochs], values).sum(), len(values)) for values in (logged, runs)]
        counts = (f"{found} of {4 * epochs} ({num_runs} runs)" for found, num_runs in hits)
        first = (post[0], logged[:, 0].mean(0), runs[:, 0].mean(0))
        cells = (" / ".join(f"{value:.4f}" for value in values) for values in first)
        rows.append((f"`{name}`", change, str(epochs), *counts, *cells))
    numbers = ("inside, as logged", "inside, changed", "first epoch: post", "as logged", "changed")
    return markdown_table(("experiment", "change", "epochs", *numbers), rows, text_columns=2)


def _validation_table(data: Data) -> str:
    """Returns how many of the validation numbers lie in the interval of the same runs, validated on other images."""
    rows = []
    for name in EXPERIMENTS:
        hits = [data.hits(name, validation=VALIDATION[first:])[:, 2:] for first in range(len(VALIDATION))]
        rows.append((f"`{name}`", *(f"{found.sum()} of {found.size}" for found in hits)))
    header = ("validation numbers inside", "a stream of test images", "each image once", "each once, not augmented")
    return markdown_table(header, rows)


def headline_table(data: Data, protocol: str, *, selection: bool = True) -> str:
    """Returns the final test accuracy; with `selection`, also that of the best epoch, and what choosing it adds."""
    rows = []
    for name, description in EXPERIMENTS.items():
        runs = data.results[f"{name}, {protocol}"]
        final, best = ([run[which]["test/accuracy"] for run in runs] for which in ("final", "best"))
        gain = estimate([b - f for b, f in zip(best, final, strict=True)])
        cells = [f"{_ACCURACY.text(e.mean)} ± {_ACCURACY.text(e.std)}%" for e in map(estimate, (final, best))]
        cells.insert(1, _ACCURACY.interval(estimate_over_images(scores_of(runs, "test/accuracy"))))
        cells.append(f"{_ACCURACY.text(gain.mean, sign=True)} points")
        rows.append((f"`{name}`", description, str(len(runs)), *cells[: 4 if selection else 2]))
    header = (
        "config", "model", "seeds", "final test accuracy", "95% CI", "best epoch by test accuracy", "gain by selection"
    )  # fmt: skip
    return markdown_table(header[: 7 if selection else 5], rows, text_columns=2)


def plot_experiment(data: Data, name: str) -> Figure:
    """Draws four panels by epoch: prediction interval and mean as logged, mean as stated, the post's numbers."""
    logged, stated = (data.runs(name, protocol) for protocol in PROTOCOLS[:2])
    post, within, mean = data.post[name], data.hits(name), stated.mean(0)
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    figure.suptitle(name)
    epochs = np.arange(1, len(post) + 1)
    low, high = (post_log.from_normal_scale(limit) for limit in post_log.interval(logged))
    for column, axes in enumerate(figure.subplots(2, 2).ravel()):
        ours, good = logged[..., column], within[:, column]
        label = "99% prediction interval"
        axes.fill_between(epochs, low[:, column], high[:, column], color=_LOGGED, alpha=0.2, linewidth=0, label=label)
        axes.plot(epochs, ours.mean(0), color=_LOGGED, linewidth=1, label=f"as logged, mean of {len(logged)} runs")
        axes.plot(epochs, mean[:, column], "--", color=_STATED, label=f"as stated, mean of {len(stated)} runs")
        axes.plot(epochs[good], post[good, column], "o", color="black", markersize=4.5, label="the post")
        if not good.all():
            label = "the post, outside the interval"
            axes.plot(epochs[~good], post[~good, column], "X", color=_OUTSIDE, markersize=8, label=label)
        format_curves(axes, METRICS[column], np.concatenate([ours.ravel(), post[:, column], mean[:, column]]).tolist())
        axes.legend(fontsize=8)
    return figure
