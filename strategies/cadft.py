"""CADFT, compatibility-aware DFT: responses that the model finds odd weigh less, and some it writes anew (arXiv 2606.11206).

The details rest on a secondary account of the paper; no code was seen.

Deviations: T_warm = 3000 and K = 1000 steps cannot both be meant with the paper's data of about 390 steps; they are one pass
over the data and a third of one. The moving average (coefficient not given) is over visits, halved at each, of the
z-score; an example needs two visits since it was last rewritten to be a candidate, and in the second pass the candidates are
the same share of the part of the data that may have two. The weighted sum is divided by the supervised tokens of the
effective batch, so that weights of 1 are DFT. A generation that is empty, or not finished within the length of the longest
candidate, is discarded. A rewriting for which a K's worth of budget is no longer left is left out. `verified` (accept a
rewriting only if the task's answer matches) is ours, not the paper's.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from harness.api import REST, Array, Example, Generation, History, Lab, Lens, Mixture, lens


@dataclass(frozen=True)
class CADFT:
    beta: float = 1.0  # w = exp(-beta max(0, z))
    epsilon: float = 1e-6  # added to the standard deviation
    rewrite: bool = True  # False: weights only
    warmup: float = 1.0  # T_warm, in passes over the mixture's data
    every: float = 1 / 3  # K, in passes
    share: float = 0.005  # of the data, with the highest moving average: the candidates
    chance: float = 0.5  # that a candidate is rewritten
    top_p: float = 0.9  # nucleus of the samples
    temperature: float = 0.7  # of the samples
    alpha: float = 0.5  # what a visit leaves of the moving average
    verified: bool = False  # ours

    def wrap(self, lab: Lab) -> Lab:
        if not self.rewrite:
            return lens(lab, objective=dft, example_weights=self.weigh)
        return cast(Lab, Rewriting(lab, self))

    def weigh(self, batch: Any) -> Array:
        """w_B; the moving average of z is kept in `compatibility`, from the second visit on in `persistent` too."""
        z_B = (batch.nll - batch.nll.mean()) / (batch.nll.std() + self.epsilon)
        before_B = batch.table["compatibility"]
        first_B = np.isnan(before_B)
        ema_B = np.where(first_B, z_B, self.alpha * before_B + (1 - self.alpha) * z_B)
        batch.table["compatibility"] = ema_B
        batch.table["persistent"] = np.where(first_B, np.nan, ema_B)
        batch.table["supervised"] = batch.tokens
        w_B: Array = np.exp(-self.beta * np.maximum(0.0, z_B))
        return w_B


def dft(t: Any) -> Any:
    """sg(p) * -log p."""
    return t.p * t.nll


class Rewriting(Lens):
    """Trains in parts. `state["cadft"]` is (passes, rewritings) so far: callbacks count, and a rollback takes both back."""

    def __init__(self, lab: Lab, method: CADFT) -> None:
        super().__init__(lab)
        self._method = method

    def train(self, mixture: Mixture, length: str = REST, **arguments: Any) -> History:
        m, lab = self._method, self._lab
        # A fixed list of examples is a batch of some other method, whose data is all that there is.
        listed = bool(mixture.sequence) and not mixture.shuffled
        whole = lab.proportional() if listed else mixture
        data, start = whole.epoch_examples, 0.0

        def weigh(batch: Any) -> Array:
            batch.state["cadft"] = batch.state.get("cadft", np.zeros(2)) + np.array([len(batch) / data, 0])
            return m.weigh(batch)

        def pause(h: History | None) -> str:
            nonlocal start
            passes, rewritings = map(float, lab.state.get("cadft", np.zeros(2)))
            start = start if h else passes
            if h or passes >= m.warmup + m.every * rewritings - 1e-6:
                if passes * lab.budget.remaining >= m.every * lab.budget.spent:
                    self._rewrite(whole, passes)
                rewritings = max(rewritings, math.floor((passes - m.warmup) / m.every + 1e-6)) + 1
                lab.state["cadft"] = np.array([passes, rewritings])
            due = m.warmup + m.every * rewritings - start
            return f"{due * data / mixture.epoch_examples} epoch"

        self._callbacks = {"objective": dft, "example_weights": weigh}
        return self.in_parts(mixture, length, arguments, pause)

    def _rewrite(self, mixture: Mixture, passes: float) -> None:
        """Candidates by moving average; each is replaced with a probability by what the model makes of its prompt."""
        m, lab, held = self._method, self._lab, frozenset(mixture.sequence)
        twice = min(1.0, max(0.0, passes - 1.0))  # of the data, the part that may have two visits
        k = math.ceil(m.share * twice * mixture.epoch_examples)
        worst = lab.examples.top("persistent", k + len(mixture.excluded), tasks=mixture.tasks)
        worst = [e for e in worst if e.id not in mixture.excluded and (not held or e.id in held)][:k]
        drawn = [e for e in worst if lab.rng.random() < m.chance]
        found = self._sample(drawn, max((e.tokens for e in worst), default=0) + 1)
        ended = [(e, g.text) for e, g in found if g.finished and g.text.strip()]
        right = [(e, text) for e, text in ended if not m.verified or lab.grade(e, text)]
        anew = [e for e, text in right if (new := lab.rewrite(e, text)) and new.version != e.version]
        if anew:
            lab.examples.set("compatibility", anew, np.nan)
            lab.examples.set("persistent", anew, np.nan)
        numbers = {"candidates": len(worst), "drawn": len(drawn), "ended": len(ended), "rewritten": len(anew)}
        share = len(anew) / mixture.epoch_examples
        ids = hashlib.sha256("\n".join(sorted(e.id for e in anew)).encode()).hexdigest()[:16]
        lab.log("rewriting", {"passes": round(passes, 3), **numbers, "share": share, "ids": ids})

    def _sample(self, examples: list[Example], longest: int) -> list[tuple[Example, Generation]]:
        """A nucleus sample for each; prompt and response have at most `longest` tokens."""
        m, lab = self._method, self._lab
        groups: dict[int, list[Example]] = {}
        if examples:
            for e, supervised in zip(examples, lab.examples.get("supervised", examples), strict=True):
                groups.setdefault(e.tokens + 1 - int(supervised), []).append(e)
        found: list[tuple[Example, Generation]] = []
        for prompt, group in sorted(groups.items()):
            made = lab.generate(group, max_new_tokens=longest - prompt, temperature=m.temperature, top_p=m.top_p)
            found += zip(group, made, strict=True)
        return found
