"""The summary of a matrix: a row an entry and budget, against one of them on the same seeds. Computed, never stored.

Scores are fractions, FLOPs are model FLOPs. Intervals are 95 %, for seeds and items (compare.py); of runs that have lost
their items, for seeds alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import REFERENCE
from harness.errors import unknown
from harness.matrix import Cell
from harness.record import Record, read
from harness.standings import Standings, standings
from harness.stats import Estimate, mean_interval, paired_difference


@dataclass(frozen=True)
class Row:
    """One entry at one budget on one workload: the records there are of the `asked` cells.

    `reference`: those of the row that differences are to, of the entry `against`.
    `tuning`: its learning rate is one of a grid, `chosen` the best of it, `edge` its smallest or largest as well.
    """

    suite: str
    model: str
    mode: str
    entry: str
    budget: float
    asked: int
    records: tuple[Record, ...]
    reference: tuple[Record, ...] = ()
    tuning: bool = False
    chosen: bool = False
    edge: bool = False
    against: str = REFERENCE
    standings: Standings = field(default_factory=Standings)

    @property
    def score(self) -> Estimate:
        return self.standings.scores.get(self.entry) or mean_interval([r.macro for r in self.records])

    @property
    def difference(self) -> Estimate | None:
        """To the reference on the seeds that both have; None for the reference itself."""
        if self.records == self.reference:
            return None
        return self.standings.difference(self.entry) or paired_difference(
            _by_seed(self.records), _by_seed(self.reference)
        )

    @property
    def billed(self) -> float:
        """Mean billed FLOPs of a run."""
        return sum(r.total_model_flops for r in self.records) / len(self.records)

    @property
    def first_use(self) -> float:
        """The same with what other runs have paid for the mixtures that these took over."""
        return sum(r.first_use_flops for r in self.records) / len(self.records)

    @property
    def discarded(self) -> float:
        """Mean share of the billed FLOPs that trained weights which were thrown away."""
        return sum(r.ledger["discarded"].model_flops / max(1, r.total_model_flops) for r in self.records) / len(
            self.records
        )

    @property
    def finished(self) -> int:
        """Runs that came to their own end; the others were stopped by their budget."""
        return sum(r.status == "finished" for r in self.records)


def rows(cells: Iterable[Cell], against: str = REFERENCE) -> list[Row]:
    """Rows in the order of the matrix; those without a record yet have none.

    `against`: an entry, with its rate or without, at the row's own budget, or ENTRY@BUDGET: at that one for all rows.
    """
    groups: dict[tuple[str, str, str, str, float], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.row, []).append(cell)
    files: dict[str, Path] = {}
    found = {key: _records(group, files) for key, group in groups.items()}
    grids = _grids(groups)
    chosen, edges = _chosen(grids, groups, found), {key for keys in grids for key in _ends_of(keys, groups)}
    made = []
    for key, group in groups.items():
        reference = found.get(_reference(key, groups, chosen, against), ())
        tuning = group[0].tuning
        at_edge = key in chosen & edges
        made.append(Row(*key, len(group), found[key], reference, tuning, key in chosen, at_edge, against))
    return _with_items(made, files)


def check_against(cells: Iterable[Cell], against: str) -> None:
    """Raises HarnessError where no entry is called so; a matrix without `proportional` has no differences, and that is well."""
    name, budget = _asked(against)
    there = {(cell.entry, cell.plan.identity.budget.multiple) for cell in cells}
    if against != REFERENCE and not any(_called(entry, name) and budget in (None, at) for entry, at in there):
        names = {entry if budget is None else f"{entry}@{at:g}x" for entry, at in there}
        raise unknown("row", against, names)


def _with_items(made: Sequence[Row], files: Mapping[str, Path]) -> list[Row]:
    """The rows with what their items say: against those that share workload, budget and reference."""
    peers: dict[Any, list[Row]] = {}
    for row in made:
        peers.setdefault(_peers(row), []).append(row)
    said = {}
    for key, group in peers.items():
        known = {r.entry: r.records for r in group if r.records}
        name = next((entry for entry, records in known.items() if records == group[0].reference), None)
        if name is None and group[0].reference:  # of another budget
            name = group[0].against
            known[name] = group[0].reference
        said[key] = standings(known, name, files)
    return [replace(row, standings=said[_peers(row)]) for row in made]


def _peers(row: Row) -> tuple[Any, ...]:
    return row.suite, row.model, row.mode, row.budget, tuple(r.id for r in row.reference)


def choose_lr(records: Iterable[Record]) -> float:
    """The learning rate with the best mean validation score over the seeds (rules.md 6), the smaller of equals.

    The score of a run is the harness's last look, which sees the answer: the mean over tasks of teacher-forced exact
    match, and the lower loss where those are equal (long targets match nowhere).
    """
    by_rate: dict[float, list[tuple[float, float]]] = {}
    for r in records:
        by_rate.setdefault(r.identity.lr, []).append(validation(r))
    if not by_rate:
        raise ValueError("expected at least one record")

    def merit(lr: float) -> tuple[float, float, float]:
        match, loss = (sum(x) / len(x) for x in zip(*by_rate[lr], strict=True))
        return match, -loss, -lr

    return max(by_rate, key=merit)


def validation(r: Record) -> tuple[float, float]:
    """(exact match, loss) of the last look, means over tasks."""
    last: dict[str, tuple[float, float]] = {}
    for point in r.curves:
        last[point.task] = (point.exact_match, point.loss if point.loss is not None else float("inf"))
    match, loss = (sum(x) / len(last) for x in zip(*last.values(), strict=True))
    return match, loss


def _records(cells: Sequence[Cell], files: dict[str, Path]) -> tuple[Record, ...]:
    """The records of a row's cells; `files` is told where each lies."""
    paths = [path for cell in sorted(cells, key=lambda c: c.request.seed) if (path := cell.record)]
    found = [(read(path), path) for path in paths]
    files.update((r.id, path) for r, path in found)
    return tuple(r for r, _ in found)


def _bare(cell: Cell) -> tuple[Any, ...]:
    """What the rows of one learning-rate grid share."""
    i = cell.plan.identity
    return i.suite, i.model, i.mode, i.strategy, tuple(sorted(i.hyperparameters.items())), i.budget.multiple


def _grids(groups: Mapping[Any, Sequence[Cell]]) -> list[list[Any]]:
    """The keys of the rows that differ in a learning rate of their suite's grid alone."""
    grids: dict[str, list[Any]] = {}
    for key, cells in groups.items():
        if cells[0].tuning:
            grids.setdefault(repr(_bare(cells[0])), []).append(key)
    return list(grids.values())


def _ends_of(keys: Sequence[Any], groups: Mapping[Any, Sequence[Cell]]) -> list[Any]:
    """Of one grid the rows with its smallest and its largest rate; of a single rate none."""
    ordered = sorted(keys, key=lambda key: groups[key][0].plan.identity.lr)
    return [ordered[0], ordered[-1]] if len(ordered) > 1 else []


def _chosen(
    grids: Sequence[Sequence[Any]], groups: Mapping[Any, Sequence[Cell]], found: Mapping[Any, tuple[Record, ...]]
) -> set[Any]:
    """Of each grid of learning rates the row with the chosen one, once the grid is complete."""
    chosen = set()
    for keys in grids:
        if all(len(found[key]) == len(groups[key]) for key in keys):
            best = choose_lr(r for key in keys for r in found[key])
            chosen |= {key for key in keys if found[key][0].identity.lr == best}
    return chosen


def _reference(key: tuple[Any, ...], groups: Mapping[Any, Sequence[Cell]], chosen: set[Any], against: str) -> Any:
    """The row of that entry beside a row: at the chosen learning rate, else at the same one."""
    name, budget = _asked(against)
    at = key[4] if budget is None else budget
    peers = [k for k in groups if k[:3] == key[:3] and k[4] == at and _called(k[3], name)]
    same = [k for k in peers if groups[k][0].plan.identity.lr == groups[key][0].plan.identity.lr]
    return next(iter([k for k in peers if k in chosen] or same or peers), None)


def _asked(against: str) -> tuple[str, float | None]:
    """ENTRY or ENTRY@BUDGET as entry and multiple."""
    name, at, multiple = against.rpartition("@")
    try:
        return (name, float(multiple.removesuffix("x"))) if at else (against, None)
    except ValueError:
        return against, None


def _called(entry: str, name: str) -> bool:
    """Whether a row is called so, its learning rate said or not."""
    return name in (entry, entry.partition(" lr=")[0])


def _by_seed(records: Iterable[Record]) -> dict[int, float]:
    return {r.identity.seed: r.macro for r in records}


# --- as plain values


def as_dict(row: Row) -> dict[str, Any]:
    """One flat object a row, numbers unrounded; what is not known is None."""
    facts: dict[str, Any] = {
        "strategy": row.entry,
        "suite": row.suite,
        "model": row.model,
        "mode": row.mode,
        "budget": row.budget,
        "seeds": len(row.records),
        "asked": row.asked,
    }
    score = row.score if row.records else None
    facts |= _ends("score", score) | _ends("difference", row.difference)
    known = bool(row.records)
    facts |= {
        "billed_flops": row.billed if known else None,
        "first_use_flops": row.first_use if known else None,
        "discarded": row.discarded if known else None,
        "finished": row.finished,
        "against": row.against,
    }
    return facts | ({"tuning": True, "chosen": row.chosen, "edge": row.edge} if row.tuning else {})


def _ends(name: str, e: Estimate | None) -> dict[str, float | None]:
    return {
        name: e.value if e else None,
        f"{name}_low": e.low if e else None,
        f"{name}_high": e.high if e else None,
    }
