"""`python -m tests.quick ARGS` is `harness ARGS` with scoring replaced by a digest of the answer's weights.

Processes that a matrix starts import this module again as their main module, so that it holds for them too.
"""

import harness.run
import harness.score
from tests.forks import fake_score

harness.score.score = fake_score
harness.run._Run.base_scores = lambda self: {"copy": 0.0}

if __name__ == "__main__":
    from harness.cli import main

    main()
