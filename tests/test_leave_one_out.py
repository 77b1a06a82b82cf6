"""benchmarks/leave_one_out.py: differences with a task left out, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.by_task import Seeds
from benchmarks.leave_one_out import cell, lines, sign, without
from harness.stats import Estimate, paired_difference

TASKS = ("a", "b", "c")


def of(rows: np.ndarray, seeds: range) -> Seeds:
    """Rows of scores, seeds x tasks."""
    return {
        seed: {"score": float(row.mean()), **dict(zip(TASKS, map(float, row), strict=True))}
        for seed, row in zip(seeds, rows, strict=True)
    }


def test_difference_without_a_task_is_the_t_test_of_the_other_tasks_means() -> None:
    drawn = np.random.default_rng(5)
    mine, theirs = drawn.uniform(0, 100, (6, 3)), drawn.uniform(0, 100, (8, 3))
    found = paired_difference(without(of(mine, range(2, 8)), "b"), without(of(theirs, range(8)), "b"))
    assert found is not None
    gap = mine[:, [0, 2]].mean(1) - theirs[2:, [0, 2]].mean(1)
    low, high = stats.ttest_1samp(gap, 0).confidence_interval()
    assert (found.value, found.low, found.high) == pytest.approx((gap.mean(), low, high))


def test_none_left_out_is_the_score() -> None:
    rows = np.random.default_rng(6).uniform(0, 100, (4, 3))
    seeds = of(rows, range(4))
    assert without(seeds, None) == pytest.approx({seed: values["score"] for seed, values in seeds.items()})


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.1, 2.0, 1), (-2.0, -0.1, -1), (-1.0, 1.0, 0), (None, None, 0)]
)
def test_sign_is_given_where_the_interval_leaves_out_zero(low: float | None, high: float | None, expected: int) -> None:
    assert sign(Estimate(value=1.0, low=low, high=high, n=3)) == expected
    assert cell(Estimate(value=1.0, low=low, high=high, n=3)).endswith("*") is (expected != 0)


def test_table_counts_far_entries_and_shows_near_ones() -> None:
    base = np.array([[50.0, 60.0, 70.0], [51.0, 62.0, 69.0], [49.0, 61.0, 72.0]])
    on_b = base + np.outer([8.5, 9.0, 9.5], [0, 1, 0])  # 3 points in the mean, all from b
    far = base - [[40], [41], [42]]
    alone = of(base[:1], range(90, 91))  # no seed in common: neither shown nor counted
    entries = {"ours": of(base, range(3)), "on b": of(on_b, range(3)), "far": of(far, range(3)), "alone": alone}
    assert list(lines(entries, "ours", 10.0, ["b"])) == [
        "| entry | seeds | all tasks | without b |",
        "| --- | ---: | ---: | ---: |",
        "| on b | 3 | +3.0 ± 0.4 * | +0.0 ± 0.0 |",
        "| above ours | | 1 | 0 |",
        "| below ours | | 1 | 1 |",
    ]
