"""CoLM: medoids of each task's gradients, and every example of rare tasks, as a smaller batch (arXiv 2407.19580).

Medoids by the cosine of back-propagated gradients are the port in PartitionSel's code (arXiv 2606.07954), where rare
tasks are kept whole by a switch that is off as released: rare=0. Deviations: sketches of the gradients of the last
blocks' matrices (paper: zeroth-order gradients of the last value projection, scaled by Adam's moments, in L1). A task
is rare where the mixture gives it less than `rare` of an equal share (paper: the small sources of its data, known
beforehand).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.api import Lab, Selection, lens
from strategies._numerics import budgets, domains, facility_location, tally


@dataclass(frozen=True)
class CoLM:
    pool: int = 2  # candidates, in effective batches
    ratio: float = 0.5  # of the pool is kept; whole effective batches, at least one
    layers: int = 3  # gradients of the last blocks' matrices, as sketches; under LoRA of their adapters
    rare: float = 0.5  # kept whole below this part of an equal share, while they fill half of what is kept at most

    def wrap(self, lab: Lab) -> Lab:
        tasks = sorted(lab.tasks)

        def select(pool: Any) -> Selection:
            K = pool.gradients(modules=f"sketch:{self.layers}", normalize=True).gram().astype(float)
            dom_N, kappa = domains(pool.task), pool.batch * max(1, int(self.pool * self.ratio))
            share_C = np.array([pool.share[t] for t in sorted(set(pool.task))])
            rare_C = share_C < self.rare / len(pool.share)
            S = np.concatenate(
                [
                    mine[facility_location(1.0 + K[np.ix_(mine, mine)], kappa_c)]
                    for c, kappa_c in enumerate(self.budgets(np.bincount(dom_N), rare_C, kappa))
                    for mine in [np.flatnonzero(dom_N == c)]
                ]
            )
            tally(pool, tasks, S, K)
            return Selection(pool.rng.permutation(S))

        return lens(lab, select=select, pool=self.pool)

    def budgets(self, n_C: Any, rare_C: Any, kappa: int) -> Any:
        """kappa_C (C,): rare tasks whole, the rest of kappa by size."""
        if n_C[rare_C].sum() > kappa // 2:
            return budgets(n_C, kappa)
        return np.where(rare_C, n_C, budgets(np.where(rare_C, 0, n_C), kappa - n_C[rare_C].sum()))
