"""Temperature sampling: task weights proportional to n_i ** tau (mT5, arXiv 2010.11934, sec. 3.1, writes alpha for tau).

Deviations: mT5 samples languages; here tasks. tau = 1 is `proportional`, tau = 0 is `uniform`.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Temperature:
    tau: float = 0.3  # mT5's alpha

    def run(self, lab: Lab) -> None:
        lab.train(lab.temperature(tau=self.tau))
