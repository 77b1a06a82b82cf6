"""IES: an example whose loss has settled (small second differences) is not trained on in the next epoch (arXiv 2502.07547).

Deviations: the loss is the mean token NLL of the response. An example that an epoch did not train on is forwarded at its end,
billed: the excluded ones, which may return, and what whole batches left over. The run lasts as long as the budget, or
until every example has settled.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.api import Array, Lab


@dataclass(frozen=True)
class IES:
    delta: float = 1e-3  # settled below this (their CIFAR-10 value; 1e-1 to 1e-5 advised)
    window: int = 3  # the mean is over so many second differences,
    least: int = 4  # and nothing is settled before so many are known: six epochs of losses

    def run(self, lab: Lab) -> None:
        everyone = lab.examples.where("visits", above=-1)
        mixture, losses, visits = lab.proportional(), [], np.zeros(len(everyone))
        while True:
            lab.train(mixture, "1 epoch", keep="none")
            before, visits = visits, lab.examples.get("visits", everyone)
            loss_N = lab.examples.get("nll", everyone).astype(float)
            (unseen,) = np.nonzero(visits == before)
            loss_N[unseen] = [-logp.mean() for logp in lab.logprobs([everyone[i] for i in unseen])]
            losses.append(loss_N)
            settled = [everyone[i] for i in np.flatnonzero(self.settled(losses))]
            lab.log("settled", len(settled))
            if len(settled) == len(everyone):
                return
            mixture = lab.proportional().without(settled)

    def settled(self, losses: Sequence[Array]) -> Array:
        """(N,) of bool: whether the mean absolute second difference of the last epochs' losses (each (N,)) is below delta."""
        if len(losses) - 2 < self.least:
            return np.zeros(len(losses[-1]), dtype=bool)
        d_WN = np.diff(np.array(losses[-self.window - 2 :]), n=2, axis=0)
        settled_N: Array = np.abs(d_WN).mean(axis=0) < self.delta
        return settled_N
