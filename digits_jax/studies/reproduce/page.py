"""The tables of `docs/reproduction.md`: what `reproduce.py` writes down."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from digits_jax.pages import markdown_table
from digits_jax.studies.report.statistics import Estimate, estimate
from digits_jax.studies.report.study import scale_of
from digits_jax.studies.reproduce.post_log import (
    EXPERIMENTS,
    FIGURES,
    VALIDATION,
    figures_of,
    inside,
    inside_without_each,
)

PROTOCOLS = ("as logged", "as stated", "Glorot")  # of `configs/sweeps/reproduction.py`, after the experiment's name
Results = Mapping[str, list[dict[str, Any]]]  # by variant, such as "vgg, as logged"

_ACCURACY = scale_of("test/accuracy")


# What the post concludes, as differences of test accuracies: the question, and the experiment and epoch (0: the last)
# of either side.
_COMPARED = (
    ("augmentation, linear model", ("linear_augmented", 0), ("linear", 0)),
    ("augmentation, network", ("vgg_augmented", 0), ("vgg", 0)),
    ("dropout against none", ("dropout", 0), ("vgg", 0)),
    ("batch normalisation and one dropout against neither, 11 epochs", ("bn_dropout", 11), ("vgg", 11)),
    ("five more epochs of `bn_dropout`", ("bn_dropout", 16), ("bn_dropout", 11)),
)


def runs_of(results: Results, variant: str, *, validation: Sequence[str] = VALIDATION) -> np.ndarray:
    """The figures of a variant's runs, `[runs, epochs, 4]`; no runs where it has none yet."""
    return np.array([figures_of(result, validation=validation) for result in results.get(variant, [])])


def score_table(post: Mapping[str, np.ndarray], results: Results) -> str:
    """By experiment, how many of the post's figures lie in the interval of each protocol's runs."""
    totals = np.zeros((len(PROTOCOLS), 2), int)
    own_totals = np.zeros(2, int)
    rows = []
    for name in EXPERIMENTS:
        cells = []
        for total, protocol in zip(totals, PROTOCOLS, strict=True):
            runs = runs_of(results, f"{name}, {protocol}")
            if len(runs) < 2:
                cells.append("")
                continue
            hits = inside(post[name], runs)
            total += hits.sum(), hits.size
            cells.append(f"{hits.sum()} of {hits.size} ({len(runs)} runs)")
        logged = runs_of(results, f"{name}, as logged")
        own = np.array(list(inside_without_each(list(logged)))) if len(logged) > 2 else np.zeros((0,))
        own_totals += int(own.sum()), own.size
        rows.append((f"`{name}`", *cells, f"{own.mean():.1%}" if own.size else ""))
    parts = [f"**{hits} of {size}** ({hits / size:.0%})" if size else "" for hits, size in totals]
    rows.append(("all", *parts, f"{own_totals[0] / own_totals[1]:.1%}" if own_totals[1] else ""))
    header = ("experiment", "as logged", "as stated", "as logged, true Glorot", "each of our runs among the others")
    return markdown_table(header, rows)


def score_in_words(post: Mapping[str, np.ndarray], results: Results) -> str:
    """How many of the post's figures lie in the interval of the runs as logged."""
    hits = np.concatenate([inside(post[name], runs_of(results, f"{name}, as logged")) for name in EXPERIMENTS])
    return f"{hits.sum()} of the {hits.size} figures in the post's log lie where independent runs of it put them."


def figures_table(post: np.ndarray, logged: np.ndarray, stated: np.ndarray) -> str:
    """Every printed figure, beside the mean and range as logged and the mean as stated."""
    header = ["epoch"]
    for name in FIGURES:
        header += [f"{name}: post", "as logged", "as stated"]
    within, rows = inside(post, logged), []
    for epoch, printed in enumerate(post):
        row = [str(epoch + 1)]
        for column in range(len(FIGURES)):
            ours = logged[:, epoch, column]
            text = f"{printed[column]:.4f}"
            row += [
                text if within[epoch, column] else f"**{text}**",
                f"{ours.mean():.4f} ({ours.min():.4f} to {ours.max():.4f})",
                f"{stated[:, epoch, column].mean():.4f}",
            ]
        rows.append(row)
    return markdown_table(header, rows)


def outliers_table(
    post: Mapping[str, np.ndarray], results: Results, reasons: Mapping[tuple[str, int, str], str]
) -> str:
    """The post's figures outside the interval as logged, each with its reason."""
    rows = []
    for name in EXPERIMENTS:
        logged = runs_of(results, f"{name}, as logged")
        for epoch, column in np.argwhere(~inside(post[name], logged)):
            ours, figure = logged[:, epoch, column], FIGURES[column]
            rows.append((
                f"`{name}`", f"{figure}, epoch {epoch + 1}",
                reasons.get((name, int(epoch) + 1, figure), "open"),
                f"{post[name][epoch, column]:.4f}", f"{ours.min():.4f} to {ours.max():.4f}",
            ))  # fmt: skip
    return markdown_table(("experiment", "figure", "why", "post", "our runs"), rows, text_columns=3)


def conclusions_table(results: Results) -> str:
    """What the post concludes, as paired differences over the seeds that both sides have."""
    rows = []
    for question, (a, a_epoch), (b, b_epoch) in _COMPARED:
        cells = [
            _difference(results, (f"{a}, {protocol}", a_epoch), (f"{b}, {protocol}", b_epoch))
            for protocol in PROTOCOLS[:2]
        ]
        rows.append((question, *cells))
    return markdown_table(("points of test accuracy", "as logged", "as stated"), rows)


def schedule_table(results: Results) -> str:
    """The stated learning rates against the constant one, from the same initial weights."""
    rows = []
    for name in EXPERIMENTS:
        constant = f"{name}, Glorot" if f"{name}, Glorot" in results else f"{name}, as logged"
        rows.append((f"`{name}`", _difference(results, (f"{name}, as stated", 0), (constant, 0))))
    return markdown_table(("config", "stated rates minus a constant 0.01, points"), rows)


def _difference(results: Results, a: tuple[str, int], b: tuple[str, int]) -> str:
    ours, theirs = (_accuracies(results, *side) for side in (a, b))
    difference = estimate([ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())])
    if difference.n < 2:
        return ""
    mean, interval = _ACCURACY.text(difference.mean, sign=True), _ACCURACY.interval(difference, sign=True)
    text = f"{mean} ({interval}), {difference.n} pairs"
    return f"**{text}**" if difference.low > 0 or difference.high < 0 else text


def _accuracies(results: Results, variant: str, epoch: int) -> dict[int, float]:
    """Test accuracy on each clean image once, by seed."""
    return {r["config"]["seed"]: r["epochs"][epoch - 1]["test/accuracy"] for r in results.get(variant, [])}


def causes_table(post: Mapping[str, np.ndarray], results: Results, causes: Results) -> str:
    """By suspected cause, how many of the post's first figures lie in the interval of runs that differ in it alone."""
    rows = []
    for variant in causes:
        name, _, change = variant.partition(", ")
        runs = runs_of(causes, variant)
        if len(runs) < 2:
            continue
        epochs = runs.shape[1]
        logged = runs_of(results, f"{name}, as logged")[: len(runs), :epochs]
        hits = [inside(post[name][:epochs], values).sum() for values in (logged, runs)]
        first = [
            " / ".join(f"{value:.4f}" for value in values)
            for values in (post[name][0], logged[:, 0].mean(0), runs[:, 0].mean(0))
        ]
        rows.append((
            f"`{name}`", change, str(epochs), f"{hits[0]} of {4 * epochs} ({len(logged)} runs)",
            f"{hits[1]} of {4 * epochs} ({len(runs)} runs)", *first,
        ))  # fmt: skip
    header = (
        "experiment", "change", "epochs", "inside, as logged", "inside, changed",
        "first epoch: post", "as logged", "changed",
    )  # fmt: skip
    return markdown_table(header, rows, text_columns=2)


def validation_table(post: Mapping[str, np.ndarray], results: Results) -> str:
    """How many of the post's validation figures lie in the interval of the same runs, scored on other images."""
    rows = []
    for name in EXPERIMENTS:
        cells = []
        for validation in (VALIDATION, VALIDATION[1:], VALIDATION[2:]):
            runs = runs_of(results, f"{name}, as logged", validation=validation)
            hits = inside(post[name], runs)[:, 2:]
            cells.append(f"{hits.sum()} of {hits.size}")
        rows.append((f"`{name}`", *cells))
    header = ("validation figures inside", "a stream of test images", "each image once", "each once, not augmented")
    return markdown_table(header, rows)


def headline_table(results: Results, protocol: str) -> str:
    """Test accuracy over seeds: of the final epoch, of the best epoch, and what choosing it on the test set adds."""
    rows = []
    for name, description in EXPERIMENTS.items():
        runs = results.get(f"{name}, {protocol}", [])
        if len(runs) < 2:
            continue
        final, best = ([run[which]["test/accuracy"] for run in runs] for which in ("final", "best"))
        gain = estimate([b - f for b, f in zip(best, final, strict=True)])
        cells = (f"{_spread(estimate(values))} %" for values in (final, best))
        rows.append(
            (f"`{name}`", description, str(len(runs)), *cells, f"{_ACCURACY.text(gain.mean, sign=True)} points")
        )
    header = ("config", "what it is", "seeds", "final epoch", "best epoch on the test set", "what choosing it adds")
    return markdown_table(header, rows, text_columns=2)


def _spread(value: Estimate) -> str:
    return f"{_ACCURACY.text(value.mean)} \N{PLUS-MINUS SIGN} {_ACCURACY.text(value.std)}"
