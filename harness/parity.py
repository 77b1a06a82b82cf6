"""The gate between training and scoring: the scorer must put the token ids before the model that it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness.data import Row, tokenise

ITEMS = 64


def report(
    encode: Callable[[str], Sequence[int]], tokenizer: Any, test: Mapping[str, Sequence[Row]], each: int = ITEMS
) -> dict[str, Any]:
    """What the record says: prompts whose ids are equal up to the answer, BOS at most once, EOS trained; else `why`.

    `encode` is the scorer's own, `tokenizer` the checkpoint's; the first rows are asked, `each` of a task at most. Lengths
    are no part of it: what is too long is cut.
    """
    chosen = {task: list(group[:each]) for task, group in test.items()}
    items = [item for group in tokenise(tokenizer, chosen, 1 << 30).values() for item in group]
    rows = [row for group in chosen.values() for row in group]
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    prompts = [list(item.ids[: -item.supervised]) for item in items]
    wrong = {
        "other token ids in lm-eval": [r.id for r, p in zip(rows, prompts, strict=True) if p != list(encode(r.prompt))],
        "more than one BOS": [
            r.id for r, p in zip(rows, prompts, strict=True) if bos is not None and p[:2] == [bos, bos]
        ],
        "no EOS to train on": [r.id for r, i in zip(rows, items, strict=True) if i.ids[-1] != eos],
        "a prompt that ends with EOS": [r.id for r, p in zip(rows, prompts, strict=True) if p and p[-1] == eos],
    }
    why = [f"{what}: {len(ids)} of {len(rows)} items, such as {ids[0]}" for what, ids in wrong.items() if ids]
    return {
        "items": len(rows),
        "prompts_equal": len(rows) - len(wrong["other token ids in lm-eval"]),
        "bos": sum(bool(p) and p[0] == bos for p in prompts),
        "passed": not why,
        "why": "; ".join(why) or None,
    }


def merged(reports: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One report of several tasks'."""
    parts = list(reports)
    sums = {key: sum(part[key] for part in parts) for key in ("items", "prompts_equal", "bos")}
    why = "; ".join(part["why"] for part in parts if part["why"])
    return {**sums, "passed": all(part["passed"] for part in parts), "why": why or None}
