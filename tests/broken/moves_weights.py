"""Averages the weights behind the lab's back (ours).

Deviations: none.

Caught by: the lab changes by its verbs alone.
"""

import gc
from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        model = next(o for o in gc.get_objects() if type(o).__name__ == "Qwen2ForCausalLM")
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        lab.train(lab.proportional(), "24 step")
        for n, p in model.named_parameters():
            p.data.mul_(0.5).add_(before[n], alpha=0.5)
        lab.train(lab.proportional())
