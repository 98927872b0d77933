"""Means, paired differences, confidence and prediction intervals, and the number of seeds that a difference needs.

All intervals are Student's t. They assume that the seeds are a random sample and that values are close to normal.
Differences are paired: runs of the same seed share the order of the images and, if the shapes agree, the initial
weights, so that the seed's contribution to both cancels.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95  # that all intervals of a comparison hold at once
POWER = 0.8  # of `seeds_needed`; the usual choice (Cohen 1988)
MAX_SEEDS = 10_000  # beyond which `seeds_needed` gives up


class Estimate(NamedTuple):
    """The mean of n values with its confidence interval; interval and standard deviation are nan for n < 2."""

    n: int
    mean: float
    std: float  # of the sample, with n - 1 degrees of freedom
    low: float
    high: float


class Comparison(NamedTuple):
    """A variant compared with the baseline, over the seeds that both have."""

    difference: Estimate  # variant - baseline
    p_value: float  # two-sided, multiplied by the number of comparisons (Bonferroni), at most 1; 1 for n < 2
    seeds_needed: int | None  # to resolve a difference of the observed size; None: more than MAX_SEEDS, or unknown

    @property
    def resolved(self) -> bool:
        """True if the interval excludes zero."""
        return self.difference.low > 0 or self.difference.high < 0


def estimate(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """Returns the mean with its confidence interval, mean ± t(n - 1) std / sqrt(n)."""
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Estimate(n, mean, math.nan, math.nan, math.nan)
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Estimate(n, mean, std, mean - half, mean + half)


def prediction_interval(values: np.ndarray, *, confidence: float = 0.99) -> tuple[np.ndarray, np.ndarray]:
    """Returns the prediction interval of each epoch's value in one more run.

    It is mean ± t s sqrt(1 + 1 / n) (Hahn & Meeker 1991, section 4.7). A few runs determine their variance poorly, so
    that of an epoch is averaged with those of the epochs before and after it, and t has the degrees of freedom of all
    three. The first epoch, whose variance is of another size, is not averaged.

    The values, `[runs, epochs]` of at least two runs, are on a scale on which they are close to normal. The lower and
    the upper limits are `[epochs]` each.
    """
    runs, epochs = values.shape
    variances = values.var(axis=0, ddof=1)
    half = np.empty(epochs)
    for epoch in range(epochs):
        near = variances[max(1, epoch - 1) : epoch + 2] if epoch else variances[:1]
        t = stats.t.ppf((1 + confidence) / 2, len(near) * (runs - 1))
        half[epoch] = t * math.sqrt(near.mean() * (1 + 1 / runs))
    mean = values.mean(axis=0)
    return mean - half, mean + half


def compare_to_baseline(
    baseline: Mapping[int, float], variants: Mapping[str, Mapping[int, float]]
) -> dict[str, Comparison]:
    """Returns each variant's paired difference to the baseline, Bonferroni-corrected, from their values by seed."""
    alpha = (1 - CONFIDENCE) / max(1, len(variants))
    comparisons = {}
    for name, values in variants.items():
        differences = [values[seed] - baseline[seed] for seed in sorted(values.keys() & baseline.keys())]
        difference = estimate(differences, confidence=1 - alpha)
        p_value = min(1.0, len(variants) * _paired_p_value(difference))
        comparisons[name] = Comparison(difference, p_value, seeds_needed(difference.mean, difference.std, alpha=alpha))
    return comparisons


def _paired_p_value(difference: Estimate) -> float:
    if math.isnan(difference.std):
        return 1.0
    if difference.std == 0:  # t is 0 / 0, or infinite
        return 1.0 if difference.mean == 0 else 0.0
    t = difference.mean / (difference.std / math.sqrt(difference.n))
    return 2 * float(stats.t.sf(abs(t), difference.n - 1))


def seeds_needed(difference: float, std: float, *, alpha: float) -> int | None:
    """Returns how many pairs a two-sided t test at level `alpha` needs to detect a difference with probability `POWER`.

    The test statistic follows the noncentral t distribution with noncentrality sqrt(n) difference / std (Cohen 1988,
    chapter 2). Returns None if it is more than `MAX_SEEDS` or undefined (no difference, one pair).
    """
    if math.isnan(std) or difference == 0:
        return None
    if std == 0:
        return 2

    def is_enough(n: int) -> bool:
        critical = stats.t.ppf(1 - alpha / 2, n - 1)
        # The far tail (a difference detected with the wrong sign) is neglected: it is below 1e-3 at this power.
        return bool(stats.nct.sf(critical, n - 1, math.sqrt(n) * abs(difference) / std) >= POWER)

    candidates = range(2, MAX_SEEDS + 1)
    index = bisect.bisect_left(candidates, True, key=is_enough)
    return candidates[index] if index < len(candidates) else None
