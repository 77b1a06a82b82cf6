"""Rows of records against each other by their items: what `compare` says of whatever runs still have theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.bootstrap import REPLICATES
from harness.compare import Comparison, compare, score
from harness.errors import HarnessError
from harness.items import Items, outcomes
from harness.panel import Panel
from harness.record import Record
from harness.stats import Estimate


@dataclass(frozen=True)
class Standings:
    """`scores` and `comparison` of the rows that have all their items. The other rows are in neither."""

    scores: Mapping[str, Estimate] = field(default_factory=dict)
    comparison: Comparison | None = None

    def difference(self, name: str) -> Estimate | None:
        found = self.comparison.differences.get(name) if self.comparison else None
        return found.estimate if found else None


def standings(
    rows: Mapping[str, Sequence[Record]],
    reference: str | None,
    find: Callable[[Record], Items | None],
    replicates: int = REPLICATES,
) -> Standings:
    """Of rows of one workload at one budget: name -> its records, one a seed. `find` gives a record's items or None."""
    runs: dict[str, dict[int, list[np.ndarray]]] = {}
    like: list[int] = []
    for name, records in rows.items():
        found = {r.identity.seed: answers for r in records if (answers := _answers(r, find)) is not None}
        sizes = [len(items) for answers in found.values() for items in answers]
        like = like or sizes[: len(sizes) // max(1, len(found))]
        if found and len(found) == len(records) and sizes == like * len(found):
            runs[name] = found
    if not runs:
        return Standings()
    panel = Panel.of(runs)
    each = {
        name: score(panel.correct[k][panel.present[k]], panel.task, panel.weight) for k, name in enumerate(panel.names)
    }
    return Standings(each, compare(panel, reference, replicates))


def _answers(record: Record, find: Callable[[Record], Items | None]) -> list[np.ndarray] | None:
    try:
        items = find(record)
        if items is None:
            return None
        return [np.asarray(task, np.float32) for task in outcomes(record, items)]
    except (HarnessError, KeyError, StopIteration):
        return None  # what is wrong with items is for `harness verify` to say
