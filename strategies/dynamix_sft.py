"""DynamixSFT: tasks are arms of a bandit, rewarded by how far one step on a task lowers its own loss (arXiv 2508.12116).

Deviations: the virtual step is a real one, billed, with the run's optimizer and its momentum at the rate of the moment (the
paper's algorithm has one; its cost estimate counts forward passes only); its batch is the next that training would see of the
task. Tasks get their exact shares of a training's examples (paper: drawn at random). Length, LR schedule and batch are the
suite's (paper: 2 epochs, linear decay, 128).
"""

from dataclasses import dataclass

import numpy as np

from harness.api import Array, Lab


@dataclass(frozen=True)
class DynamixSFT:
    gamma: float = 0.3  # share of uniform exploration
    alpha: float = 0.95  # memory of the values Q
    beta: float = 4.0  # how sharply the weights follow Q; 4 for a model of 1B, 5 for 8B
    T: int = 50  # steps between updates of Q

    def run(self, lab: Lab) -> None:
        prior = lab.proportional()
        p0_K = np.array([prior.weights[task] for task in prior.tasks])
        Q_K = np.zeros(len(p0_K))
        while True:
            p = dict(zip(prior.tasks, self.shares(p0_K, Q_K).tolist(), strict=True))
            lab.train(lab.mixture(p), f"{self.T} step", keep="none")
            r_K = np.array([look_ahead(lab, task) for task in prior.tasks])
            Q_K = self.updated(Q_K, r_K)

    def shares(self, p0_K: Array, Q_K: Array) -> Array:
        """Probabilities of the arms: the prior tilted by exp(beta Q), smoothed with the uniform distribution."""
        tilted_K = p0_K * np.exp(self.beta * Q_K)
        shares_K: Array = (1 - self.gamma) * tilted_K / tilted_K.sum() + self.gamma / len(p0_K)
        return shares_K

    def updated(self, Q_K: Array, r_K: Array) -> Array:
        """The moving average of the rewards, each time min-max normalised over the arms; equal rewards are all 0."""
        spread = np.ptp(r_K)
        normal_K = (r_K - r_K.min()) / spread if spread > 0 else np.zeros_like(r_K)
        values_K: Array = self.alpha * Q_K + (1 - self.alpha) * normal_K
        return values_K


def look_ahead(lab: Lab, task: str, eps: float = 1e-8) -> float:
    """Mean relative fall of the examples' losses after one virtual step on a batch of the task."""
    reward = 0.0
    with lab.fork("probe", start="now") as child:
        batch = child.draw(child.only(task))
        child.train(child.just(batch), "1 step", keep="none")
        pre_N = child.examples.get("nll", batch).astype(float)  # the step has seen them before it moved
        post_N = np.array([-logp.mean() for logp in child.logprobs(batch)], dtype=float)
        reward = float(((pre_N - post_N) / (pre_N + eps)).mean())
    return reward
