"""Means, differences, confidence and prediction intervals, over seeds and over seeds and images.

An accuracy varies with the seed, and with the images that it is measured on. An interval over seeds is for these very
images: Student's t, for seeds that are a random sample and values close to normal. An interval over seeds and images is
for other images of the same kind, too. Seeds and images are crossed random effects (Searle, Casella and McCulloch 1992,
"Variance Components", chapter 4): the variance of a mean over R seeds and N images is

    s^2 / R  +  (MS_images - MS_residual) / (R N)

with the variance s^2 of the seeds' values and the mean squares of a two-way analysis of variance; a negative second
term counts as zero. Each term has an interval, with R - 1 and N - 1 degrees of freedom, and the squares of their
half-widths add up to that of both (MOVER, Zou and Donner 2008). That images of one writer are alike is neglected.

Differences are paired by seed: runs of the same seed share the order of the images and, if the shapes agree, the
initial weights. How much this helps depends on the correlation of the two.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import optimize, stats

CONFIDENCE = 0.95  # that all intervals of a comparison hold at once
POWER = 0.8  # of `smallest_difference`; the usual choice (Cohen 1988)
_SMALLEST_P = 1e-30  # of p-values
_EDGE = 5e-5  # closest to 0 and 1 that accuracies are for log-odds: half an image of 10,000 (Anscombe 1956)


class Estimate(NamedTuple):
    """The mean of n values with its confidence interval; all but n and the mean are nan for n < 2."""

    n: int
    mean: float
    std: float  # of the sample, with n - 1 degrees of freedom
    low: float
    high: float
    p_value: float = math.nan  # two-sided, of a mean of zero

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


class Scores(NamedTuple):
    """A metric of the runs of one variant."""

    values: Mapping[int, float]  # by seed
    wrong: Mapping[int, np.ndarray] | None = None  # of accuracies: the misclassified images, bool [N]; None: unknown

    def over(self, seeds: Sequence[int], *, log_odds: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Returns the values of R seeds, `[R]`, and what each image contributes to them, `[R, N]`.

        With `log_odds` these are log(p / (1 - p)) of accuracies p, to which images contribute linearly (delta method).
        """
        values = np.array([self.values[seed] for seed in seeds])
        of_images = 1.0 - np.stack([self.wrong[seed] for seed in seeds]) if self.wrong else None
        if log_odds:
            inside = np.clip(values, _EDGE, 1 - _EDGE)
            values = np.log(inside / (1 - inside))
            if of_images is not None:
                of_images /= inside.mean() * (1 - inside.mean())
        return values, of_images


class Comparison(NamedTuple):
    """A variant compared with the baseline, over the seeds that both have; p-values are Bonferroni-corrected."""

    over_seeds: Estimate  # of variant - baseline
    over_images: Estimate | None  # the same, with an interval over seeds and images; None where images are unknown
    correlation: float  # of the two over the seeds
    smallest: float  # difference that as many seeds detect on these images with probability `POWER`

    @property
    def widest(self) -> Estimate:
        return self.over_images or self.over_seeds

    @property
    def resolved(self) -> bool:
        """True if the interval over seeds and images, or that over seeds if images are unknown, excludes zero."""
        return self.widest.excludes_zero


def estimate(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Returns the mean with its confidence interval over seeds, mean ± t(n - 1) std / sqrt(n)."""
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Estimate(n, mean, math.nan, math.nan, math.nan)
    std = float(np.std(values, ddof=1))
    return _with_interval(n, mean, std, [(std**2 / n, n - 1)], confidence=confidence)


def estimate_over_images(scores: Scores, *, confidence: float = 0.95) -> Estimate:
    """Returns the mean accuracy with its confidence interval over seeds and images.

    The interval is symmetric in the log-odds, so that it stays below 1.
    """
    seeds = sorted(scores.values)
    values, of_images = scores.over(seeds, log_odds=True)
    found = estimate([scores.values[seed] for seed in seeds])
    if found.n < 2 or of_images is None:
        return found._replace(low=math.nan, high=math.nan, p_value=math.nan)
    both = _crossed(values, of_images, confidence=confidence)
    low, high = (1 / (1 + math.exp(-limit)) for limit in (both.low, both.high))
    return found._replace(low=low, high=high, p_value=math.nan)


def _crossed(values: np.ndarray, of_images: np.ndarray, *, confidence: float) -> Estimate:
    """Returns the mean of values `[R]`, to which images contribute `[R, N]`, over seeds and images."""
    runs, images = of_images.shape
    mean, std = float(values.mean()), float(values.std(ddof=1))
    means = of_images.mean(axis=0)
    residuals = of_images - means - of_images.mean(axis=1, keepdims=True) + means.mean()
    residual = float((residuals**2).sum()) / ((runs - 1) * (images - 1))
    by_seeds = std**2 / runs
    by_images = max(0.0, runs * float(means.var(ddof=1)) - residual) / (runs * images)
    return _with_interval(runs, mean, std, ((by_seeds, runs - 1), (by_images, images - 1)), confidence=confidence)


def _with_interval(
    n: int, mean: float, std: float, parts: Sequence[tuple[float, int]], *, confidence: float
) -> Estimate:
    """Returns the estimate of a mean whose variance is the sum of parts, (variance, degrees of freedom) each."""

    def half_width(p_value: float) -> float:
        return math.sqrt(sum(variance * float(stats.t.isf(p_value / 2, freedom)) ** 2 for variance, freedom in parts))

    half = half_width(1 - confidence)
    if half == 0:  # the t of the mean is 0 / 0, or infinite
        return Estimate(n, mean, std, mean, mean, float(mean == 0))
    if half_width(_SMALLEST_P) < abs(mean):
        return Estimate(n, mean, std, mean - half, mean + half, _SMALLEST_P)
    # The p-value of a mean of zero is that of the interval which ends there.
    exponent = optimize.brentq(lambda x: half_width(math.exp(x)) - abs(mean), math.log(_SMALLEST_P), 0.0, xtol=1e-9)
    return Estimate(n, mean, std, mean - half, mean + half, math.exp(exponent))


@functools.cache
def _t(tail: float, freedom: int) -> float:
    """Returns the t that is exceeded with the probability `tail`."""
    return float(stats.t.isf(tail, freedom))


def prediction_interval(
    values: np.ndarray, *, confidence: float = 0.99, pooled: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the prediction interval of each epoch's value in one more run.

    It is mean ± t s sqrt(1 + 1 / n) (Hahn & Meeker 1991, section 4.7). A few runs determine their variance poorly, so
    where it is `pooled`, that of an epoch is averaged with those of the epochs before and after it, and t has the
    degrees of freedom of all three. The first epoch, whose variance is of another size, is not averaged.

    The values, `[runs, epochs]` of at least two runs, are on a scale on which they are close to normal. The lower and
    the upper limits are `[epochs]` each.
    """
    runs, epochs = values.shape
    variances = values.var(axis=0, ddof=1)
    half = np.empty(epochs)
    for epoch in range(epochs):
        near = variances[max(1, epoch - 1) : epoch + 2] if epoch and pooled else variances[epoch : epoch + 1]
        half[epoch] = _t((1 - confidence) / 2, len(near) * (runs - 1)) * math.sqrt(near.mean() * (1 + 1 / runs))
    mean = values.mean(axis=0)
    return mean - half, mean + half


def compare_to_baseline(
    baseline: Scores, variants: Mapping[str, Scores], *, log_odds: bool = False
) -> dict[str, Comparison]:
    """Returns each variant's paired difference to the baseline, Bonferroni-corrected for their number."""
    return {
        name: compare(scores, baseline, num_comparisons=len(variants), log_odds=log_odds)
        for name, scores in variants.items()
    }


def compare(variant: Scores, baseline: Scores, *, num_comparisons: int, log_odds: bool = False) -> Comparison:
    """Returns the paired difference of two variants, one of several comparisons."""
    alpha = (1 - CONFIDENCE) / num_comparisons
    seeds = sorted(variant.values.keys() & baseline.values.keys())
    if len(seeds) < 2:
        differences = [variant.values[seed] - baseline.values[seed] for seed in seeds]
        return Comparison(estimate(differences), None, math.nan, math.nan)
    (ours, our_images), (theirs, their_images) = (side.over(seeds, log_odds=log_odds) for side in (variant, baseline))
    over_seeds, over_images = estimate((ours - theirs).tolist(), confidence=1 - alpha), None
    if our_images is not None and their_images is not None:
        over_images = _crossed(ours - theirs, our_images - their_images, confidence=1 - alpha)
    spread = ours.std() > 0 and theirs.std() > 0
    return Comparison(
        _corrected(over_seeds, num_comparisons),
        _corrected(over_images, num_comparisons) if over_images else None,
        float(np.corrcoef(ours, theirs)[0, 1]) if spread else math.nan,
        smallest_difference(over_seeds.std, over_seeds.n, alpha=alpha),
    )


def _corrected(found: Estimate, num_comparisons: int) -> Estimate:
    return found._replace(p_value=min(1.0, num_comparisons * found.p_value))


def smallest_difference(std: float, n: int, *, alpha: float) -> float:
    """Returns the mean difference that a two-sided paired t test at level `alpha` detects with probability `POWER`.

    The test statistic of n pairs, whose differences have the standard deviation `std`, follows the noncentral t
    distribution with noncentrality sqrt(n) difference / std (Cohen 1988, chapter 2).
    """
    return _noncentrality(n, alpha) * std / math.sqrt(n)


@functools.cache
def _noncentrality(n: int, alpha: float) -> float:
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    # The far tail (a difference detected with the wrong sign) is neglected: it is below 1e-3 at this power.
    return float(optimize.brentq(lambda x: stats.nct.sf(critical, n - 1, x) - POWER, 0.0, 20.0 + 10 * critical))
