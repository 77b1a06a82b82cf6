"""Keeps the candidates whose gradients agree with the pool's, weighted by loss (ours).

Deviations: none.
"""

from dataclasses import dataclass

import numpy as np
import torch

from harness.api import Lab, Selection


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        def select(pool):
            K_NN = torch.from_numpy(pool.gradients(modules="last:1", normalize=True).gram().astype(float))
            value_N = (K_NN @ torch.ones(len(pool), dtype=torch.float64)).numpy() + 0.1 * pool.nll
            best = np.argsort(-value_N, kind="stable")[: pool.batch]
            pool.table["chosen"] = 1.0
            return Selection(best, 1.0 + pool.rng.random(len(best)))

        lab.train(lab.proportional(), "0.3 budget")
        lab.train(lab.uniform(), pool=2, select=select)
