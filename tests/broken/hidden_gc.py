"""Finds the model among the process's objects and runs it for nothing (ours).

Deviations: none.

Caught by: every FLOP is in the ledger.
"""

import gc
from dataclasses import dataclass

import torch

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        model = next(o for o in gc.get_objects() if type(o).__name__ == "Qwen2ForCausalLM")
        with torch.no_grad():
            loss = float(model(torch.arange(40)[None]).logits.std())
        lab.train(lab.temperature(tau=min(1.0, loss)))
