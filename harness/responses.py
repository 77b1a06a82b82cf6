"""What a model answers when asked: generation cut at the suite's stop strings, and its grading as the scorer would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from harness.corpus import Data
from harness.data import Item
from harness.grading import Grader
from harness.ledger import Cost
from harness.ports import Engine
from harness.suite import Suite
from harness.values import Generation

GREEDY = (0.0, 1.0, 1, 0)


def continuations(
    engine: Engine,
    suite: Suite,
    items: Sequence[Item],
    limit: int,
    meter: Callable[[Cost], None],
    sampling: tuple[float, float, int, int] = GREEDY,
) -> list[Generation]:
    """For each item's prompt, of at most `limit` tokens; `meter` is told each pass's cost before it runs, and may raise.

    `sampling`: temperature, top_p, how many for each prompt, seed.
    """
    tokenizer, until = engine.tokenizer, suite.scoring.until

    def stopped(new: list[int]) -> bool:
        return any(u in tokenizer.decode(new[-16:]) for u in until)

    prompts = [item.ids[: -item.supervised] for item in items]
    groups = engine.generate(prompts, limit, *sampling, meter, stopped)
    return [_cut(ids, limit, tokenizer, until) for group in groups for ids in group]


def _cut(ids: list[int], limit: int, tokenizer: Any, until: Sequence[str]) -> Generation:
    """The text before the first stop string or the end token, and whether either came."""
    text = tokenizer.decode(ids, skip_special_tokens=True)
    ends = [text.index(u) for u in until if u in text]
    finished = bool(ends) or len(ids) < limit or ids[-1] == tokenizer.eos_token_id
    return Generation(text[: min(ends)] if ends else text, finished)


class Responses:
    """Greedy answers to validation items, at most as long as the suite's scoring lets them be."""

    def __init__(self, engine: Engine, data: Data) -> None:
        self.engine, self.data = engine, data

    @cached_property
    def _grader(self) -> Grader:
        return Grader(self.data.suite)

    def _limit(self, task: str) -> int:
        return self.data.suite.tasks[task].max_new_tokens or self.data.suite.scoring.max_new_tokens

    def bound(self, items: list[Item]) -> int:
        """FLOPs if every answer takes its whole length."""
        return sum(self.engine.generation_cost([item], self._limit(item.task)) for item in items)

    def grade(self, items: list[Item], meter: Callable[[Cost], None]) -> list[bool]:
        """Whether each of these items, of one task, is answered rightly. Raises HarnessError where no text can be graded."""
        rows = [self.data.row(item.id) for item in items]
        self._grader.require(rows[0].task)
        found = continuations(self.engine, self.data.suite, items, self._limit(rows[0].task), meter)
        return [self._grader.correct(r.task, r.input, r.target, g.text) for r, g in zip(rows, found, strict=True)]
