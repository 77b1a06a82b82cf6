"""`harness verify`: whether records say what a run can have said, from invariants within, beside and between them.

A finding is one line, `file: what; expected ...`. What cannot be read at all is reported apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from harness import answers, invariants, ledger, provenance, reference, refutation
from harness.between import Bundle, Finding, between
from harness.errors import HarnessError
from harness.items import LIMIT, beside, load
from harness.ledger import BILLED
from harness.privacy import hidden, short, strings
from harness.record import SCHEMA_VERSION, Record, upgrade

KINDS = refutation.RESULT, refutation.NAME, reference.NAME  # file names of what lies in a results folder
RECORD_LIMIT = 4_000_000  # bytes; 1 MB of logged numbers takes up to 2.7 MB, one a line


@dataclass
class Verdict:
    """What was verified, what was found, and what could not be read."""

    bundles: list[Bundle] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    references: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        return 2 if self.unreadable else int(bool(self.findings))


def verify(paths: Sequence[Path], regrade: bool = False, mirror: Path | None = None) -> Verdict:
    """Verify records: files, run folders, or folders that hold them at any depth.

    `regrade`: also grade every response again, with data from the hub or from `mirror`/datasets.
    """
    verdict = Verdict()
    for path in paths:
        files = records(path)
        if not files:
            verdict.unreadable.append(f"{path}: no record there")
        mixed = any(file.name != "record.json" for file in files)
        for file in files:
            if mixed and file.name == "record.json":
                verdict.findings.append(
                    Finding(file, "the folder of a run among submitted records", "what submit writes")
                )
            _one(file, verdict, regrade, mirror)
    verdict.findings += between(verdict.bundles)
    return verdict


def records(path: Path) -> list[Path]:
    """The record files at a path."""
    if path.is_file():
        return [path]
    if (path / "record.json").is_file():
        return [path / "record.json"]
    submitted = (p for p in path.rglob("*.json") if any(kind.fullmatch(p.name) for kind in KINDS))
    return sorted({*path.glob("*/record.json"), *submitted})


def _one(file: Path, verdict: Verdict, regrade: bool, mirror: Path | None) -> None:
    try:
        if (size := file.stat().st_size) > RECORD_LIMIT:
            verdict.findings.append(Finding(file, f"{size:,} bytes", f"at most {RECORD_LIMIT:,}"))
            return
        raw, found = parse(file)
        verdict.findings += found
        if reference.NAME.fullmatch(file.name):
            verdict.references.append(file)
            verdict.findings += [Finding(file, *problem) for problem in _reference(file, raw)]
            return
        items = load(file)
    except HarnessError as error:
        verdict.unreadable.append(str(error))
        return
    refutes, raw = refutation.unwrap(raw) if refutation.NAME.fullmatch(file.name) else (None, raw)
    try:
        record = Record.model_validate(upgrade(raw))
    except ValidationError as error:
        verdict.findings += [Finding(file, *problem) for problem in _schema(error)]
        return
    except HarnessError as error:
        verdict.findings.append(Finding(file, str(error), "a schema version that this harness reads"))
        return
    if record.schema_version == SCHEMA_VERSION and not _alike(raw, record.model_dump(mode="json")):
        verdict.findings.append(
            Finding(file, "a value of another type than the schema's", "numbers as numbers, text as text")
        )
    submitted = file.name != "record.json"
    bundle = Bundle(file, record, items, submitted, refutes)
    verdict.bundles.append(bundle)
    verdict.findings += [Finding(file, *problem) for problem in problems(bundle)]
    if regrade and items is not None:
        from harness.regrade import regrade as again

        found_again, note = again(record, items, mirror)
        verdict.findings += [Finding(file, *problem) for problem in found_again]
        verdict.notes += [f"{file}: not graded again: {note}"] if note else []


def _reference(file: Path, raw: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with an imported results file, which has neither ledger nor items."""
    try:
        found = reference.Reference.model_validate(raw)
    except ValidationError as error:
        yield from _schema(error)
        return
    if not _alike(raw, found.model_dump(mode="json")):
        yield "a value of another type than the schema's", "numbers as numbers, text as text"
    wrong = list(reference.problems(found))
    yield from wrong
    if not wrong and file.name != reference.file_name(found):
        yield f"file name {short(file.name)}", f"{reference.file_name(found)}, of what it holds"
    if file.resolve().parent.parts[-2:] != (found.suite, "references"):
        yield f"folder {short('/'.join(file.resolve().parent.parts[-2:]))}", short(f"{found.suite}/references")


def _alike(raw: Any, had: Any) -> bool:
    """Whether JSON is what the schema made of it; optional keys that came later may be missing."""
    if isinstance(raw, dict) and isinstance(had, dict):
        return all(_alike(raw[k], v) if k in raw else v in (None, False, {}) for k, v in had.items())
    if isinstance(raw, list) and isinstance(had, list):
        return len(raw) == len(had) and all(map(_alike, raw, had))
    return type(raw) is type(had) and (raw == had or raw != raw)


def parse(file: Path) -> tuple[dict[str, Any], list[Finding]]:
    """The JSON of a record, and what is wrong with its form. Raises HarnessError for what is no JSON object."""
    found: list[Finding] = []
    try:
        data = file.read_bytes()
    except OSError as error:
        raise HarnessError(f"{file}: {error.strerror}") from None
    constants: list[str] = []
    twice: list[str] = []

    def constant(name: str) -> float:
        constants.append(name)
        return float(name)

    def pairs(given: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(given)
        twice.extend(
            sorted({k for k, _ in given if [x for x, _ in given].count(k) > 1}) if len(made) < len(given) else []
        )
        return made

    try:
        text = data.decode("utf-8")
        raw = json.loads(text, parse_constant=constant, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise HarnessError(f"{file}: not JSON ({' '.join(str(error).split())[:100]})") from None
    if not isinstance(raw, dict):
        raise HarnessError(f"{file}: not a JSON object")
    found += [Finding(file, f"the number {c}", "finite numbers") for c in sorted(set(constants))]
    found += [Finding(file, f"key {short(key)} twice", "each key once") for key in sorted(set(twice))]
    for where, text_, _ in strings(raw):
        if not text_.isascii() and (c := hidden(text_)):
            found.append(Finding(file, f"{where}: the hidden character {c}", "text that is what it looks like"))
    if not found and json.dumps(raw, indent=1, sort_keys=True) + "\n" != text:
        found.append(
            Finding(file, "its text is not as the harness writes it", "sorted keys, one a line, nothing after them")
        )
    return raw, found


def _schema(error: ValidationError) -> Iterator[tuple[str, str]]:
    for problem in error.errors(include_url=False)[:20]:
        where = ".".join(short(str(x), 40)[1:-1] for x in problem["loc"]) or "file"
        if problem["type"] == "extra_forbidden":
            yield f"{where}: an unknown key", "the keys of the schema"
        elif problem["type"] == "missing":
            yield f"{where}: missing", "all keys of the schema"
        else:
            yield f"{where} {short(str(problem.get('input')))}", problem["msg"]


def problems(b: Bundle) -> Iterator[tuple[str, str]]:
    """What is wrong within one record and beside it."""
    yield from invariants.record(b.record)
    yield from provenance.check(b.record, b.submitted)
    yield from _place(b)
    if b.items is not None:
        yield from answers.check(b.record, b.items)
    elif b.record.scores and b.submitted:
        yield f"no items in {beside(b.file).name}", f"the items that its scores are of, at most {LIMIT:,} bytes"
    if not b.submitted:
        yield from _bookings(b)


def _place(b: Bundle) -> Iterator[tuple[str, str]]:
    """The names of file and folders are the record's own."""
    i, r = b.record.identity, b.record
    if b.refutes is not None:
        if not b.file.name.startswith(refutation.prefix(r, b.refutes)):
            yield f"file name {short(b.file.name)}", f"{refutation.prefix(r, b.refutes)}-..., of what it refutes"
    elif b.submitted and b.file.name != f"{i.seed}-{r.id[:8]}.json":
        yield f"file name {short(b.file.name)}", f"{i.seed}-{r.id[:8]}.json, of its seed and id"
    if b.submitted:
        want = [i.suite, *i.model.split("/"), i.strategy]
        if list(b.file.resolve().parent.parts[-len(want) :]) != want:
            yield f"folder {short('/'.join(b.file.resolve().parent.parts[-len(want) :]))}", short("/".join(want))
        if r.status == "failed":
            yield "status failed", "a run that came to an end"
        if r.identity.strategy in (".", "..") or "/" in r.identity.strategy:
            yield f"identity.strategy {short(r.identity.strategy)}", "a name without folders"


def _bookings(b: Bundle) -> Iterator[tuple[str, str]]:
    """The sums of a run's own ledger.jsonl, where it is there."""
    path = b.file.parent / "ledger.jsonl"
    if b.file.name != "record.json" or not path.is_file():
        return
    try:
        table = ledger.by_phase(ledger.read(path))
    except (ValueError, TypeError, KeyError, UnicodeDecodeError):
        yield "ledger.jsonl cannot be read", "a booking a line"
        return
    had = {phase: row.model_dump() for phase, row in b.record.ledger.items()}
    for name in ("model_flops", "hardware_flops", "tokens"):
        pairs = {phase: (had[phase][name], table[phase][name]) for phase in (*BILLED, "look") if phase in had}
        lost = pairs.pop("discarded", (0, 0))[0]
        train = pairs.get("train", (0, 0))
        pairs["train"] = (train[0] + lost, train[1])  # the record divides training into kept and discarded
        for phase, (said, booked) in pairs.items():
            if said != booked:
                yield f"ledger.{phase}.{name} {said}", f"{booked}, the sum of ledger.jsonl"
