"""Means and differences over seeds with Student-t intervals. Values keep the unit they came in (scores: fractions).

A seed is the unit of replication: items of one run share its weights, so they are no independent evidence about a
strategy. The standard error over items is offered for rows with one seed and must be labelled as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtrinc, ndtri, stdtr, stdtrit  # alone: scipy.stats takes a second to import

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over `n` seeds and the ends of its interval, which one seed does not have."""

    value: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval; None with one seed."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Mean of one value a seed, with mean ± t(n-1) * sd / sqrt(n). Ends are not cut to [0, 1].

    Raises ValueError without values, on values that are not finite, and on a confidence outside (0, 1).
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not x.size or not np.isfinite(x).all():
        raise ValueError("expected at least one finite value")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence}: expected a number between 0 and 1")
    n, mean = int(x.size), float(x.mean())
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * float(x.std(ddof=1)) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_difference(
    a: Mapping[int, float], b: Mapping[int, float], confidence: float = CONFIDENCE
) -> Estimate | None:
    """Mean of a - b over the seeds that both have, with its interval; None where they share no seed.

    Pairing removes what the seed gives to both (data order, initial adapters); it is the paired t-test's interval.
    """
    shared = sorted(a.keys() & b.keys())
    return mean_interval([a[seed] - b[seed] for seed in shared], confidence) if shared else None


def macro_standard_error(stderrs: Sequence[float]) -> float:
    """Standard error over items of an unweighted mean over tasks, whose items are independent between tasks."""
    if not stderrs:
        raise ValueError("expected at least one standard error")
    return math.sqrt(sum(s * s for s in stderrs)) / len(stderrs)


def t_quantile(df: ArrayLike, alpha: float) -> NDArray[Any]:
    """The two-sided critical value of Student's t: |t| is larger with probability alpha. df may be infinite."""
    return np.asarray(stdtrit(_finite(df), 1 - alpha / 2))


def t_tail(t: ArrayLike, df: ArrayLike) -> NDArray[Any]:
    """The two-sided probability of a |t| at least as large."""
    return np.asarray(2 * stdtr(_finite(df), -np.abs(np.asarray(t))))


def _finite(df: ArrayLike) -> NDArray[Any]:
    return np.minimum(np.asarray(df, np.float64), 1e7)  # beyond it Student's t is the normal to eight digits


def detectable(error: float, df: float, alpha: float = 1 - CONFIDENCE, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided t test at level alpha finds with this power.

    error: standard error of the difference; its noncentral t is solved for the difference.
    """
    critical = float(t_quantile(df, alpha))
    if df > 1000:
        return error * (critical + float(ndtri(power)))
    return error * float(nctdtrinc(df, 1 - power, critical))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given: reject those below alpha, and no true null is rejected but with
    probability alpha.
    """
    adjusted, worst = [0.0] * len(p), 0.0
    for rank, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        worst = max(worst, min(1.0, (len(p) - rank) * p[k]))
        adjusted[k] = worst
    return adjusted
