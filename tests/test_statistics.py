"""Intervals, corrections and power against scipy and statsmodels; how often intervals hold in simulations."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from digits_jax.studies.report import statistics
from digits_jax.studies.report.statistics import Scores

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
    found = statistics.compare_to_baseline(Scores(BASELINE), {name: Scores(v) for name, v in VARIANTS.items()})
    tests = {name: stats.ttest_rel(list(v.values()), list(BASELINE.values())) for name, v in VARIANTS.items()}
    _, corrected, _, _ = multipletests([test.pvalue for test in tests.values()], method="bonferroni")
    for (name, comparison), p_value in zip(found.items(), corrected, strict=True):
        interval = tests[name].confidence_interval(1 - 0.05 / 3)
        assert comparison.over_images is None
        assert comparison.over_seeds.p_value == pytest.approx(p_value)
        assert (comparison.over_seeds.low, comparison.over_seeds.high) == pytest.approx(tuple(interval))
        assert comparison.correlation == pytest.approx(
            np.corrcoef([*BASELINE.values()], [*VARIANTS[name].values()])[0, 1]
        )
        assert comparison.resolved == (p_value < 0.05)
    assert [comparison.resolved for comparison in found.values()] == [False, True, True]


def test_only_common_seeds_count() -> None:
    variant = {seed: value for seed, value in VARIANTS["better"].items() if seed > 2} | {99: 0.1}
    found = statistics.compare(Scores(variant), Scores(BASELINE), num_comparisons=1)
    expected = [variant[seed] - BASELINE[seed] for seed in range(3, 7)]
    assert found.over_seeds.n == 4
    assert found.over_seeds.mean == pytest.approx(np.mean(expected))


def test_too_few_seeds_say_nothing() -> None:
    found = statistics.compare(Scores({0: 0.95}), Scores({0: 0.9}), num_comparisons=1)
    assert found.over_seeds.mean == pytest.approx(0.05)
    assert not found.resolved
    assert math.isnan(found.smallest)


def test_runs_that_are_all_equal() -> None:
    baseline = Scores({0: 0.5, 1: 0.75})
    same = statistics.compare(Scores({0: 0.5, 1: 0.75}), baseline, num_comparisons=1)
    above = statistics.compare(Scores({0: 0.75, 1: 1.0}), baseline, num_comparisons=1)
    assert (same.over_seeds.p_value, same.resolved, same.smallest) == (1.0, False, 0.0)
    assert (above.over_seeds.p_value, above.resolved, above.smallest) == (0.0, True, 0.0)


@pytest.mark.parametrize("n", [3, 5, 20])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_smallest_difference_that_seeds_resolve(n: int, alpha: float) -> None:
    found = statistics.smallest_difference(2.0, n, alpha=alpha)
    assert TTestPower().power(found / 2.0, n, alpha) == pytest.approx(statistics.POWER, abs=1e-3)


def answers(random: np.random.Generator, shift: np.ndarray, hard: np.ndarray) -> Scores:
    """Draws which of N images R runs misclassify: with the probability normal_cdf(hard[i] + shift[r])."""
    wrong = np.zeros((len(shift), len(hard)), bool)
    possible = hard > -5  # the others are misclassified once in three million
    wrong[:, possible] = random.normal(size=(len(shift), possible.sum())) < hard[possible] + shift[:, None]
    return Scores(dict(enumerate(1 - wrong.mean(1))), dict(enumerate(wrong)))


# The mean and the standard deviation of the difficulty of images, for accuracies of 99.8%, 99.3% and 95%: most errors
# are on a few images, which most runs misclassify.
DIFFICULTIES = {"99.8%": (-12.0, 4.0), "99.3%": (-5.1, 1.8), "95%": (-2.6, 1.2)}
TRIALS = [pytest.param(150, id="150"), pytest.param(1_000, id="1000", marks=pytest.mark.slow)]
SPREAD = 0.05  # over seeds


def assert_near_95_percent(hits: list[bool], *, conservative: bool = False) -> None:
    """Asserts that a share is between 93 and 97%, or up to 98%, give or take two and a half standard errors."""
    tolerance = 2.5 * math.sqrt(0.95 * 0.05 / len(hits))
    assert 0.93 - tolerance <= np.mean(hits) <= (0.98 if conservative else 0.97) + tolerance


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("num_seeds", [3, 5, 10, 20])
@pytest.mark.parametrize("difficulty", DIFFICULTIES.values(), ids=DIFFICULTIES)
def test_an_accuracy_lies_in_its_intervals_as_often_as_promised(trials: int, num_seeds: int, difficulty: tuple) -> None:
    random, (mean, std) = np.random.default_rng(num_seeds), difficulty
    accuracy = stats.norm.cdf(-mean / math.sqrt(1 + std**2 + SPREAD**2))  # over all seeds and images
    over_seeds, over_images = [], []
    for _ in range(trials):
        hard = random.normal(mean, std, 5_000)
        drawn = answers(random, random.normal(0, SPREAD, num_seeds), hard)
        on_these = stats.norm.cdf(-hard / math.sqrt(1 + SPREAD**2)).mean()  # over all seeds
        found = statistics.estimate([*drawn.values.values()])
        over_seeds.append(found.low <= on_these <= found.high)
        found = statistics.estimate_over_images(drawn)
        over_images.append(found.low <= accuracy <= found.high)
    assert_near_95_percent(over_seeds)
    assert_near_95_percent(over_images, conservative=num_seeds == 3)


@pytest.mark.parametrize("trials", TRIALS)
@pytest.mark.parametrize("log_odds", [False, True])
@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_a_difference_lies_in_its_intervals_as_often_as_promised(trials: int, num_seeds: int, log_odds: bool) -> None:
    random, (mean, std), better = np.random.default_rng(num_seeds), DIFFICULTIES["95%"], 0.2
    of_seed, of_images = 0.03, 0.5  # spreads of either variant's own

    def expected(hard: float) -> float:
        accuracy = stats.norm.cdf(-hard / math.sqrt(1 + std**2 + SPREAD**2 + of_seed**2 + of_images**2))
        return math.log(accuracy / (1 - accuracy)) if log_odds else accuracy

    true, hits = expected(mean - better) - expected(mean), []
    for _ in range(trials):
        hard, shift = random.normal(mean, std, 5_000), random.normal(0, SPREAD, num_seeds)
        baseline, variant = (
            answers(
                random, shift + random.normal(-b, of_seed, num_seeds), hard + random.normal(0, of_images, len(hard))
            )
            for b in (0, better)
        )
        found = statistics.compare(variant, baseline, num_comparisons=1, log_odds=log_odds).over_images
        assert found
        hits.append(found.low <= true <= found.high)
    assert_near_95_percent(hits, conservative=num_seeds == 3)


def test_the_variances_of_seeds_and_images_by_hand() -> None:
    # Of four images, run 0 misclassifies the first, run 1 the first two. The mean square of the images' means (0, 1/2,
    # 1 and 1) is 2 * 0.2292 = 0.4583, that of the residuals 0.125; the seeds' 3/4 and 1/2 have the variance 0.03125.
    wrong = {0: np.array([1, 0, 0, 0], bool), 1: np.array([1, 1, 0, 0], bool)}
    none = {seed: np.zeros(4, bool) for seed in wrong}
    variant, baseline = Scores({0: 0.75, 1: 0.5}, wrong), Scores({0: 1.0, 1: 1.0}, none)
    found = statistics.compare(variant, baseline, num_comparisons=1).over_images
    assert found
    variances = 0.03125 / 2, (0.458333 - 0.125) / 8
    half = math.hypot(*(stats.t.ppf(0.975, df) * math.sqrt(v) for df, v in zip((1, 3), variances, strict=True)))
    assert (found.mean, found.high - found.mean) == (pytest.approx(-0.375), pytest.approx(half, rel=1e-5))
    at_zero = math.hypot(
        *(stats.t.isf(found.p_value / 2, df) * math.sqrt(v) for df, v in zip((1, 3), variances, strict=True))
    )
    assert at_zero == pytest.approx(0.375, rel=1e-5)


def test_log_odds_are_finite_where_all_images_are_correct() -> None:
    perfect = Scores({0: 1.0, 1: 1.0}, {0: np.zeros(100, bool), 1: np.zeros(100, bool)})
    half = Scores({0: 0.5, 1: 0.5}, {0: np.arange(100) < 50, 1: np.arange(100) >= 50})
    found = statistics.compare(perfect, half, num_comparisons=1, log_odds=True)
    assert math.isfinite(found.over_seeds.mean)
    assert found.over_seeds.mean > 5


@pytest.mark.parametrize("num_variants", [1, 4])
def test_equal_variants_are_rarely_called_different(num_variants: int) -> None:
    random = np.random.default_rng(1)
    called = 0
    for _ in range(400):
        seeds = random.normal(0.99, 0.002, 5)  # what a seed brings to all of its runs
        runs = seeds + random.normal(0.0, 0.001, (num_variants + 1, 5))
        baseline, *variants = (dict(enumerate(values.tolist())) for values in runs)
        others = {str(i): Scores(variant) for i, variant in enumerate(variants)}
        found = statistics.compare_to_baseline(Scores(baseline), others)
        called += any(comparison.resolved for comparison in found.values())
    assert called <= 27  # 5 % of 400, and a standard deviation and a half


def test_a_new_run_lies_in_its_prediction_interval_as_often_as_promised() -> None:
    random = np.random.default_rng(0)
    for runs in (3, 5, 20):
        values = random.normal(size=(700, runs + 1, 11))
        values[:, :, 0] *= 20  # the first epoch has a spread of its own
        hits = []
        for drawn in values:
            low, high = statistics.prediction_interval(drawn[1:])
            hits.append((low <= drawn[0]) & (drawn[0] <= high))
        assert np.mean(hits) == pytest.approx(0.99, abs=0.003)
        assert np.mean(hits, axis=0)[0] == pytest.approx(0.99, abs=0.01)


def test_prediction_interval_of_one_epoch_is_the_textbooks() -> None:
    values = np.array([[1.0], [2.0], [4.0]])
    low, high = statistics.prediction_interval(values, confidence=0.95)
    half = stats.t.ppf(0.975, 2) * np.std(values, ddof=1) * np.sqrt(1 + 1 / 3)
    assert (low[0], high[0]) == pytest.approx((7 / 3 - half, 7 / 3 + half))
