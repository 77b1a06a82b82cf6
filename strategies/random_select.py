"""Random selection: a uniform subset of each pool, the baseline of every selector. Deviations: none."""

from dataclasses import dataclass
from typing import Any

from harness.api import Lab, Selection, lens


@dataclass(frozen=True)
class RandomSelect:
    pool: int = 8  # candidates, in effective batches
    ratio: float = 0.125  # of the pool is kept; whole effective batches, at least one

    def wrap(self, lab: Lab) -> Lab:
        def select(pool: Any) -> Selection:
            kappa = pool.batch * max(1, int(self.pool * self.ratio))
            return Selection(pool.rng.choice(len(pool), kappa, replace=False))

        return lens(lab, select=select, pool=self.pool)
