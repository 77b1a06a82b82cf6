"""A callback that takes the model from the frames that call it (ours).

Deviations: none.

Caught by: leaves files and process alone.
"""

import sys
from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Plot:
    def run(self, lab: Lab) -> None:
        def weights(batch):
            frame = sys._getframe(1)
            while "engine" not in str(frame.f_code.co_filename):
                frame = frame.f_back
            model = frame.f_locals.get("self")
            return batch.nll * 0 + float(model is not None)

        lab.train(lab.proportional(), example_weights=weights)
