"""Overlap of test items with training and validation rows: exact pairs and shared rare 13-grams (rules.md, 2).

Training rows are read once, one after the other; what is kept are the 13-grams of the test items as 64-bit hashes. A gram
counts once for each row that has it, so the numbers are those of comparing every row with every item.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np

from harness.data import Row
from harness.paths import canonical

GRAM = 13
COMMON = 0.01  # a 13-gram in at least this share of training rows is a template, not a leak
CHUNK = 2000  # rows hashed at a time
WORD = re.compile(r"\w+|[^\w\s]")
Hashes = np.ndarray[Any, np.dtype[np.uint64]]


def grams(text: str) -> set[tuple[str, ...]]:
    """The set of 13-grams of lower-cased words and single symbols."""
    words = WORD.findall(text.lower())
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def overlap(seen: Iterable[tuple[str, str]], test: Mapping[str, list[Row]]) -> dict[str, Any]:
    """For each scoring task: items, exact duplicates of (input, target), and items sharing a rare 13-gram.

    `seen`: (input, target) of every row that was trained or validated on.
    """
    rows = [row for task in sorted(test) for row in test[task]]
    items = _Items(row.input for row in rows)
    wanted = {_pair(row.input, row.target) for row in rows}
    exact: set[bytes] = set()
    counts, n = np.zeros(len(items.grams), np.int64), 0
    stream = iter(seen)
    while chunk := list(islice(stream, CHUNK)):
        n += len(chunk)
        exact.update(pair for pair in (_pair(*row) for row in chunk) if pair in wanted)
        counts += items.count(source for source, _ in chunk)
    leaks = items.having((counts > 0) & (counts < max(2, COMMON * n)))
    found, start = {}, 0
    for task in sorted(test):
        end = start + len(test[task])
        same = sum(_pair(row.input, row.target) in exact for row in test[task])
        found[task] = {"n": end - start, "exact": same, "rare_13_gram": int(leaks[start:end].sum())}
        start = end
    return found


def _pair(source: str, target: str) -> bytes:
    return hashlib.blake2b(canonical([source, target]).encode(), digest_size=16).digest()


class _Items:
    """The distinct 13-grams of n texts, as sorted hashes `grams` (G,), and which text has which.

    A gram's hash is the sum, modulo 2^64, of its words' random 64-bit numbers times one odd number a place. Two different
    grams agree with a chance of about 2^-63; ten million of them against a hundred million, of 1e-4 for one false hit.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        rng = np.random.Generator(np.random.PCG64(13))
        self._place = rng.integers(0, 2**63, GRAM, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        self._numbers: dict[str, int] = {}
        lists = [WORD.findall(text.lower()) for text in texts]
        for words in lists:
            for word in words:
                self._numbers.setdefault(word, len(self._numbers) + 1)  # 0: a word of no item
        self._random = rng.integers(0, 2**64, len(self._numbers) + 1, dtype=np.uint64, endpoint=False)
        hashes, owners = self._hash(lists)
        self.n = len(lists)
        self.grams = np.unique(hashes)
        self._owners, self._which = owners, np.searchsorted(self.grams, hashes)

    def _hash(self, lists: list[list[str]]) -> tuple[Hashes, np.ndarray[Any, np.dtype[np.int64]]]:
        """Hashes (K,) of the grams whose words all occur in items, and the text that each is of (K,)."""
        lengths = [len(words) for words in lists]
        known = self._numbers.get
        ids = np.fromiter((known(w, 0) for words in lists for w in words), np.int64, sum(lengths))
        owner = np.repeat(np.arange(len(lists)), lengths)
        k = len(ids) - GRAM + 1
        if k < 1:
            return np.zeros(0, np.uint64), np.zeros(0, np.int64)
        strange = np.concatenate([[0], np.cumsum(ids == 0)])
        whole = (owner[:k] == owner[GRAM - 1 :]) & (strange[GRAM:] == strange[:k])
        at = np.flatnonzero(whole)
        values = self._random[ids]
        hashes = np.zeros(len(at), np.uint64)
        for place, factor in enumerate(self._place):
            hashes += values[at + place] * factor
        return hashes, owner[at]

    def count(self, texts: Iterator[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """How many of these texts have each gram (G,)."""
        if not len(self.grams):
            return np.zeros(0, np.int64)
        hashes, owners = self._hash([WORD.findall(text.lower()) for text in texts])
        at = np.minimum(np.searchsorted(self.grams, hashes), len(self.grams) - 1)
        hit = self.grams[at] == hashes
        pairs = np.unique(owners[hit] * len(self.grams) + at[hit])
        return np.bincount(pairs % len(self.grams), minlength=len(self.grams))

    def having(self, chosen: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which of the n texts have a gram that is chosen (n,)."""
        found = np.zeros(self.n, np.bool_)
        found[self._owners[chosen[self._which]]] = True
        return found
