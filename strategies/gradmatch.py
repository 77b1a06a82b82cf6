"""GradMatch: a weighted subset whose gradient matches the whole pool's, by orthogonal matching pursuit (arXiv 2103.00123).

Deviations: from each pool before each update (paper: from the whole training set every 20 epochs), on sketches of
the gradients of the last blocks' matrices (paper: of the last layer). The weights are rescaled to mean 1, so that
the learning rate keeps its meaning; what the pursuit leaves open is filled at random with weight 1 before that. What is
matched are gradients of mean token losses, while the harness's loss sums over tokens: longer responses count for more.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.api import Lab, Selection, lens
from strategies._numerics import anchors, budgets, domains, held_out, orthogonal_pursuit, split, tally


@dataclass(frozen=True)
class GradMatch:
    pool: int = 8  # candidates, in effective batches
    ratio: float = 0.125  # of the pool is kept; whole effective batches, at least one
    lam: float = 0.5  # lambda, for gradients of length 1 (normalize) or of their own
    tol: float = 1e-4  # the pursuit ends below this share of the target
    target: Literal["train", "validation"] = "train"  # whose gradient is matched: the pool's, or the anchors'
    anchors: int = 4  # validation examples a selection, for target = validation
    share: float = 0.005  # of each task's size is held out for anchors to be drawn from
    layers: int = 3  # gradients of the last blocks' matrices, as sketches; under LoRA of their adapters
    normalize: bool = False  # gradients of length 1
    per_task: bool = False  # inside every task, by its share of the pool; the anchors' gradient is that of all tasks

    def wrap(self, lab: Lab) -> Lab:
        tasks, held = sorted(lab.tasks), held_out(lab, self.share)

        def select(pool: Any) -> Selection:
            looked = [*pool.examples, *(anchors(held, pool, self.anchors) if self.target == "validation" else [])]
            G = pool.gradients(looked, modules=f"sketch:{self.layers}", normalize=self.normalize)
            K, s, norm = split(G.gram(), len(pool))
            dom_N = domains(pool.task) if self.per_task else np.zeros(len(pool), int)
            kappa = pool.batch * max(1, int(self.pool * self.ratio))
            chosen, weights = [], []
            for c, kappa_c in enumerate(budgets(np.bincount(dom_N), kappa)):
                mine = np.flatnonzero(dom_N == c)
                K_c = K[np.ix_(mine, mine)]
                if self.target == "train":  # the sum of the task's gradients, or of all
                    found, w = orthogonal_pursuit(K_c, K_c.sum(1), K_c.sum(), kappa_c, self.lam, self.tol)
                else:  # the anchors' mean gradient, as often as there are candidates
                    n = len(mine)
                    found, w = orthogonal_pursuit(K_c, n * s[mine], n**2 * norm, kappa_c, self.lam, self.tol)
                rest = np.setdiff1d(np.arange(len(mine)), found)
                filled = pool.rng.choice(rest, kappa_c - len(found), replace=False)
                chosen += [*mine[found], *mine[filled]]
                weights += [*w, *np.ones(len(filled))]
            S, w_S = np.array(chosen), np.array(weights)
            tally(pool, tasks, S, K, largest=w_S.max() / w_S.mean())
            order = pool.rng.permutation(len(S))
            return Selection(S[order], w_S[order] / w_S.mean())

        return lens(lab, select=select, pool=self.pool)
