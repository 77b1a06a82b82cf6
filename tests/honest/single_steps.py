"""One step at a time on the tasks whose reference is furthest ahead (ours).

Deviations: none.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        base = lab.checkpoint()
        while True:
            batch = lab.draw(lab.uniform(), 2)
            ahead = [
                float((a - b).mean()) for a, b in zip(lab.logprobs(batch, at=base), lab.logprobs(batch), strict=True)
            ]
            order = sorted(range(len(batch)), key=lambda i: (-ahead[i], i))
            lab.train(lab.just([batch[i] for i in order[: len(batch) // 2]]), "1 step", keep="none")
