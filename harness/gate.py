"""The backend gate: fixed items go through both backends before scores of vLLM count.

Prompt token ids must be equal, and greedy decoding must agree on 95 % of the items at least. Reduced precision sends long
greedy decodings apart sooner or later, so longer answers are compared on their first tokens; whole answers are counted
beside that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.data import Row
from harness.paths import digest

ITEMS = 64
TOKENS = 16  # of an answer that are compared: every one where the suite asks for short answers
LEAST = 0.95


@dataclass(frozen=True)
class Passage:
    """One item as a backend had it: the token ids that the model was fed, its answer's, and how that was judged."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    text: str
    correct: Mapping[str, Any]


def choose(test: Mapping[str, Sequence[Row]], n: int = ITEMS) -> dict[str, list[Row]]:
    """`n` rows dealt out over the tasks in turn, in each task those whose content has the smallest hash.

    They depend on the rows alone: the same of every checkpoint, and not the first, which may be alike.
    """
    ranked = {t: sorted(rows, key=lambda r: digest([r.input, r.target])) for t, rows in sorted(test.items())}
    turns = [(k, task) for task, rows in ranked.items() for k in range(len(rows))]
    chosen: dict[str, list[Row]] = {}
    for k, task in sorted(turns)[:n]:
        chosen.setdefault(task, []).append(ranked[task][k])
    return {task: chosen[task] for task in sorted(chosen)}


def report(ours: Mapping[str, Passage], theirs: Mapping[str, Passage]) -> dict[str, Any]:
    """What the record says of two backends' passages by item: `passed`, the shares, and if not `passed`, why."""
    pairs = [(ours[key], theirs[key]) for key in sorted(ours)]
    n = len(pairs)
    prompts = sum(a.prompt == b.prompt for a, b in pairs)
    agree = sum(a.answer[:TOKENS] == b.answer[:TOKENS] for a, b in pairs)
    why = None
    if prompts < n:
        why = f"backend gate: {n - prompts} of {n} prompts have other token ids in the other backend"
    elif agree < LEAST * n:
        why = f"backend gate: greedy decoding agrees on {agree} of {n} items, at least {LEAST:.0%} are needed"
    return {
        "items": n,
        "prompts_equal": prompts,
        "agreement": agree / n,
        "tokens_compared": TOKENS,
        "identical": sum(a.text == b.text for a, b in pairs) / n,
        "same_verdict": sum(a.correct == b.correct for a, b in pairs) / n,
        "passed": why is None,
        "why": why,
    }
