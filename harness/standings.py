"""Rows of records against each other by their items: what `compare` says of whatever runs still have theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from harness.bootstrap import REPLICATES
from harness.compare import Comparison, compare, score
from harness.errors import HarnessError
from harness.items import outcomes
from harness.panel import Panel
from harness.record import Record
from harness.stats import Estimate
from harness.suite import available, load_suite


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
    files: Mapping[str, Path],
    replicates: int = REPLICATES,
) -> Standings:
    """Of rows of one workload at one budget: name -> its records, one a seed. `files`: where each id's record lies."""
    runs: dict[str, dict[int, list[np.ndarray]]] = {}
    like: list[int] = []
    for name, records in rows.items():
        found = {r.identity.seed: answers for r in records if (answers := _answers(r, files)) is not None}
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


def _answers(record: Record, files: Mapping[str, Path]) -> list[np.ndarray] | None:
    try:
        found = outcomes(record.scores, files[record.id], _filters(record.identity.suite))
    except (HarnessError, OSError):
        return None  # what is wrong with items is for `harness verify` to say
    return None if found is None else [np.asarray(task, np.float32) for task in found]


@cache
def _filters(suite: str) -> dict[str, str]:
    """The filter of each task's score; of a suite that is not here nothing is known."""
    return {task: how.filter for task, how in load_suite(suite).scored.items()} if suite in available() else {}
