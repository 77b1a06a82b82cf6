"""What comparisons can find and have found: benchmarks/power.py, against numbers worked out by hand and by simulation."""

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import ttest_rel

from benchmarks import power
from harness.compare import Comparison, Difference
from harness.stats import Estimate


def difference(p, error=0.01, df=9.0, value=-0.02):
    return Difference(Estimate(value, value - 0.02, value + 0.02, 10), error, df, p, 0.03, 0.05)


def comparison(tests, better=()):
    made = {name: difference(p) for name, p in tests.items()}
    return Comparison(
        "proportional", {"proportional": 0.8, **dict.fromkeys(made, 0.7)}, made, {}, {}, frozenset(better)
    )


def test_told_apart_is_the_widest_set_of_tests_that_holds():
    # Holm over four: 0.001 * 4, then 0.016 * 3 = 0.048, then 0.03 * 2 = 0.06, and 0.2 for what is left.
    tests = {"far": 0.001, "near": 0.016, "nearer": 0.03, "same": 0.2}
    found = power.told(comparison(tests, {("proportional", "far")}))
    assert found == {"far": "all pairs", "near": "all to it", "nearer": "alone", "same": "no"}


def test_told_apart_does_not_ask_who_is_better_and_leaves_out_what_has_one_seed():
    made = comparison({"ahead": 1e-6}, {("ahead", "proportional")})
    made.differences["once"] = Difference(Estimate(0.1, None, None, 1))
    assert power.told(made) == {"ahead": "all pairs"}


def test_pooled_variance_is_the_mean_of_squared_errors_by_degrees_of_freedom():
    error, df = power.pooled([difference(0.5, error=0.01, df=9), difference(0.5, error=0.02, df=27)])
    assert (error, df) == (pytest.approx(((9 * 0.01**2 + 27 * 0.02**2) / 36) ** 0.5), 36)


@pytest.mark.parametrize("seeds", [6, 16])
def test_the_detectable_difference_is_found_in_four_cases_of_five(seeds):
    draw = np.random.default_rng(0)
    sd = 0.03  # of one difference; its mean over seeds has the standard error sd / sqrt(seeds)
    shift = power.detectable(sd / seeds**0.5, seeds - 1)
    found = ttest_rel(shift + sd * draw.standard_normal((20_000, seeds)), np.zeros((20_000, seeds)), axis=1).pvalue
    assert np.mean(found < 0.05) == pytest.approx(0.8, abs=0.01)


def test_the_table_says_each_row_and_pools_near_ones_apart():
    made = comparison({"near": 0.2, "far": 1e-9}, {("proportional", "far")})
    made.differences["far"] = difference(1e-9, error=0.05, value=-0.3)
    standing = SimpleNamespace(comparison=made)
    rows = [SimpleNamespace(suite="s", model="m", entry=e, budget=1.0, standings=standing) for e in made.means]
    head, rule, *lines = power.lines(rows, near=10)
    assert len({line.count("|") for line in (head, rule, *lines)}) == 1
    assert lines[0] == "| s x m | near | 1x | 10 | -2.0 | no | 3.0 | 5.0 |"
    assert lines[1] == "| s x m | far | 1x | 10 | -30.0 | all pairs | 3.0 | 5.0 |"
    alone = 100 * power.detectable(0.01, 9)
    assert lines[3].startswith("| s x m | *pooled within 10 points: 1* | 1x | 10 |  |  |")
    assert lines[3].split("|")[7].strip() == f"{alone:.1f}"
