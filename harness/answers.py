"""Scores worked out again from their items, and the items' own form, order and digests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.invariants import SHA
from harness.items import KEYS, Items
from harness.privacy import secret, short
from harness.record import Record

Found = Iterator[tuple[str, str]]  # what was found, what was expected


def check(r: Record, found: Items) -> Found:
    """Scores worked out again from the items, and the items' own form, order and digests."""
    for task in sorted(set(found.rows) ^ set(r.scores)):
        yield f"items of task {short(task)}", "items of the scored tasks, and of no other"
    for task in sorted(set(found.rows) & set(r.scores)):
        yield from _items(task, r.scores[task], found.rows[task])
        if found.sha256(task) != r.scores[task].items_sha256:
            yield (
                f"items of {short(task)}: sha256 {found.sha256(task)[:12]}",
                (f"{r.scores[task].items_sha256[:12]}, as the record has it"),
            )


def _items(task: str, score: Any, rows: list[dict[str, Any]]) -> Found:
    where = f"items of {short(task)}"
    for number, row in enumerate(rows):
        if wrong := _malformed(row, f"t:{task}/{number}", set(score.filters)):
            yield f"{where}, line {number + 1}: {wrong[0]}", wrong[1]
            return  # sums of malformed rows say nothing
    n = len(rows)
    if n != score.n:
        yield f"{where}: {n}", f"{score.n}, as scored"
    for name, value in sorted(score.filters.items()):
        share = sum(row["correct"][name] for row in rows) / n
        if share != value:
            yield f"scores.{short(task)}.filters.{short(name)} {value}", f"{share}, the share of its items"
    cut = sum(row["truncated"] for row in rows)
    if cut != score.truncated:
        yield f"scores.{short(task)}.truncated {score.truncated}", f"{cut}, counted in its items"


def _malformed(row: Mapping[str, Any], name: str, filters: Iterable[str]) -> tuple[str, str] | None:
    if set(row) != KEYS:
        return f"keys {', '.join(sorted(map(short, row)))}", ", ".join(sorted(KEYS))
    if row["id"] != name:
        return f"id {short(str(row['id']))}", f"{short(name)}: items in their order, each once"
    for key in ("item_sha256", "prompt_sha256"):
        if not (isinstance(row[key], str) and SHA.fullmatch(row[key])):
            return f"{key} {short(str(row[key]))}", "64 hex digits"
    if not isinstance(row["response"], str) or not isinstance(row["target"], str):
        return "a response or target that is no text", "text"
    if secret(row["response"]):
        return "a secret in the response", "none"
    if type(row["truncated"]) is not bool:
        return f"truncated {short(str(row['truncated']))}", "true or false"
    for key in ("correct", "filtered"):
        value = row[key]
        whole = isinstance(value, dict) and set(value) == set(filters)
        if not whole or (key == "correct" and any(type(v) is not bool for v in value.values())):
            return f"{key} {short(str(value))}", f"a value for each filter: {', '.join(sorted(map(short, filters)))}"
    return None
