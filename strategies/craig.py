"""CRAIG: medoids of the pool's gradients by facility location, weighted by the size of their clusters (arXiv 1906.01827).

Deviations: from each pool before each update (paper: from each class of the whole training set every epoch), on
sketches of the gradients of the last blocks' matrices (paper: a bound from the last layer's input). The weights are
rescaled to mean 1, so that the learning rate keeps its meaning. They are of gradients of mean token losses, while the
harness's loss sums over tokens: longer responses count for more.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.api import Lab, Selection, lens
from strategies._numerics import facility_location, tally


@dataclass(frozen=True)
class CRAIG:
    pool: int = 8  # candidates, in effective batches
    ratio: float = 0.125  # of the pool is kept; whole effective batches, at least one
    layers: int = 3  # gradients of the last blocks' matrices, as sketches; under LoRA of their adapters

    def wrap(self, lab: Lab) -> Lab:
        tasks = sorted(lab.tasks)

        def select(pool: Any) -> Selection:
            K = pool.gradients(modules=f"sketch:{self.layers}").gram().astype(float)
            squares = K.diagonal()
            d = np.sqrt(np.maximum(squares[:, None] + squares - 2 * K, 0.0))
            S = facility_location(d.max() - d, pool.batch * max(1, int(self.pool * self.ratio)))
            gamma = np.bincount(d[:, S].argmin(1), minlength=len(S))  # each candidate belongs to its nearest medoid
            tally(pool, tasks, S, K, largest=gamma.max() / gamma.mean())
            order = pool.rng.permutation(len(S))
            return Selection(S[order], gamma[order] / gamma.mean())

        return lens(lab, select=select, pool=self.pool)
