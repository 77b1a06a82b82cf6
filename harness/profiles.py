"""Numbers across workloads and along the budget: IQM, performance profiles, FLOPs to a target and their ratio.

FLOPs are billed model FLOPs. Where a target is not reached the FLOPs are infinite; None says that there is no target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, median_low
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray


def iqm(scores: ArrayLike) -> float:
    """Interquartile mean: of the middle half of all values, a quarter (rounded down) cut at each end (arXiv 2108.13264)."""
    x = np.sort(np.asarray(scores, np.float64), axis=None)
    if not x.size or not np.isfinite(x).all():
        raise ValueError("expected at least one finite value")
    cut = x.size // 4
    return float(x[cut : x.size - cut].mean())


def score_profile(scores: ArrayLike, at: ArrayLike) -> NDArray[np.float64]:
    """For each threshold in `at` [K], the share of values (runs x tasks, any shape) above it (arXiv 2108.13264, 4.2)."""
    x = np.asarray(scores, np.float64).ravel()
    return np.asarray((x[None] > np.asarray(at, np.float64)[:, None]).mean(1))


def performance_profile(costs: Mapping[str, Sequence[float]], at: ArrayLike) -> dict[str, NDArray[np.float64]]:
    """Share of workloads on which a strategy's cost is within a factor of the best strategy's (Dolan and More 2002).

    `costs`: one a workload, in one order for all, infinite where the target was not reached; `at` [K]: factors >= 1.
    Workloads that nobody solved count against everybody. It depends on who takes part, unlike `geometric_ratio`.
    """
    table = np.asarray(list(costs.values()), np.float64)
    if table.ndim != 2 or not table.size or not (table > 0).all():
        raise ValueError("expected positive costs of the same workloads for every strategy")
    best = table.min(0)
    with np.errstate(invalid="ignore"):
        ratio = np.where(np.isfinite(table), table / best, np.inf)
    shares = (ratio[:, None, :] <= np.asarray(at, np.float64)[None, :, None]).mean(2)
    return dict(zip(costs, shares, strict=True))


@dataclass(frozen=True)
class Ratio:
    """Geometric mean over `workloads` of FLOPs to target over the reference's. Below 1 is cheaper.

    `censored`: workloads on which the target was not reached within what was billed; there the value is a lower bound.
    """

    value: float
    workloads: int
    censored: int


def geometric_ratio(flops: Sequence[tuple[float, float, float]]) -> Ratio | None:
    """Of (FLOPs to target, FLOPs billed at most, the reference's FLOPs to target) a workload; None without any.

    Workloads whose target the reference itself does not reach tell nothing and are left out.
    """
    known = [(to, limit, own) for to, limit, own in flops if math.isfinite(own) and own > 0]
    if not known:
        return None
    logs = [math.log(max(1.0, min(to, limit)) / own) for to, limit, own in known]
    missed = sum(not math.isfinite(to) for to, _, _ in known)
    return Ratio(math.exp(sum(logs) / len(logs)), len(known), missed)


@dataclass(frozen=True)
class Target:
    """What the reference reaches: the median over its runs of their best macro mean, in a metric of the looks."""

    metric: Literal["exact_match", "loss"]
    value: float


def curve(points: Sequence[Any], metric: Literal["exact_match", "loss"]) -> list[tuple[int, float]]:
    """(FLOPs billed, macro mean over tasks) of each look of a record's `curves`, losses with their sign changed.

    Looks at the same FLOPs are one, the last (the answer's, after a rollback). One with a task missing or a loss that
    is not finite has no mean and is left out.
    """
    looks: dict[int, dict[str, float]] = {}
    for p in points:
        value = p.exact_match if metric == "exact_match" else -p.loss if p.loss is not None else math.nan
        looks.setdefault(p.billed_flops, {})[p.task] = value
    tasks = {p.task for p in points}
    means = ((at, sum(v.values()) / len(v)) for at, v in sorted(looks.items()) if v.keys() == tasks)
    return [(at, value) for at, value in means if math.isfinite(value)]


def target(reference: Sequence[Sequence[Any]]) -> Target | None:
    """The target of a workload from the curves of the reference's runs at 1x (rules.md 9).

    In exact match; where that does not rise above the base model's in the median run (long targets match nowhere), in
    loss; None where neither moves.
    """
    metrics: tuple[Literal["exact_match", "loss"], ...] = ("exact_match", "loss")
    for metric in metrics:
        curves = [c for points in reference if (c := curve(points, metric))]
        if not curves:
            continue
        value = median_low(
            max(v for _, v in c) for c in curves
        )  # of an even number the lower: half would not reach a mean
        if value > median(c[0][1] for c in curves):
            return Target(metric, value)
    return None


def to_target(points: Sequence[Any], goal: Target) -> float:
    """FLOPs billed at the first look that reached the target; infinite where none did. Between looks nothing is assumed."""
    return next((float(at) for at, value in curve(points, goal.metric) if value >= goal.value), math.inf)


def median_to_target(runs: Sequence[Sequence[Any]], goal: Target, before: Sequence[int] = ()) -> float:
    """The median over a row's runs: infinite where half of them or more did not reach it.

    `before`: FLOPs that were spent for each run before it began.
    """
    if not runs:
        raise ValueError("expected at least one run")
    found = sorted(to_target(points, goal) + b for points, b in zip(runs, before or [0] * len(runs), strict=True))
    middle = found[(len(found) - 1) // 2 : len(found) // 2 + 1]
    return sum(middle) / len(middle)
