"""Gaps to the reference by budget: differences of differences, against scipy's test on values written out by hand."""

import pytest
from scipy.stats import ttest_1samp

from benchmarks import gaps

REFERENCE = {0.5: [70.0, 72.0, 71.0, 69.0], 1.0: [80.0, 82.0, 79.0, 81.0], 2.0: [83.0, 82.0, 84.0, 85.0]}
OTHER = {0.5: [50.0, 49.0, 55.0, 51.0], 1.0: [70.0, 74.0, 68.0, 71.0], 2.0: [80.0, 81.0, 79.0, 84.0]}


def scores(*rows):
    return gaps.collect((name, b, seed, x) for name, row in rows for b, xs in row.items() for seed, x in enumerate(xs))


def test_gaps_are_paired_by_seed_within_and_between_budgets():
    made = scores(("proportional", REFERENCE), ("other", OTHER), ("once", {1.0: OTHER[1.0]}))
    [(entry, at, more)] = gaps.gaps(made, "proportional")  # what stands at one budget is left out
    assert (entry, set(at), set(more)) == ("other", {0.5, 1.0, 2.0}, {0.5, 2.0})
    gap = {b: [x - y for x, y in zip(OTHER[b], REFERENCE[b], strict=True)] for b in OTHER}
    assert at[1.0].value == pytest.approx(-9.75)
    for b in (0.5, 2.0):
        found = ttest_1samp([x - y for x, y in zip(gap[b], gap[1.0], strict=True)], 0)
        low, high = found.confidence_interval(0.95)
        assert (more[b].value, more[b].low, more[b].high) == pytest.approx(((low + high) / 2, low, high))


def test_a_missing_seed_leaves_the_pairs_that_there_are():
    made = scores(("proportional", REFERENCE), ("other", OTHER))
    del made["other"][2.0][3]
    [(_, at, more)] = gaps.gaps(made, "proportional")
    assert (at[1.0].n, at[2.0].n, more[2.0].n) == (4, 3, 3)


def test_the_table_has_a_column_a_budget_and_one_a_change():
    made = scores(("proportional", REFERENCE), ("other", OTHER))
    head, rule, row = gaps.lines(made, "proportional")
    assert head == "| strategy | 0.5x | 1x | 2x | 0.5x less 1x | 2x less 1x |"
    assert rule.count("|") == head.count("|") == row.count("|")
    assert row.startswith("| other | −19.2 [")
