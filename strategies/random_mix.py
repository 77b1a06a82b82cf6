"""Random mixture: task weights drawn once from a Dirichlet distribution, the baseline of every learned mixture.

Variant: `union=true` is the Random of TaskPGM's comparison (arXiv 2507.12612): B draws with replacement from the union
of all tasks. Deviations: of that variant, B is a share of the pool and is trained on for the whole budget (paper: 25,000
examples of millions, once).
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab
from strategies._numerics import learned


@dataclass(frozen=True)
class RandomMix:
    alpha: float = 1.0  # concentration of each task: 1 is uniform over the simplex, large values are near uniform
    union: bool = False  # draw examples instead of weights
    B: float = 0.5  # examples of the union's draw, as a share of all

    def run(self, lab: Lab) -> None:
        tasks = sorted(lab.tasks)
        if self.union:
            n_K = np.array([lab.tasks[task].n_train for task in tasks])
            counts = lab.rng.multinomial(max(1, round(self.B * n_K.sum())), n_K / n_K.sum())
            learned(lab, counts / counts.sum())
            lab.train(lab.counts(dict(zip(tasks, counts.tolist(), strict=True)), replacement=True))
        else:
            lab.train(lab.mixture(learned(lab, lab.rng.dirichlet(np.full(len(tasks), self.alpha)))))
