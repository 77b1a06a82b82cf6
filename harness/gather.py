"""What a site is made of: records of runs and results folders, the answers to single items, refutations.

Everything is read as if anybody had written it: a file that cannot be read costs a line on stderr and is left out.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness import items, reference, refutation
from harness.errors import HarnessError
from harness.parallel import collected, streamed
from harness.record import SCHEMA_VERSION, Record, TaskScore, read
from harness.reference import Reference
from harness.refutation import Refutation

ID = re.compile(r"[0-9a-f]{16}")
LARGEST = 20_000_000  # bytes of a record: a run's own limits keep it far below

Scores = Mapping[str, TaskScore]
Answers = list[np.ndarray]  # one array of scores in [0, 1] a task, tasks by name


@dataclass(frozen=True)
class Gathered:
    """`files`: where each record came from; `answers` only of records whose items give their scores again."""

    records: dict[str, Record] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    answers: dict[str, Answers] = field(default_factory=dict)
    disputes: dict[str, list[Refutation]] = field(default_factory=dict)
    references: list[Reference] = field(default_factory=list)

    @property
    def shown(self) -> list[Record]:
        return [r for r in self.records.values() if r.status != "failed"]

    @property
    def failed(self) -> list[Record]:
        """Those that had cost something: what was refused before any work was billed is nobody's result."""
        found = (r for r in self.records.values() if r.status == "failed" and r.total_model_flops)
        return sorted(found, key=lambda r: r.id)

    def local(self, r: Record) -> bool:
        """Whether the record lies in a runs folder and was not submitted."""
        return r.id in self.files and self.files[r.id].name == "record.json"


def gather(sources: Iterable[Path]) -> Gathered:
    """Every run once: the first copy that did not fail, else the first. Folders are results and runs folders."""
    found = Gathered()
    folders = list(sources)
    paths = [p for folder in folders for p in _files(folder)]
    with collected():
        for id_, sent in streamed(_marks, _read_all(paths, found), len(paths)):
            if sent is not None:
                found.answers[id_] = _received(found.records[id_].scores, sent)
    for refuted in _refutations(folders):
        found.disputes.setdefault(refuted.refutes, []).append(refuted)
    found.references.extend(sorted(_references(folders), key=lambda r: (-r.macro, r.name)))
    return found


def load(sources: Iterable[Path]) -> Iterator[Record]:
    """The records alone."""
    yield from gather(sources).records.values()


def _read_all(paths: Iterable[Path], found: Gathered) -> Iterator[tuple[str, Path, Scores]]:
    """Read records into `found`; what has items is passed on, so that they are read at the same time."""
    for path in paths:
        try:
            record = _read(path)
        except (HarnessError, ValueError, OSError) as error:
            _skipped(path, error)
            continue
        if record.id not in found.records or (found.records[record.id].status == "failed" != record.status):
            found.records[record.id], found.files[record.id] = record, path
            if record.status != "failed":
                yield record.id, path, record.scores


def _marks(run: tuple[str, Path, Scores]) -> tuple[str, Answers | bytes | None]:
    """A run's id and answers, as they travel."""
    id_, path, scores = run
    return id_, _sent(answers(scores, path))


def _files(folder: Path) -> list[Path]:
    """`<seed>-<id8>.json` at any depth of a results folder (hub ids have a /), or `<id>/record.json` of a runs folder.

    A run's folder among submitted records is none of them: nothing ties it to its items, and it would stand for its id.
    """
    results = (p for p in folder.rglob("[0-9]*-*.json") if refutation.RESULT.fullmatch(p.name))
    return sorted(results) or sorted(folder.glob("*/record.json"))


def _read(path: Path) -> Record:
    if path.stat().st_size > LARGEST:
        raise HarnessError(f"{path.stat().st_size:,} bytes; expected at most {LARGEST:,}")
    record = read(path)
    _check(record)
    return record


def _skipped(path: Path, error: Exception) -> None:
    """One line that names the file once, though most errors name it too."""
    why = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    print(f"harness: skipped {path}: {why.partition(f'{str(path)!r}: ')[2] or why}", file=sys.stderr)


def _refutations(folders: Sequence[Path]) -> Iterator[Refutation]:
    for path in sorted(p for f in folders for p in f.rglob("*.refuted-*.json") if refutation.NAME.fullmatch(p.name)):
        try:
            found = refutation.load(path)
            _check(found.record)
            yield found
        except (HarnessError, ValueError) as error:
            _skipped(path, error)


def _references(folders: Sequence[Path]) -> Iterator[Reference]:
    """Imported results files that say nothing wrong."""
    for path in sorted(p for f in folders for p in f.rglob("*.reference-*.json") if reference.NAME.fullmatch(p.name)):
        try:
            found = reference.load(path)
            wrong = next(reference.problems(found), None)
            if wrong is not None:
                raise HarnessError(f"{wrong[0]}; expected {wrong[1]}")
            yield found
        except HarnessError as error:
            _skipped(path, error)


def _check(r: Record) -> None:
    """Raises HarnessError on what the schema allows and no page can show."""
    spec, scores = r.identity.budget, r.scores.values()
    if r.schema_version > SCHEMA_VERSION:
        raise HarnessError(f"schema version {r.schema_version}: this harness reads up to {SCHEMA_VERSION}")
    if not ID.fullmatch(r.id):
        raise HarnessError(f"id {r.id!r}: expected 16 hex digits")
    if not (math.isfinite(spec.multiple) and spec.multiple > 0 and spec.flops > 0):
        raise HarnessError(f"budget {spec.multiple} of {spec.flops} FLOPs: expected positive numbers")
    if r.status != "failed" and not scores:
        raise HarnessError(f"status {r.status!r} without scores")
    if not all(map(math.isfinite, _numbers(r))):
        raise HarnessError("a score or another number is not finite")
    if min((p.model_flops for p in r.ledger.values()), default=0) < 0:
        raise HarnessError("negative FLOPs in the ledger")


def _numbers(r: Record) -> Iterator[float]:
    for s in r.scores.values():
        yield from (s.value, s.stderr)
    yield from r.reports.base_scores.values()
    yield from (r.identity.lr, r.reports.seconds_outside_verbs)
    yield from (p.seconds for p in r.ledger.values())
    yield from (w for change in r.mixture for w in change.weights.values())
    yield from (p.exact_match for p in r.curves)


def answers(scores: Scores, path: Path) -> Answers | None:
    """Scores of single items, task by task, if the record's scores follow from them; else None."""
    try:
        found = items.outcomes(scores, path, {})
    except (HarnessError, OSError, ValueError):
        return None
    return None if found is None else [np.array(task, np.float32) for task in found]


def _sent(found: Answers | None) -> Answers | bytes | None:
    """Right and wrong as bits, since thousands of these go from one process to another."""
    if not found:
        return found
    flat = np.concatenate(found)
    right = flat == 1
    return np.packbits(right).tobytes() if (right | (flat == 0)).all() else found


def _received(scores: Scores, sent: Answers | bytes) -> Answers:
    if not isinstance(sent, bytes):
        return sent
    ends = np.cumsum([scores[task].n for task in sorted(scores)])
    bits = np.unpackbits(np.frombuffer(sent, np.uint8), count=int(ends[-1]))
    return np.split(bits.astype(np.float32), ends[:-1])
