"""What no two records can share, and what those of a workload must."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import refutation
from harness.items import Items
from harness.paths import digest
from harness.record import Record
from harness.reuse import EVENT

TIES = 0.02  # of a task's items: answers of the base model that another processor of the same kind may give otherwise


@dataclass(frozen=True)
class Finding:
    """One thing that is not so."""

    file: Path
    what: str
    expected: str

    def __str__(self) -> str:
        return f"{ascii(str(self.file))[1:-1]}: {self.what}; expected {self.expected}"


@dataclass(frozen=True)
class Bundle:
    """A record file with its items. `submitted`: it lies in a results folder. `refutes`: the id that it disputes."""

    file: Path
    record: Record
    items: Items | None
    submitted: bool
    refutes: str | None = None


def between(bundles: Sequence[Bundle]) -> list[Finding]:
    """What no two records can share, and what those of a workload must."""
    own = [b for b in bundles if b.refutes is None]
    return [*_twice(own), *_copies(own), *_workloads(own), *_reuses(own), *_disputes(bundles)]


def _groups(bundles: Iterable[Bundle], key: Any) -> list[list[Bundle]]:
    found: dict[Any, list[Bundle]] = {}
    for b in bundles:
        if (name := key(b)) is not None:
            found.setdefault(name, []).append(b)
    return [group for group in found.values() if len(group) > 1]


def _twice(bundles: Sequence[Bundle]) -> Iterator[Finding]:
    # A run and its submitted copy are the same record in two places, which is as it should be.
    for group in _groups(bundles, lambda b: (b.record.id, b.submitted)):
        for b in group[1:]:
            yield Finding(b.file, f"id {b.record.id} again", f"one record a run; it is also {group[0].file}")


def _trace(b: Bundle) -> str | None:
    """What two trainings with different seeds never have in common: the losses seen on the way."""
    trained = b.record.ledger.get("train")
    seen = [(p.billed_flops, p.task, p.loss) for p in b.record.curves if p.billed_flops > 0]
    return digest(seen) if seen and trained is not None and trained.model_flops else None


def _copies(bundles: Sequence[Bundle]) -> Iterator[Finding]:
    """One training that stands for two seeds. With one seed, two strategies may train alike, and honestly."""
    for what, key in (
        ("weights", lambda b: b.record.reports.weights_sha256 if _trace(b) else None),
        ("curves", _trace),
    ):
        for group in _groups(bundles, key):
            first = group[0]
            for b in group[1:]:
                if b.record.id != first.record.id and b.record.identity.seed != first.record.identity.seed:
                    yield Finding(b.file, f"the same {what} as {first.file}, of another seed", "a training of its own")


def _workloads(bundles: Sequence[Bundle]) -> Iterator[Finding]:
    """Of one workload, all have one 1x budget, one test split, one base model and as many items.

    The base model is scored on each machine: kinds of devices round in their own way, and two of one kind may differ in
    the few answers that are nearly ties.
    """
    facts: dict[str, Callable[[Record], Any]] = {
        "budget at 1x": lambda r: round(r.identity.budget.flops / r.identity.budget.multiple, -1),
        "data_sha256.test": lambda r: r.identity.data_sha256.get("test"),
        "base_scores": lambda r: r.reports.base_scores,
        "number of items": lambda r: sorted((t, s.n) for t, s in r.scores.items()),
        "template_sha256": lambda r: r.environment.template_sha256,
    }
    done = [b for b in bundles if b.record.status != "failed" and b.record.identity.budget.multiple > 0]
    for group in _groups(done, lambda b: (b.record.workload, b.record.rules_version)):
        for name, fact in facts.items():
            if name == "base_scores" and len({b.record.environment.device for b in group}) > 1:
                continue
            for b in group[1:]:
                had, want = fact(b.record), fact(group[0].record)
                if name == "budget at 1x":
                    same = abs(had - want) <= 1e-6 * want
                elif name == "base_scores":
                    same = had.keys() == want.keys() and all(abs(had[t] - want[t]) <= TIES + 1e-9 for t in had)
                else:
                    same = had == want
                if not same:
                    yield Finding(b.file, f"{name} differs from {group[0].file}", "one value in a workload")


def _reuses(bundles: Sequence[Bundle]) -> Iterator[Finding]:
    """What a mixture had cost is what its run had been billed when it was learned."""
    by_id = {b.record.id: b.record for b in bundles}
    for b in bundles:
        reused = b.record.reports.reused
        source = by_id.get(reused.id) if reused else None
        if reused is None or source is None:
            continue
        costs = [e.billed_flops for e in source.events if e.verb == "log" and e.note == EVENT]
        if [reused.flops] != costs or reused.seed != source.identity.seed:
            yield Finding(
                b.file,
                f"reports.reused: {reused.flops} FLOPs, seed {reused.seed}",
                (f"{costs} FLOPs, seed {source.identity.seed}, as run {reused.id} has it"),
            )


def _disputes(bundles: Sequence[Bundle]) -> Iterator[Finding]:
    by_id = {b.record.id: b for b in bundles if b.refutes is None}
    for b in bundles:
        if b.refutes is not None:
            other = by_id.get(b.refutes)
            at = None if other is not None else refutation.disputed(b.file, b.record, b.refutes)
            for problem in refutation.problems(b.record, b.refutes, other.record if other else at):
                yield Finding(b.file, *problem)
