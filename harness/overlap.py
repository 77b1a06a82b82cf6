"""Overlap of test items with training and validation rows: exact pairs and shared rare 13-grams (rules.md, 2)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from harness.data import Row

GRAM = 13
COMMON = 0.01  # a 13-gram in at least this share of training rows is a template, not a leak


def grams(text: str) -> set[tuple[str, ...]]:
    """The set of 13-grams of lower-cased words and single symbols."""
    words = re.findall(r"\w+|[^\w\s]", text.lower())
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def overlap(seen: list[Row], test: Mapping[str, list[Row]]) -> dict[str, Any]:
    """For each scoring task: items, exact duplicates of (input, target), and items sharing a rare 13-gram."""
    pairs = {(r.input, r.target) for r in seen}
    counts = Counter(g for r in seen for g in grams(r.input))
    rare = {g for g, n in counts.items() if n < max(2, COMMON * len(seen))}
    return {
        task: {
            "n": len(rows),
            "exact": sum((r.input, r.target) in pairs for r in rows),
            "rare_13_gram": sum(not rare.isdisjoint(grams(r.input)) for r in rows),
        }
        for task, rows in sorted(test.items())
    }
