"""Continual SFT: one task after the other, each to its own best look, whose weights the next one starts from.

A comparator of mSFT (arXiv 2603.21606). Deviations: the paper's definition is not published, this is our reading of the
name. A task may use its share, by tokens, of the budget, looks at that task included (a number of epochs is not known).
"""

from dataclasses import dataclass
from typing import Literal

from harness.api import Lab


@dataclass(frozen=True)
class ContinualSFT:
    order: Literal["alphabetical", "random"] = "alphabetical"  # random: by the seed
    grid: float = 0.25  # a look every so many epochs of the task

    def run(self, lab: Lab) -> None:
        tasks = sorted(lab.tasks)
        if self.order == "random":
            tasks = [tasks[i] for i in lab.rng.permutation(len(tasks))]
        tokens = sum(info.tokens for info in lab.tasks.values())
        here, until = lab.checkpoint(), 0.0
        for task in tasks:
            until += lab.budget.total * lab.tasks[task].tokens / tokens
            lab.answer(here)  # what is passed on
            best = lab.validate([task])[task].value
            while lab.budget.spent < until:
                h = lab.train(lab.only(task), f"{self.grid} epoch")
                value = lab.validate([task])[task].value
                if value > best:
                    best, here = value, h.last.checkpoint
                    lab.answer(here)
            lab.rollback(here, optimizer="fresh")
