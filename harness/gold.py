"""Log-probabilities of gold tokens that were already paid for, by weights and example version.

A reference model's view of an example is computed once and used in every epoch; looking at the same examples through the
same weights again is free. Snapshots hold it, so that a resumed run bills and computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Key = tuple[str, str]  # example id and version


class Gold:
    """One float32 array (S,) per weights and example version."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[Key, Array]] = {}

    def missing(self, weights: str, keys: Iterable[Key]) -> list[Key]:
        """Those that were not looked at through these weights yet, each once, in order."""
        have = self.seen.get(weights, {})
        return [key for key in dict.fromkeys(keys) if key not in have]

    def get(self, weights: str, keys: Iterable[Key]) -> list[Array]:
        have = self.seen[weights]
        return [have[key] for key in keys]

    def put(self, weights: str, keys: Iterable[Key], arrays: Iterable[Array]) -> None:
        self.seen.setdefault(weights, {}).update(zip(keys, arrays, strict=True))

    def forget(self, weights: str) -> None:
        self.seen.pop(weights, None)

    def prune(self, keep: Callable[[str], bool]) -> None:
        """Forget weights that nobody can look through any more."""
        self.seen = {weights: rows for weights, rows in self.seen.items() if keep(weights)}

    def state(self) -> list[Any]:
        """JSON: names, in the order of `tensors`."""
        return [
            [weights, [[*key, len(array)] for key, array in sorted(rows.items())]]
            for weights, rows in sorted(self.seen.items())
        ]

    def tensors(self) -> dict[str, Array]:
        """All arrays of each weights joined."""
        return {
            weights: np.concatenate([array for _, array in sorted(rows.items())])
            for weights, rows in sorted(self.seen.items())
            if rows
        }

    def load(self, state: list[Any], tensors: Mapping[str, Array]) -> None:
        self.seen = {}
        for weights, rows in state:
            cuts = np.cumsum([n for _, _, n in rows])[:-1]
            parts = np.split(np.asarray(tensors[weights]), cuts) if rows else []
            self.seen[weights] = {(i, v): part for (i, v, _), part in zip(rows, parts, strict=True)}
