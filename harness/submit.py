"""`harness submit`: verify a run, take out what is local, and copy record and items into the results folder."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import refutation
from harness.between import Bundle, Finding
from harness.errors import HarnessError
from harness.items import Items, beside, load, pack
from harness.paths import write_atomic
from harness.privacy import scrub
from harness.record import Identity, Record, read
from harness.verify import parse, problems, records


class Refused(HarnessError):
    """What verification found; nothing was copied."""

    exit_code = 1

    def __init__(self, findings: list[Finding]) -> None:
        super().__init__("\n".join(map(str, findings)))
        self.findings = findings


@dataclass(frozen=True)
class Submission:
    """Where a run's record lies now; `new` is False where the same one was there already. `doubts`: why it is unofficial."""

    path: Path
    new: bool
    doubts: tuple[str, ...] = ()


def submit(run: Path, results: Path, refutes: str | None = None) -> Submission:
    """Copy one run. Raises Refused with every finding, HarnessError where nothing can be read."""
    file = run / "record.json" if run.is_dir() else run
    record = read(file)
    items = load(file)
    if record.status == "failed":
        raise HarnessError(
            f"run {record.id} failed: {record.reports.error or 'no reason given'}; only ended runs are submitted"
        )
    if items is None:
        raise HarnessError(f"run {str(run)!r} has no items/; expected the folder of a run")
    clean = scrubbed(record)
    doubts = () if clean.official else tuple(clean.doubts) or ("its record says so",)
    target = place(clean, results, refutes)
    if target.is_file() and _body(target, refutes) == clean.model_dump(mode="json"):
        return Submission(target, False, doubts)
    if target.is_file():
        raise HarnessError(
            f"{target} holds another record of run {record.id}; a repetition that came out differently is a refutation: "
            f"--refutes {record.id}"
        )
    findings = [] if file.name != "record.json" else parse(file)[1]
    bundles = [Bundle(file, clean, items, False)]
    findings += [Finding(file, *problem) for b in bundles for problem in problems(b)]
    if refutes is not None:
        beside_it = refutation.disputed(target, clean, refutes)
        findings += [Finding(file, *problem) for problem in refutation.problems(clean, refutes, beside_it)]
    if findings:
        raise Refused(list(dict.fromkeys(findings)))
    made = copy(clean, items, target, results / clean.identity.suite, refutes)
    try:  # what only a submitted record has to be: of a strategy and a suite that others have
        found = [Finding(target, *problem) for problem in problems(Bundle(target, clean, load(target), True, refutes))]
        if found:
            raise Refused(found)
    except HarnessError:
        for path in made:
            path.unlink()
            with suppress(OSError):  # folders made for it go with it, others are not empty
                for folder in path.parents[: len(path.relative_to(results).parts) - 1]:
                    folder.rmdir()
        raise
    return Submission(target, True, doubts)


def place(record: Record, results: Path, refutes: str | None = None) -> Path:
    """`<suite>/<model>/<strategy>/<seed>-<id8>.json`, or the name of a refutation of that record."""
    path = _path(record.identity, record.id, results)
    return path if refutes is None else path.with_name(refutation.name(record, refutes))


def submitted(identity: Identity, id_: str, results: Path) -> Path | None:
    """The record of that run in a results folder, if it is there."""
    try:
        path = _path(identity, id_, results)
        return path if read(path).id == id_ else None
    except HarnessError:
        return None


def _path(i: Identity, id_: str, results: Path) -> Path:
    parts = [i.suite, *i.model.split("/"), i.strategy]
    if any(part in ("", ".", "..") or part != Path(part).name for part in parts):
        raise HarnessError(f"run {id_}: its suite, model or strategy is no name for a folder")
    return results.joinpath(*parts) / f"{i.seed}-{id_[:8]}.json"


def scrubbed(record: Record) -> Record:
    """The record with absolute paths and this machine's names taken out of its free text. The identity is never touched."""
    raw = record.model_dump(mode="json")
    for event in raw["events"]:
        event["note"], event["data"] = scrub(event["note"]), _scrub(event["data"])
    for key in ("backend", "backend_gate"):
        raw["reports"][key] = _scrub(raw["reports"][key])
    return Record.model_validate(raw)


def _scrub(value: Any) -> Any:
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {scrub(key): _scrub(inner) for key, inner in value.items()}
    return [_scrub(inner) for inner in value] if isinstance(value, list) else value


def _body(path: Path, refutes: str | None) -> dict[str, Any]:
    found = refutation.load(path).record if refutes is not None else read(path)
    return found.model_dump(mode="json")


def copy(record: Record, items: Items, target: Path, suite: Path, refutes: str | None) -> list[Path]:
    """The files that are new, the record last: without its items it would not verify."""
    packed = pack(items)
    made: dict[str, Any] = record.model_dump(mode="json")
    if refutes is not None:
        made = refutation.Refutation(refutes=refutes, record=record).model_dump(mode="json")
    questions = suite / "questions" / packed.name
    new = [] if questions.is_file() else [questions]
    for path, data in [*((path, packed.questions) for path in new), (beside(target), packed.answers)]:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(data)
        os.replace(partial, path)
    write_atomic(target, json.dumps(made, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return [*new, beside(target), target]


def runs(paths: list[Path]) -> list[Path]:
    """The record files of run folders, or of a folder of runs, of which those that failed are left out."""
    found = []
    for path in paths:
        files = [f for f in records(path) if f.name == "record.json"] if path.exists() else []
        if not files:
            raise HarnessError(f"no run at {str(path)!r}; expected the folder of a run, with its record.json")
        found += [f for f in files if path in (f, f.parent) or read(f).status != "failed"]
    return found
