"""Skill-It: weights follow a graph of which task helps which and the tasks' current validation losses (arXiv 2307.14430).

Deviations: the graph is the relative fall of each task's loss after training on one task alone (the paper's cheaper
variant), negative edges 0; those one-task runs are the model itself on a share of the budget. The mixture changes T
times, evenly over the rest of the budget. Losses are means over a sample of validation items, the same at every look.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.api import Array, Lab
from strategies._numerics import brief, common, known, learned, looked, losses, rounds, task_means, tilted


@dataclass(frozen=True)
class SkillIt:
    eta: float = 0.2  # how sharply weights follow losses
    T: int = 10  # rounds of training, each with a mixture of its own
    w: int = 3  # the losses of so many last rounds count
    proxies: float = 0.2  # of the budget, for all one-task runs with their looks
    looks: float = 0.3  # of that, for the looks
    items: int = 16  # validation items of each task at a look, at most

    def __post_init__(self) -> None:
        if not (0 < self.proxies < 1 and 0 < self.looks < 1 and self.T >= 1):
            raise ValueError("proxies and looks are shares above 0 and below 1, T is at least 1")

    def run(self, lab: Lab) -> None:
        if weights := known(lab):
            lab.train(lab.mixture(weights))
            return
        tasks, held = sorted(lab.tasks), rounds(lab, self.items)
        share = self.proxies / len(tasks)
        items, found = common(held, [looked(lab, lab.only(task), held, losses, share, self.looks) for task in tasks])
        spent = lab.budget.spent
        before = task_means(items, losses(lab, items))
        price = lab.budget.spent - spent
        A = graph(before, np.stack([task_means(items, row) for row in found]))
        lab.log("graph", {"tasks": tasks, "items": len(items), "A": brief(A)})
        each = max(1, lab.budget.remaining - (self.T - 1) * price) / self.T / lab.budget.total
        L: list[Array] = []
        for t in range(self.T):
            p = self.weights(A, L)
            mixture = lab.mixture(learned(lab, p, self.T))
            if t == self.T - 1:
                lab.train(mixture)
            else:
                lab.train(mixture, f"{each} budget", keep="none")
                L.append(task_means(items, losses(lab, items)))

    def weights(self, A: Array, last: Sequence[Array]) -> Array:
        """p_i ~ exp(eta sum_j A_ij L_j) with L the sum of the last w losses; all 1 before the first round."""
        L = np.sum(last[-self.w :], axis=0) if last else np.ones(len(A))
        return tilted(np.full(len(A), 1 / len(A)), self.eta * A @ L)


def graph(before: Array, after: Array) -> Array:
    """A_ij: by what part training on i alone lowers the loss of j (before: (n,); after: (n, n), one row a run)."""
    A: Array = np.maximum(0.0, (before - after) / before)
    return A
