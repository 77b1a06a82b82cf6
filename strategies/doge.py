"""DoGE: a task counts by how well its gradient in a proxy agrees with that of validation items (arXiv 2310.15393).

Deviations: the proxy is the model itself on a share of the budget; the target gradient, a sum over tasks, is of validation
items (paper: of the batches of all domains), and the tasks drawn for a step stand for all; gradients of the last
blocks' matrices, of each example's mean token loss; alpha is renormalised over the tasks of the batch. Released and
later code divides by the gradients' norm and clips; here, as in the paper, the weights follow the plain inner products.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.api import Array, Lab, LearnedMixture, Selection
from strategies._numerics import domains, group_weights, known, learned, tilted


@dataclass(frozen=True)
class DoGE:
    mu: float = 0.05  # Bregman coefficient: weights move by exp(eta W / mu), eta the learning rate
    proxy: float = 0.3  # of the budget
    anchors: int = 8  # validation examples a step
    items: int = 32  # of each task, at most, from which they are drawn
    layers: int = 3  # gradients of the last blocks' matrices
    mixture: LearnedMixture | None = None  # weights that another run has learned: no proxy

    def __post_init__(self) -> None:
        if not (0 < self.proxy < 1 and self.mu > 0):
            raise ValueError("proxy is a share above 0 and below 1, mu is above 0")

    def run(self, lab: Lab) -> None:
        lab.train(lab.mixture(known(lab, self.mixture) or self.learn(lab)))

    def learn(self, lab: Lab) -> dict[str, float]:
        """The mean of the proxy's weights."""
        tasks, uniform = sorted(lab.tasks), np.full(len(lab.tasks), 1 / len(lab.tasks))
        held = [e for t in tasks for e in lab.sample(t, min(self.items, lab.tasks[t].n_validation), "validation")]
        K = len({e.task for e in held})

        def select(pool: Any) -> Selection:
            """All of the batch, weighted by alpha after this step's update."""
            chosen = pool.rng.choice(len(held), min(self.anchors, len(held)), replace=False)
            drawn = [held[i] for i in sorted(chosen)]
            G = pool.gradients(modules=f"last:{self.layers}")
            V = pool.gradients(drawn, modules=f"last:{self.layers}")
            dom_N = np.array([tasks.index(t) for t in pool.task])
            W = K * agreement(G.gram(V).astype(float), dom_N, domains([e.task for e in drawn]), len(tasks))
            alpha = self.updated(pool.state.get("alpha", uniform), W, pool.lr)
            pool.state["alpha"] = alpha
            pool.state["alpha.sum"] = pool.state.get("alpha.sum", 0 * uniform) + alpha
            return Selection(range(len(pool)), group_weights(alpha, dom_N, pool.tokens).tolist())

        p, steps = uniform, 0
        with lab.fork("proxy", budget=f"{self.proxy} budget") as child:
            steps = child.train(child.uniform(), keep="none", select=select).steps
            p = child.state["alpha.sum"]
            p = p / p.sum()
        return learned(lab, p, steps=steps)

    def updated(self, alpha: Array, W: Array, lr: float) -> Array:
        """alpha exp(lr W / mu), normalised; W (n,): the agreement of each task's gradient with the target's."""
        return tilted(alpha, lr * W / self.mu)


def agreement(K_NM: Array, dom_N: Array, dom_M: Array, n: int) -> Array:
    """W (n,): <mean gradient of each task, mean of the validation tasks' mean gradients>; 0 for a task not in the batch."""
    share_M = 1 / np.bincount(dom_M)[dom_M]
    along_N = K_NM @ (share_M / share_M.sum())
    W: Array = np.bincount(dom_N, along_N, n) / np.maximum(np.bincount(dom_N, minlength=n), 1)
    return W
