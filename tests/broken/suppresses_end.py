"""A context manager of its own that swallows the end of the budget (ours).

Deviations: none.

Caught by: lets the budget end it.
"""

from dataclasses import dataclass

from harness.api import Lab


class Calm:
    def __enter__(self):
        return self

    def __exit__(self, *error):
        return True


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        with Calm():
            while True:
                lab.train(lab.proportional(), "10 step")
