"""GREATS: greedily keep the half of each pool that lowers the validation loss most in one step (NeurIPS 2024; Wang et al.).

Variant: `per_task=true` is the ID of PartitionSel's paper (arXiv 2606.07954): the same inside every task, by its
share of the pool. Deviations: anchors come from the validation split, two a selection of those held out (released:
two of five); sketches of the gradients of the last blocks' matrices (released: of all adapters; layers=999 gives
all blocks). At the learning rates of fine-tuning the interaction eta^2 K is too small to change the order;
`eta_select` makes it visible.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.api import Lab, Selection, lens
from strategies._numerics import anchors, budgets, domains, greedy_interaction, held_out, split, tally, top


@dataclass(frozen=True)
class GREATS:
    pool: int = 2  # candidates, in effective batches
    ratio: float = 0.5  # of the pool is kept; whole effective batches, at least one
    anchors: int = 2  # validation examples a selection
    share: float = 0.005  # of each task's size is held out for anchors to be drawn from
    layers: int = 3  # gradients of the last blocks' matrices, as sketches; under LoRA of their adapters
    normalize: bool = False  # gradients of length 1, as PartitionSel's own comparison has them
    eta_select: float | None = None  # eta; None: the learning rate of the step
    per_task: bool = False  # ID: inside every task

    def wrap(self, lab: Lab) -> Lab:
        tasks, held = sorted(lab.tasks), held_out(lab, self.share)

        def select(pool: Any) -> Selection:
            looked = [*pool.examples, *anchors(held, pool, self.anchors)]
            G = pool.gradients(looked, modules=f"sketch:{self.layers}", normalize=self.normalize)
            K, s, _ = split(G.gram(), len(pool))
            eta = pool.lr if self.eta_select is None else self.eta_select
            kappa = pool.batch * max(1, int(self.pool * self.ratio))
            dom_N = domains(pool.task) if self.per_task else np.zeros(len(pool), int)
            S = np.concatenate(
                [
                    mine[greedy_interaction(s[mine], eta * K[np.ix_(mine, mine)], kappa_c)]
                    for c, kappa_c in enumerate(budgets(np.bincount(dom_N), kappa))
                    for mine in [np.flatnonzero(dom_N == c)]
                ]
            )
            tally(pool, tasks, S, K, overlap=np.isin(S, top(s, kappa)).mean())
            return Selection(pool.rng.permutation(S))

        return lens(lab, select=select, pool=self.pool)
