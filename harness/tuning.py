"""Which runs are a row's own and which chose its learning rate, and which row is the reference.

Of an entry at one budget records alone tell what was tried; nobody says what it was for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from harness import REFERENCE
from harness.record import Record
from harness.rows import Row, entry


def tuned(rows: Sequence[Row]) -> list[Row]:
    """Rows of one budget that differ in learning rate alone: those with all their seeds are entries, else the one with
    most is, and the others tuned it. What came after it, or is one run on one of its seeds, is an entry of its own.

    A row's runs with seeds of those that tuned it are tuning as well: its rate was chosen for how they came out. Where
    none has all its seeds and several have most, or none is left with seeds of its own, nobody has chosen: all are tuning.
    """
    made = []
    for group in grouped(rows, lambda row: entry(row.first, rate=False)):
        whole, most = [row for row in group if not row.provisional], max(len(row.runs) for row in group)
        chosen = whole or [row for row in group if len(row.runs) == most]
        others = [part for row in group if not any(row is c for c in chosen) for part in _apart(row, chosen)]
        split = [_looked_at(row, [o for o in others if _could_choose(o, row)]) for row in chosen]
        if (not whole and len(chosen) > 1) or not all(row.runs for row, _ in split):
            anchor = reference(chosen)  # differences need one
            made += [replace(row, tuning=row.runs != anchor) for row in group]
            continue
        for row, looked in split:
            made += [row, *([replace(row, runs=looked, rates=(), tuning=True)] if looked else [])]
        tried = {r.id for row in chosen for o in others if _could_choose(o, row) for r in o.runs}
        made += [replace(o, tuning=o.first.id in tried) for o in others]
    return made


def _looked_at(row: Row, others: Sequence[Row]) -> tuple[Row, tuple[Record, ...]]:
    """The row without its runs on seeds of the others, which tuned it with them, and those runs."""
    tried = {r.identity.seed for o in others for r in o.runs}
    kept, looked = (tuple(r for r in row.runs if (r.identity.seed in tried) is x) for x in (False, True))
    return replace(row, runs=kept, rates=(*(r for o in others for r in o.runs), *looked)), looked


def _apart(other: Row, chosen: Sequence[Row]) -> list[Row]:
    """A row of another rate, without those of its runs that cannot have chosen any of these rates: they are another row."""
    mine = range(other.needed)
    same, own = (tuple(r for r in other.runs if (r.identity.seed in mine) is x) for x in (True, False))
    if not same or not own or any(_could_choose(replace(other, runs=same), row) for row in chosen):
        return [other]
    return [replace(other, runs=own), replace(other, runs=same)]


def _could_choose(other: Row, row: Row) -> bool:
    """Whether a row of another rate can have had a say in this one's. One on the seeds that every row has cannot if it began
    after this row had them all, or is a single run: anybody's run at the suite's rate would else cost a row its seeds.
    """
    mine = range(row.needed)
    same = [r for r in other.runs if r.identity.seed in mine]
    if row.provisional or not same:
        return True
    whole = max(_moment(r.ended, datetime.max) for r in row.runs if r.identity.seed in mine)
    return len(same) > 1 and min(_moment(r.started, datetime.min) for r in same) < whole


def _moment(text: str, unknown: datetime) -> datetime:
    """A time of a record, which may say anything."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = unknown
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def reference(peers: Sequence[Row]) -> tuple[Record, ...]:
    """`proportional` as it comes, at this budget: an entry before rows that tuned, one with all its seeds, one whose rate
    was among those that were tried, that with most seeds, the newest.
    """
    plain = [row for row in peers if row.strategy == REFERENCE and not row.settings]

    def claim(row: Row) -> tuple[bool, bool, bool, int, str]:
        chosen = any(r.identity.lr == row.first.identity.lr for r in row.rates)
        return not row.tuning, not row.provisional, chosen, len(row.runs), max(r.ended for r in row.runs)

    best = max(plain, key=claim, default=None)
    return best.runs if best else ()


def looked(reference: tuple[Record, ...], peers: Sequence[Row]) -> tuple[Record, ...]:
    """The reference with the seeds that chose its rate: they meet those that chose others' rates, and nothing else."""
    mine = {entry(r) for r in reference}
    return (*reference, *(r for row in peers if row.tuning and entry(row.first) in mine for r in row.runs))


def grouped(things: Iterable[Any], key: Callable[[Any], Any]) -> list[list[Any]]:
    """Groups of equal key, by key."""
    groups: dict[Any, list[Any]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return [groups[name] for name in sorted(groups)]
