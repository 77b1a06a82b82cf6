"""Shape: a selector with draws and memory of its own chooses each update from a pool."""

from dataclasses import dataclass

import numpy as np

from harness.api import Lab, Selection


@dataclass(frozen=True)
class Selecting:
    def run(self, lab: Lab) -> None:
        lab.state["seen"] = np.zeros(3)
        base = lab.checkpoint()

        def select(pool):
            gap = pool.nll + np.array([row.mean() for row in pool.logprobs(at=base)])
            pool.state["seen"] += [pool.quota[t] for t in sorted(pool.quota)]
            pool.table["gap"] = gap + pool.rng.normal(size=len(pool))
            near = pool.gradients(modules="last:1").gram().sum(0) if pool.rng.random() < 0.3 else 0 * gap
            order = np.argsort(-(pool.table["gap"] + near), kind="stable")[: 2 * pool.batch]
            return Selection(order, 0.5 + pool.rng.random(len(order)))

        for _ in range(2):
            lab.train(lab.uniform(), "5 step", pool=3, select=select, eval_every="4 step", keep="best")
            lab.log("top", [e.id for e in lab.examples.top("gap", 5)])
            lab.log("seen", lab.state["seen"])
        lab.train(lab.uniform(), pool=3, select=select, example_weights=lambda b: b.rng.random(len(b)))
