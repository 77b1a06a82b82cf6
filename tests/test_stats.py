import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from harness.stats import Estimate, macro_standard_error, mean_interval, paired_difference

floats = st.floats(-1, 1, allow_nan=False, width=32)


def test_interval_of_two_seeds_by_hand():
    # mean 0.5, sd sqrt(0.02), sd/sqrt(2) = 0.1, t(1) at 97.5 % = 12.7062
    e = mean_interval([0.4, 0.6])
    assert e.value == pytest.approx(0.5)
    assert e.half_width == pytest.approx(1.27062, abs=1e-5)
    assert (e.low, e.high) == (pytest.approx(-0.77062, abs=1e-5), pytest.approx(1.77062, abs=1e-5))
    assert e.n == 2


def test_interval_of_five_seeds_by_hand():
    # 1..5: mean 3, sd sqrt(2.5), t(4) at 97.5 % = 2.77645, half width 2.77645 * sqrt(2.5 / 5) = 1.96324
    assert mean_interval([1, 2, 3, 4, 5]).half_width == pytest.approx(1.96324, abs=1e-5)


def test_one_seed_has_no_interval_and_equal_seeds_have_an_empty_one():
    assert mean_interval([0.3]) == Estimate(0.3, None, None, 1)
    assert mean_interval([0.3]).half_width is None
    assert mean_interval([0.25] * 4).half_width == 0


@given(st.lists(floats, min_size=2, max_size=12), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_interval_is_scipys(values, confidence):
    e = mean_interval(values, confidence)
    sem = scipy_stats.sem(np.asarray(values, dtype=np.float64))
    half = 0.0 if sem == 0 else scipy_stats.t.ppf((1 + confidence) / 2, len(values) - 1) * sem
    assert e.value == pytest.approx(np.mean(values), abs=1e-9)
    assert e.half_width == pytest.approx(half, rel=1e-6, abs=1e-9)


def test_paired_difference_uses_shared_seeds_only():
    # differences of seeds 0, 1: 0.1 and 0.3; mean 0.2, standard error 0.1
    e = paired_difference({0: 0.5, 1: 0.8, 7: 0.0}, {0: 0.4, 1: 0.5, 9: 1.0})
    assert e is not None
    assert (e.value, e.n) == (pytest.approx(0.2), 2)
    assert e.half_width == pytest.approx(1.27062, abs=1e-5)


def test_paired_interval_agrees_with_the_paired_t_test():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.5, 0.1, 8), rng.normal(0.45, 0.1, 8)
    e = paired_difference(dict(enumerate(a)), dict(enumerate(b)))
    want = scipy_stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (e.low, e.high) == (pytest.approx(want.low), pytest.approx(want.high))


def test_pairing_removes_what_the_seed_gives_to_both():
    b = {0: 0.1, 1: 0.5, 2: 0.9}
    e = paired_difference({seed: x + 0.02 for seed, x in b.items()}, b)
    assert e.half_width < 1e-9 < mean_interval(list(b.values())).half_width


def test_without_shared_seeds_there_is_no_difference():
    assert paired_difference({0: 1.0}, {1: 1.0}) is None
    assert paired_difference({}, {}) is None
    assert paired_difference({0: 0.5}, {0: 0.4}).half_width is None


def test_interval_covers_the_mean_as_often_as_it_says():
    draws = np.random.default_rng(3).normal(0.5, 0.2, (2000, 5))
    hits = [e.low <= 0.5 <= e.high for e in map(mean_interval, draws.tolist())]
    assert np.mean(hits) == pytest.approx(0.95, abs=0.015)  # three standard deviations of 2000 draws


def test_macro_standard_error_by_hand():
    assert macro_standard_error([0.03, 0.04]) == pytest.approx(0.025)
    assert macro_standard_error([0.1]) == pytest.approx(0.1)


@pytest.mark.parametrize("values", [[], [math.nan], [0.1, math.inf]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError, match="finite"):
        mean_interval(values)


def test_wrong_confidence_and_no_errors_are_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        mean_interval([1.0, 2.0], 95)
    with pytest.raises(ValueError, match="at least one"):
        macro_standard_error([])
