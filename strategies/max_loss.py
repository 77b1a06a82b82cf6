"""MaxLoss: train on the examples of each pool that have the highest loss (arXiv 1511.06343, arXiv 1910.00762).

Deviations: the highest of each pool (the papers draw by a rank's or a percentile's probability); losses are of now,
by a forward pass over the pool, and the mean over an example's tokens.
"""

from dataclasses import dataclass
from typing import Any

from harness.api import Lab, Selection, lens
from strategies._numerics import tally, top


@dataclass(frozen=True)
class MaxLoss:
    pool: int = 8  # candidates, in effective batches
    ratio: float = 0.125  # of the pool is kept; whole effective batches, at least one

    def wrap(self, lab: Lab) -> Lab:
        tasks = sorted(lab.tasks)

        def select(pool: Any) -> Selection:
            S = top(pool.nll, pool.batch * max(1, int(self.pool * self.ratio)))
            tally(pool, tasks, S, nll=pool.nll[S].mean(), pool_nll=pool.nll.mean())
            return Selection(pool.rng.permutation(S))

        return lens(lab, select=select, pool=self.pool)
