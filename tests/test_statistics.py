"""Intervals, corrections and power against scipy and statsmodels; how often two equal variants are called different."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from digits_jax.studies.report import statistics

RANDOM = np.random.default_rng(0)
BASELINE = dict(enumerate(RANDOM.normal(0.99, 0.001, 7).tolist()))
VARIANTS = {
    name: {seed: value + RANDOM.normal(shift, 0.001) for seed, value in BASELINE.items()}
    for name, shift in (("same", 0.0), ("better", 0.004), ("worse", -0.002))
}


def test_the_interval_of_a_mean() -> None:
    values = list(BASELINE.values())
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    found = statistics.estimate(values, confidence=0.9)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert (found.n, found.mean, found.std) == (7, pytest.approx(np.mean(values)), pytest.approx(stats.tstd(values)))


def test_one_value_has_no_interval() -> None:
    found = statistics.estimate([0.5])
    assert (found.n, found.mean) == (1, 0.5)
    assert math.isnan(found.low)
    assert math.isnan(found.std)


def test_differences_are_paired_and_corrected() -> None:
    found = statistics.compare_to_baseline(BASELINE, VARIANTS)
    tests = {name: stats.ttest_rel(list(v.values()), list(BASELINE.values())) for name, v in VARIANTS.items()}
    _, corrected, _, _ = multipletests([test.pvalue for test in tests.values()], method="bonferroni")
    for (name, comparison), p_value in zip(found.items(), corrected, strict=True):
        interval = tests[name].confidence_interval(1 - 0.05 / 3)
        assert comparison.p_value == pytest.approx(p_value)
        assert (comparison.difference.low, comparison.difference.high) == pytest.approx(tuple(interval))
        assert comparison.resolved == (p_value < 0.05)
    assert [comparison.resolved for comparison in found.values()] == [False, True, True]


def test_only_common_seeds_count() -> None:
    variant = {seed: value for seed, value in VARIANTS["better"].items() if seed > 2} | {99: 0.1}
    (found,) = statistics.compare_to_baseline(BASELINE, {"better": variant}).values()
    expected = [variant[seed] - BASELINE[seed] for seed in range(3, 7)]
    assert found.difference.n == 4
    assert found.difference.mean == pytest.approx(np.mean(expected))


def test_too_few_seeds_say_nothing() -> None:
    (found,) = statistics.compare_to_baseline({0: 0.9}, {"x": {0: 0.95}}).values()
    assert not found.resolved
    assert found.p_value == 1.0
    assert found.seeds_needed is None


def test_runs_that_are_all_equal() -> None:
    found = statistics.compare_to_baseline({0: 0.5, 1: 0.75}, {"same": {0: 0.5, 1: 0.75}, "above": {0: 0.75, 1: 1.0}})
    assert (found["same"].p_value, found["same"].resolved, found["same"].seeds_needed) == (1.0, False, None)
    assert (found["above"].p_value, found["above"].resolved, found["above"].seeds_needed) == (0.0, True, 2)


@pytest.mark.parametrize("effect", [0.2, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_seeds_needed(effect: float, alpha: float) -> None:
    found = statistics.seeds_needed(effect, 1.0, alpha=alpha)
    assert found is not None
    assert found == statistics.seeds_needed(-2 * effect, 2.0, alpha=alpha)
    power = TTestPower().power
    assert power(effect, found, alpha) >= statistics.POWER
    assert found == 2 or power(effect, found - 1, alpha) < statistics.POWER


def test_a_difference_too_small_for_any_number_of_seeds() -> None:
    assert statistics.seeds_needed(1e-6, 1.0, alpha=0.05) is None


@pytest.mark.parametrize("num_variants", [1, 4])
def test_equal_variants_are_rarely_called_different(num_variants: int) -> None:
    random = np.random.default_rng(1)
    called = 0
    for _ in range(400):
        seeds = random.normal(0.99, 0.002, 5)  # what a seed brings to all of its runs
        runs = seeds + random.normal(0.0, 0.001, (num_variants + 1, 5))
        baseline, *variants = (dict(enumerate(values.tolist())) for values in runs)
        found = statistics.compare_to_baseline(baseline, {str(i): variant for i, variant in enumerate(variants)})
        called += any(comparison.resolved for comparison in found.values())
    assert called <= 27  # 5 % of 400, and a standard deviation and a half


def test_a_new_run_lies_in_its_prediction_interval_as_often_as_promised() -> None:
    random = np.random.default_rng(0)
    for runs in (3, 5, 20):
        values = random.normal(size=(2_000, runs + 1, 11))
        values[:, :, 0] *= 20  # the first epoch has a spread of its own
        hits = []
        for drawn in values:
            low, high = statistics.prediction_interval(drawn[1:])
            hits.append((low <= drawn[0]) & (drawn[0] <= high))
        assert np.mean(hits) == pytest.approx(0.99, abs=0.002)
        assert np.mean(hits, axis=0)[0] == pytest.approx(0.99, abs=0.007)


def test_prediction_interval_of_one_epoch_is_the_textbooks() -> None:
    values = np.array([[1.0], [2.0], [4.0]])
    low, high = statistics.prediction_interval(values, confidence=0.95)
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) * np.sqrt(1 + 1 / 3)
    assert (low[0], high[0]) == pytest.approx((7 / 3 - half, 7 / 3 + half))
