"""DoReMi: weights of the tasks on which a small run by group DRO exceeds a reference the most (arXiv 2305.10429).

Deviations: reference and proxy are the model itself, each on a share of the budget (paper: smaller models, 200,000
steps). A step's domain losses are means over the tokens of that domain, so a task counts by alpha_c and not by
alpha_c n_c as in some ports, and alpha is renormalised over the tasks of the batch; a task absent from a batch keeps its
last excess loss (released, too), at first 0. The current losses are a forward pass of their own, billed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.api import Array, ExampleWeights, Lab, LearnedMixture
from strategies._numerics import group_weights, known, learned, tilted


@dataclass(frozen=True)
class DoReMi:
    eta: float = 1.0  # step size of the weights
    c: float = 1e-3  # share of uniform smoothing
    reference: float = 0.1  # of the budget, for the reference model on the proportional mixture
    proxy: float = 0.2  # of the budget, for the proxy
    steps: int = 200_000  # of the proxy, at most
    mixture: LearnedMixture | None = None  # weights that another run has learned: neither reference nor proxy

    def __post_init__(self) -> None:
        if not (0 < self.reference < 1 and self.proxy > 0 and self.reference + self.proxy < 1):
            raise ValueError("reference and proxy are shares above 0, together below 1")

    def run(self, lab: Lab) -> None:
        lab.train(lab.mixture(known(lab, self.mixture) or self.learn(lab)))

    def learn(self, lab: Lab) -> dict[str, float]:
        """The mean of the proxy's weights."""
        tasks = sorted(lab.tasks)
        reference = lab.checkpoint()
        with lab.fork("proxy", budget=f"{self.reference} budget") as child:
            child.train(child.proportional(), keep="none")
            reference = child.checkpoint()
        alpha, excess, trail = np.full(len(tasks), 1 / len(tasks)), np.zeros(len(tasks)), []
        with lab.fork("proxy", budget=f"{self.proxy} budget") as child:
            for _ in range(self.steps):
                batch = child.draw(child.uniform())
                dom_N = np.array([tasks.index(example.task) for example in batch])
                excess = exceeded(excess, dom_N, child.logprobs(batch), child.logprobs(batch, at=reference))
                alpha = self.updated(alpha, excess)
                child.train(child.just(batch), "1 step", keep="none", example_weights=weigher(alpha, dom_N))
                trail.append(alpha)
        p = np.mean(trail, axis=0) if trail else alpha
        return learned(lab, p, steps=len(trail), last=alpha.round(6))

    def updated(self, alpha: Array, excess: Array) -> Array:
        """alpha exp(eta excess), normalised, and smoothed with the uniform distribution."""
        smoothed: Array = (1 - self.c) * tilted(alpha, self.eta * excess) + self.c / len(alpha)
        return smoothed


def exceeded(excess: Array, dom_N: Array, now: Sequence[Array], reference: Sequence[Array]) -> Array:
    """(n,) mean over each task's tokens of max(loss - reference's loss, 0); of tasks not in the batch as before."""
    over_N = [np.maximum(r.astype(float) - x, 0.0).sum() for x, r in zip(now, reference, strict=True)]
    tokens_n = np.bincount(dom_N, [len(x) for x in now], len(excess))
    found: Array = np.where(tokens_n > 0, np.bincount(dom_N, over_N, len(excess)) / np.maximum(tokens_n, 1), excess)
    return found


def weigher(alpha: Array, dom_N: Array) -> ExampleWeights:
    """The weights of this batch's examples."""
    return lambda batch: group_weights(alpha, dom_N, batch.tokens)
