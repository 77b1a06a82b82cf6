"""Means and differences over seeds with Student-t intervals. Values keep the unit they came in (scores: fractions).

A seed is the unit of replication: items of one run share its weights, so they are no independent evidence about a
strategy. The standard error over items is offered for rows with one seed and must be labelled as such.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # the t quantile alone: scipy.stats takes a second to import

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
