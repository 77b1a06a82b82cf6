"""RHO-Loss: train on the examples of each pool whose loss exceeds most what a model of held-out data leaves (arXiv 2206.07137).

As in the paper's variant without hold-out data, two reference models each learn a random half of the data and judge
the other half; both are billed. Deviations: the references are the model itself, trained for a share of the budget
(paper: a small model, until its loss on held-out data is lowest), or as it begins where that pays for no step; the
mean loss over an example's tokens.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.api import Lab, Selection, lens
from strategies._numerics import tally, top


@dataclass(frozen=True)
class RHOLoss:
    pool: int = 10  # n_B / n_b: candidates, in effective batches
    ratio: float = 0.1  # of the pool is kept; whole effective batches, at least one
    reference: float = 0.1  # of the budget, for both references

    def wrap(self, lab: Lab) -> Lab:
        tasks, everyone = sorted(lab.tasks), lab.examples.where("visits", above=-1)
        side_N = lab.rng.permutation(np.arange(len(everyone)) % 2)
        halves = [[e for e, side in zip(everyone, side_N, strict=True) if side == half] for half in (0, 1)]
        references = [lab.checkpoint()] * 2
        for k, others in enumerate(reversed(halves)):
            with lab.fork("proxy", budget=f"{self.reference / 2} budget") as child:
                child.train(child.proportional().without(others), keep="none")
                references[k] = child.checkpoint()
        second = {e.id for e in halves[1]}

        def select(pool: Any) -> Selection:
            irreducible_N = np.zeros(len(pool))
            of_second = np.array([e.id in second for e in pool.examples])
            for judged, at in ((of_second, references[0]), (~of_second, references[1])):
                rows = np.flatnonzero(judged)
                irreducible_N[rows] = [-logp.mean() for logp in pool.logprobs([pool.examples[i] for i in rows], at=at)]
            S = top(pool.nll - irreducible_N, pool.batch * max(1, int(self.pool * self.ratio)))
            tally(pool, tasks, S, nll=pool.nll[S].mean(), irreducible=irreducible_N[S].mean())
            return Selection(pool.rng.permutation(S))

        return lens(lab, select=select, pool=self.pool)
