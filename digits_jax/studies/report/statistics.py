"""Means, paired differences and how many seeds it takes: what a study may say about its runs.

All intervals are Student's t, which for runs of one config means: the runs are a random sample of seeds, and a seed's
figure is close to normal. Differences are paired: runs of the same seed share the order of the images and, where the
shapes agree, the initial weights, so that what a seed brings to both cancels.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

POWER = 0.8  # at which `seeds_needed` counts a difference as resolved; the usual choice (Cohen 1988)
MAX_SEEDS = 10_000  # beyond which `seeds_needed` gives up


class Estimate(NamedTuple):
    """A mean over n values; the interval and deviation are nan for n < 2."""

    n: int
    mean: float
    std: float  # of one value: the sample's standard deviation, with n - 1
    low: float
    high: float


class Comparison(NamedTuple):
    """A variant against the baseline, over the seeds that both have."""

    difference: Estimate  # variant - baseline
    p_value: float  # two-sided, multiplied by the number of comparisons (Bonferroni), at most 1; 1 for n < 2
    seeds_needed: int | None  # to resolve a difference of the size seen; None: more than MAX_SEEDS, or unknown

    @property
    def resolved(self) -> bool:
        """Whether the interval excludes zero."""
        return self.difference.low > 0 or self.difference.high < 0


def estimate(values: Sequence[float], *, confidence: float = 0.95) -> Estimate:
    """The mean with its t interval, mean +- t(n - 1) std / sqrt(n)."""
    n = len(values)
    mean = float(np.mean(values)) if n else math.nan
    if n < 2:
        return Estimate(n, mean, math.nan, math.nan, math.nan)
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Estimate(n, mean, std, mean - half, mean + half)


def prediction_interval(values: np.ndarray, *, confidence: float = 0.99) -> tuple[np.ndarray, np.ndarray]:
    """Where the figures of one more run are expected, from those of the runs at hand.

    A t interval, mean +- t s sqrt(1 + 1 / n) (Hahn & Meeker 1991, section 4.7). A handful of runs says little about
    their spread, so the variance of an epoch is averaged with those of the epochs before and after it, and t has the
    degrees of freedom of all of them. The first epoch, whose spread is of another kind, stands for itself.

    Args:
      values: `[runs, epochs]`, at least two runs, on a scale on which they are close to normal.
      confidence: that a new run's figure lies between the limits.

    Returns:
      The lower and the upper limits, `[epochs]` each.
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


def compare(
    baseline: Mapping[int, float], variants: Mapping[str, Mapping[int, float]], *, confidence: float = 0.95
) -> dict[str, Comparison]:
    """Paired differences of each variant to the baseline, corrected for the number of variants after Bonferroni.

    Args:
      baseline: figure by seed.
      variants: the same of each variant, by its name; only seeds that the baseline has count.
      confidence: that all intervals hold at once.
    """
    alpha = (1 - confidence) / max(1, len(variants))
    comparisons = {}
    for name, figures in variants.items():
        differences = [figures[seed] - baseline[seed] for seed in sorted(figures.keys() & baseline.keys())]
        difference = estimate(differences, confidence=1 - alpha)
        comparisons[name] = Comparison(
            difference=difference,
            p_value=min(1.0, len(variants) * _paired_p_value(difference)),
            seeds_needed=seeds_needed(difference.mean, difference.std, alpha=alpha),
        )
    return comparisons


def _paired_p_value(difference: Estimate) -> float:
    if math.isnan(difference.std):
        return 1.0
    if difference.std == 0:  # t is 0 / 0, or infinite
        return 1.0 if difference.mean == 0 else 0.0
    t = difference.mean / (difference.std / math.sqrt(difference.n))
    return 2 * float(stats.t.sf(abs(t), difference.n - 1))


def seeds_needed(difference: float, std: float, *, alpha: float) -> int | None:
    """How many pairs a two-sided t test at level `alpha` needs to find a true `difference` with probability `POWER`.

    Under it t follows the noncentral distribution with noncentrality sqrt(n) difference / std (Cohen 1988, chapter 2).

    Args:
      difference: its mean.
      std: its standard deviation from pair to pair.
      alpha: probability of calling no difference one.

    Returns:
      At least 2; None where it is more than `MAX_SEEDS`, or where nothing can be said (no difference, one pair).
    """
    if math.isnan(std) or difference == 0:
        return None
    if std == 0:
        return 2

    def is_enough(n: int) -> bool:
        critical = stats.t.ppf(1 - alpha / 2, n - 1)
        # The far tail (a difference found with the wrong sign) is left out: it is below 1e-3 at this power.
        return bool(stats.nct.sf(critical, n - 1, math.sqrt(n) * abs(difference) / std) >= POWER)

    candidates = range(2, MAX_SEEDS + 1)
    index = bisect.bisect_left(candidates, True, key=is_enough)
    return candidates[index] if index < len(candidates) else None
