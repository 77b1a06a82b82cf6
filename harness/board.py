"""The board: records of one workload as rows, and rows against each other. Computed when it is shown, stored nowhere."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from harness.compare import Comparison, compare, ranks, score, ties
from harness.gather import Answers, Gathered
from harness.panel import Panel
from harness.parallel import each
from harness.paths import canonical, digest
from harness.plain import number
from harness.profiles import Target, target
from harness.record import Record
from harness.rows import Row, Section, entry, hyperparameters
from harness.tuning import grouped, looked, reference, tuned


@dataclass(frozen=True)
class Draft:
    """A section before its rows are compared, which is the part that takes time."""

    records: Sequence[Record]
    budgets: tuple[tuple[float, list[Row]], ...]
    goal: Target | None


@dataclass(frozen=True)
class Verdict:
    """What the items of one budget's rows say, by the rows' keys."""

    rows: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    better: frozenset[tuple[str, str]] = frozenset()


def sections(found: Gathered) -> list[Section]:
    """All workloads: the newest rules first, whole ones before those of a part of the data, then those with most rows."""
    drafts = [_draft(group, found) for group in grouped(found.shown, _workload)]
    jobs = [rows for draft in drafts for _, rows in draft.budgets]
    verdicts = each(lambda rows: _compared(rows, found.answers), jobs, few=4)
    made = [_finished(draft, [next(verdicts) for _ in draft.budgets]) for draft in drafts]
    next(verdicts, None)
    return sorted(
        made,
        key=lambda s: (-s.first.rules_version, s.first.reports.limit is not None, -len(s.rows), s.title, s.anchor),
    )


def section(records: Sequence[Record], found: Gathered | None = None) -> Section:
    """The rows of one workload: by budget, 1x first, and by falling score; amortised and tuning rows come after the others."""
    found = found or Gathered()
    draft = _draft(records, found)
    return _finished(draft, [_compared(rows, found.answers) for _, rows in draft.budgets])


def _draft(records: Sequence[Record], found: Gathered) -> Draft:
    known = _defaults(records)
    rows = [
        Row(tuple(sorted(g, key=lambda r: (r.identity.seed, r.id))), defaults=known[_code(g[0])])
        for g in grouped(records, entry)
    ]
    multiples = sorted({row.multiple for row in rows}, key=lambda m: (m != 1, m))
    peers = {m: tuned([row for row in rows if row.multiple == m]) for m in multiples}
    told = [row for rows_of_one in peers.values() for row in rows_of_one]
    goal = target([r.curves for r in reference(peers.get(1.0, [])) if r.curves])
    budgets = []
    for m in multiples:
        plain = reference(peers[m])
        made = [
            replace(
                row,
                reference=looked(plain, peers[m]) if row.tuning else plain,
                hints=_hints(row, told),
                goal=goal,
            )
            for row in peers[m]
        ]
        budgets.append((m, [_dressed(row, found) for row in made]))
    return Draft(records, tuple(budgets), goal)


def _finished(draft: Draft, verdicts: Sequence[Verdict]) -> Section:
    budgets = []
    for (m, rows), verdict in zip(draft.budgets, verdicts, strict=True):
        told = [replace(row, **verdict.rows.get(row.key, {})) for row in rows]
        budgets.append((m, tuple(sorted(told, key=lambda r: (r.amortised, r.tuning, -r.score.value, r.label)))))
    first = draft.records[0]
    whole = [r for r in draft.records if r.reports.base_scores.keys() == r.scores.keys()]
    base = tuple(sorted({b for r in whole if (b := r.macro_base) is not None}))
    return Section(_anchor(first), first, tuple(budgets), base, draft.goal, verdicts[0].better)


def _anchor(r: Record) -> str:
    """A file's name for a workload: what it is, as far as that is plain letters, and a digest."""
    i = r.identity
    words = re.sub(r"[^a-z0-9]+", "-", f"{i.suite}-{i.model}-{i.mode}".lower()).strip("-")[:40]
    return f"{words or 'workload'}-{digest(_workload(r))[:8]}"


def _dressed(row: Row, found: Gathered) -> Row:
    """With what is known of its runs beside their records."""
    disputes = [d for r in row.runs for d in found.disputes.get(r.id, ())]
    unverified = sum(r.id not in found.answers for r in row.runs)
    return replace(row, unverified=unverified, local=sum(map(found.local, row.runs)), disputes=tuple(disputes))


def _compared(rows: Sequence[Row], known: Mapping[str, Answers]) -> Verdict:
    """Rows with the seeds of a ranked one among each other, the rest against the reference alone."""
    tested = _tested(rows)
    keys = {row.key for row in tested}
    ranked = [row for row in rows if row.key in keys or (row.is_reference and keys)]
    others = [row for row in rows if row.key not in keys or row.is_reference]
    found: dict[str, dict[str, Any]] = {}
    better = frozenset[tuple[str, str]]()
    for group in (others, ranked):
        panel = _panel(group, known)
        if panel is None or (group is others and len(group) < 2):
            continue
        all_of = compare(panel, next((row.key for row in group if row.is_reference), None))
        places = _places(all_of, [row.key for row in tested]) if group is ranked else {}
        for k, name in enumerate(panel.names):
            estimate = score(panel.correct[k][panel.present[k]], panel.task, panel.weight)
            tie, place = places.get(name, (None, None))
            against = all_of.differences.get(name)
            found[name] = {"estimate": estimate, "against": against, "tie": tie, "places": place}
        better = all_of.better if group is ranked else better
    return Verdict(found, better)


def _tested(rows: Sequence[Row]) -> list[Row]:
    """The rows that can have a group and a place: those with the seeds of a ranked row where there are two, else all
    with several, and of them those that share several with the reference (without one, with the row of most seeds).

    A row of few seeds, or of seeds that nobody else has, can be told apart from nothing: it would stand in the group of
    the best, and as the best it would take all others into its group.
    """
    several = [row for row in rows if row.ranked and len(row.runs) > 1]
    whole = [row for row in several if not row.provisional]
    several = whole if len(whole) > 1 else several
    anchor = max(several, key=lambda row: (row.is_reference, len(row.runs), row.key), default=None)
    return [row for row in several if anchor is not None and len(_seeds(row) & _seeds(anchor)) > 1]


def _seeds(row: Row) -> set[int]:
    return {r.identity.seed for r in row.runs}


def _places(found: Comparison, tested: Sequence[str]) -> dict[str, tuple[int, tuple[int, int]]]:
    """Tie group and places among the rows that were tested, of which there are two at least."""
    means = {name: found.means[name] for name in tested if name in found.means}
    if len(means) < 2:
        return {}
    better = frozenset(pair for pair in found.better if means.keys() >= set(pair))
    groups, span = ties(means, better), ranks(list(means), better)
    return {name: (groups[name], span[name]) for name in means}


def _panel(rows: Sequence[Row], known: Mapping[str, Answers]) -> Panel | None:
    """The rows that have all their items, and the same number of them. None where there is no such row with two seeds."""
    runs: dict[str, dict[int, Answers]] = {}
    sizes: list[int] | None = None
    for row in sorted(rows, key=lambda row: (not row.is_reference, -len(row.runs), row.key)):
        found = {r.identity.seed: known[r.id] for r in row.runs if r.id in known}
        shapes = [[len(a) for a in run] for run in found.values()]
        sizes = sizes or (shapes[0] if shapes else None)
        if len(found) == len(row.runs) and all(shape == sizes for shape in shapes):
            runs[row.key] = found
    return Panel.of(runs) if any(len(found) > 1 for found in runs.values()) else None


def _workload(r: Record) -> str:
    """What two runs must share for their scores to be comparable; the test items are not in the workload's hash."""
    i, metrics = r.identity, {task: s.metric for task, s in r.scores.items()}
    what = [i.suite, i.model, i.mode, r.workload, r.reports.limit, r.rules_version, i.data_sha256.get("test"), metrics]
    return canonical(what)


def _code(r: Record) -> tuple[str, str]:
    return r.identity.strategy, r.identity.source_sha256


def _defaults(records: Sequence[Record]) -> dict[tuple[str, str], dict[str, Any]]:
    """Of each strategy's file: what hyperparameters are when they are not given, as far as one run was not given them."""
    found: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
    for r in records:
        given = r.identity.passed
        free = {k: v for k, v in r.identity.hyperparameters.items() if not {k, k.rpartition(".")[2]} & given.keys()}
        found[_code(r)] |= free
    return found


def _hints(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """Settings, LR and source digest, where the strategy's name alone would be ambiguous in this section."""
    same = [r for r in rows if r.strategy == row.strategy]
    i = row.first.identity
    hints = [", ".join(f"{name}={number(value)}" for name, value in row.given.items())] if row.given else []
    peers = [r for r in same if r.multiple == row.multiple and hyperparameters(r.first) == hyperparameters(row.first)]
    if len({r.first.identity.lr for r in peers if row.tuning or not r.tuning}) > 1:
        hints.append(f"lr {i.lr:g}")
    if len({r.first.identity.source_sha256 for r in same}) > 1:
        hints.append(f"source {i.source_sha256[:8]}")
    return tuple(hints)
