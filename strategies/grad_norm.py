"""GradNorm: train on the examples of each pool that have the largest gradients (arXiv 1803.00942).

Deviations: the largest of each pool, unweighted, as in the comparison of PartitionSel (arXiv 2606.07954); the paper
samples by the norm, with importance weights, and bounds it from the last layer. Here it is that of a sketch of the
last blocks' matrices' gradients, never normalised.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.api import Lab, Selection, lens
from strategies._numerics import tally, top


@dataclass(frozen=True)
class GradNorm:
    pool: int = 8  # candidates, in effective batches
    ratio: float = 0.125  # of the pool is kept; whole effective batches, at least one
    layers: int = 3  # gradients of the last blocks' matrices, as sketches; under LoRA of their adapters

    def wrap(self, lab: Lab) -> Lab:
        tasks = sorted(lab.tasks)

        def select(pool: Any) -> Selection:
            K = pool.gradients(modules=f"sketch:{self.layers}").gram()
            norm_N = np.sqrt(K.diagonal())
            S = top(norm_N, pool.batch * max(1, int(self.pool * self.ratio)))
            tally(pool, tasks, S, K, norm=norm_N[S].mean(), pool_norm=norm_N.mean())
            return Selection(pool.rng.permutation(S))

        return lens(lab, select=select, pool=self.pool)
