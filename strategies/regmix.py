"""RegMix: fit the validation loss of many short runs on random mixtures, train on the best predicted one (arXiv 2407.01492).

Deviations: the proxies are the model itself (paper: 512 models of 1M parameters); the target is the mean loss over tasks
(paper: one domain's); linear regression, the paper's second choice, in place of gradient-boosted trees. It is lowest at a
vertex, so candidates are drawn all over the simplex, around the prior with a concentration of 1 a task on average (released:
1 in all, near vertices). Mixtures are drawn without the released bounds on a domain's repetition.
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Array, Lab, LearnedMixture
from strategies._numerics import brief, common, known, learned, looked, losses, rounds, task_means


@dataclass(frozen=True)
class RegMix:
    runs: int | None = None  # proxies; None: two a task, at least 4
    proxies: float = 0.4  # of the budget, for all proxies with their looks
    looks: float = 0.3  # of that, for the looks
    items: int = 32  # validation items of each task that a proxy looks at, at most
    temperature: float = 0.5  # the prior is sizes ** temperature
    weakest: float = 0.1  # concentration of the Dirichlet around the prior: log-uniform between this
    strongest: float = 5.0  # and this
    candidates: int = 100_000  # mixtures whose loss is predicted, of concentration 1 a task on average
    best: int = 100  # of them are averaged
    mixture: LearnedMixture | None = None  # weights that another run has learned: no proxies

    def __post_init__(self) -> None:
        if not (0 < self.proxies < 1 and 0 < self.looks < 1):
            raise ValueError("proxies and looks are shares above 0 and below 1")

    def run(self, lab: Lab) -> None:
        lab.train(lab.mixture(known(lab, self.mixture) or self.learn(lab)))

    def learn(self, lab: Lab) -> dict[str, float]:
        """The mixture of the lowest predicted loss, from short runs on others."""
        tasks, held = sorted(lab.tasks), rounds(lab, self.items)
        prior = np.array([lab.tasks[task].n_train for task in tasks], float) ** self.temperature
        X = self.mixtures(lab.rng, prior, self.runs or max(4, 2 * len(tasks)))
        mixtures = [lab.mixture(dict(zip(tasks, p.tolist(), strict=True))) for p in X]
        seen = [looked(lab, mixture, held, losses, self.proxies / len(X), self.looks) for mixture in mixtures]
        items, found = common(held, seen)
        y = np.array([task_means(items, row).mean() for row in found])
        b = regressed(X, y)
        lab.log("proxies", {"mixtures": brief(X), "loss": y, "items": len(items), "coefficients": b})
        Z = lab.rng.dirichlet(len(tasks) * prior / prior.sum(), self.candidates)
        best = Z[np.argsort(Z @ b, kind="stable")[: self.best]].mean(0)
        return learned(lab, best, predicted=float(best @ b), uniform=float(b.mean()))

    def mixtures(self, rng: np.random.Generator, prior: Array, n: int) -> Array:
        """(n, tasks) draws around the prior, of every strength."""
        strength = np.exp(rng.uniform(np.log(self.weakest), np.log(self.strongest), n))
        return np.stack([rng.dirichlet(a * prior / prior.sum()) for a in strength])


def regressed(X: Array, y: Array) -> Array:
    """Coefficients b of y = X b by least squares; the weights sum to 1, so b holds the intercept. Unseen directions are 0."""
    mean, centre = y.mean(), X.mean(0)
    slope = np.linalg.lstsq(X - centre, y - mean, rcond=None)[0]
    b: Array = slope + (mean - centre @ slope)
    return b
