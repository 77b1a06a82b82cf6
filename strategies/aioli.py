"""Aioli: short bursts on one task after another show how tasks move each other's losses, weights follow (arXiv 2411.05735).

The bursts are steps of the run itself, as released. Deviations: a round is a share of the budget (released: 250 of 5,000
steps, bursts of 6 steps in 4 sweeps); losses are means over a sample of validation items whose size is such that
looks take a share of the budget; the weights are a running product, also with smoothed A.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Array, Lab
from strategies._numerics import brief, known, learned, losses, rounds, task_means, tilted


@dataclass(frozen=True)
class Aioli:
    eta: float = 0.1  # how sharply weights follow A
    ema: float = 0.5  # memory of A
    one_hot: float = 0.5  # weight of the burst's task; the others share the rest
    rounds: int = 5  # T
    delta: float = 0.5  # share of a round that is bursts
    sweeps: int = 1  # over all tasks in a round's bursts
    normalize: bool = True  # A is made nonnegative with sum 1
    looks: float = 0.15  # of the budget, for looks at validation items
    items: int = 16  # validation items of each task at a look, at most

    def __post_init__(self) -> None:
        if not (0 < self.looks < 1 and 0 < self.delta < 1 and self.rounds >= 1 and self.sweeps >= 1):
            raise ValueError("looks and delta are shares above 0 and below 1, rounds and sweeps at least 1")

    def run(self, lab: Lab) -> None:
        if weights := known(lab):
            lab.train(lab.mixture(weights))
            return
        tasks, n = sorted(lab.tasks), len(lab.tasks)
        held, spent = rounds(lab, self.items), lab.budget.spent
        lab.logprobs(held[0])  # one item of each task, for the price of a look
        price = (lab.budget.spent - spent) * self.rounds * (self.sweeps * n + 1)
        affordable = max(1, int(self.looks * lab.budget.total / price))
        items = [example for batch in held[:affordable] for example in batch]
        each = (1 - self.looks) / self.rounds
        burst = f"{each * self.delta / (self.sweeps * n)} budget"
        P, p, A = self.bursts(n), np.full(n, 1 / n), np.zeros((n, n))
        for t in range(self.rounds):
            fall, before = np.zeros((n, n)), task_means(items, losses(lab, items))
            for i in [i for _ in range(self.sweeps) for i in lab.rng.permutation(n)]:
                lab.train(lab.mixture(dict(zip(tasks, P[i].tolist(), strict=True))), burst, keep="none")
                after = task_means(items, losses(lab, items))
                fall[:, i] += (before - after) / self.sweeps
                before = after
            A = self.smoothed(A, self.solved(P, fall), t)
            p = tilted(p, self.eta * A.sum(0))
            mixture = lab.mixture(learned(lab, p, self.rounds, A=brief(A, 4000 // self.rounds), items=len(items)))
            if t == self.rounds - 1:
                lab.train(mixture)
            else:
                lab.train(mixture, f"{each * (1 - self.delta)} budget", keep="none")

    def bursts(self, n: int) -> Array:
        """(n, n): the mixture of each burst."""
        others = (1 - self.one_hot) / max(1, n - 1)
        P: Array = np.full((n, n), others) + (self.one_hot - others) * np.eye(n)
        P /= P.sum(1, keepdims=True)
        return P

    def solved(self, P: Array, fall: Array) -> Array:
        """A (n, n) with P A_i = fall_i: what a unit of task j lowers the loss of i. Least squares, for P can be singular."""
        A: Array = np.linalg.lstsq(P, fall.T, rcond=None)[0].T
        if self.normalize:
            A = A - min(0.0, A.min())
            A = A / A.sum() if A.sum() > 0 else np.full(A.shape, 1 / A.size)
        return A

    def smoothed(self, A: Array, new: Array, t: int) -> Array:
        return new if t == 0 else (1 - self.ema) * new + self.ema * A
