"""PartitionSel: of each pool, keep what matches the validation gradient, every task by its share (arXiv 2606.07954).

Variants: `within=true` is the paper's IWD, which sees no interaction between tasks; its ID is `greats` with
per_task=true. `faithful=true` refits as released: from random weights, 128 steps, with an absolute 1e-8 in the step
size, which at small learning rates leaves them where they began; else the refit is solved, for eta w, from the weights
of the round before. Deviations: anchors are drawn from the validation split (paper: from a held-out 0.5 % of the
training set), only of tasks that are being trained on; in full fine-tuning the gradients are sketches of those of the
last blocks' matrices, 16 x 16 numbers each (paper: the gradients of their LoRA adapters). The loss is the harness's.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from harness.api import Lab, Selection, lens
from strategies._numerics import (
    anchors,
    budgets,
    domains,
    held_out,
    matroid_pursuit,
    restarted,
    split,
    tally,
    top,
    warm,
)


@dataclass(frozen=True)
class PartitionSel:
    pool: int = 8  # candidates, in effective batches
    ratio: float = 0.125  # of the pool is kept; whole effective batches, at least one
    anchors: int = 4  # V, validation examples a selection
    share: float = 0.005  # of each task's size is held out for anchors to be drawn from
    layers: int = 3  # gradients of the last blocks' matrices, as sketches; under LoRA of their adapters
    eta_select: float | None = None  # eta; None: the learning rate of the step
    faithful: bool = False  # the refit as released; else solved
    iterations: int = 128  # T of each refit as released
    greedy: bool = False  # take the best of the basis; paper: one at random
    within: bool = False  # IWD: no interaction between tasks

    def wrap(self, lab: Lab) -> Lab:
        tasks, held = sorted(lab.tasks), held_out(lab, self.share)

        def select(pool: Any) -> Selection:
            dom_N, looked = domains(pool.task), [*pool.examples, *anchors(held, pool, self.anchors)]
            G = pool.gradients(looked, modules=f"sketch:{self.layers}", normalize=True)
            K, s, norm = split(G.gram(), len(pool))  # norm: |g_val|^2
            eta = max(pool.lr if self.eta_select is None else self.eta_select, 1e-12)
            b = s + 0.5 * eta * K.diagonal()  # U(w) with v = eta w: <v, b> - <v, K v> / 2
            seen = np.where(dom_N[:, None] == dom_N, K, 0.0) if self.within else K
            kappa = pool.batch * max(1, int(self.pool * self.ratio))
            kappa_C, rng = budgets(np.bincount(dom_N), kappa), None if self.greedy else pool.rng
            if self.faithful:
                refit = partial(restarted, rng=pool.rng, iterations=self.iterations)
                S, w = matroid_pursuit(eta**2 * seen, eta * b, dom_N, kappa_C, rng, refit)
                v = eta * w
            else:
                S, v = matroid_pursuit(seen, b, dom_N, kappa_C, rng, warm)
            tally(
                pool,
                tasks,
                S,
                K,
                residual=float(norm - 2 * v @ s + v @ K @ v) / max(norm, 1e-30),
                overlap=np.isin(S, top(s, kappa)).mean(),
            )
            return Selection(pool.rng.permutation(S))

        return lens(lab, select=select, pool=self.pool)
