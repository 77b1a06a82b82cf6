"""A refutation: somebody repeated a row's run and it came out differently (rules.md, 11). A record type of its own.

`<seed>-<id8>.refuted-<digest8>.json` lies beside the record that it disputes: {"kind", "schema_version", "refutes", "record"},
with the whole record of the repetition and its own items file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import HarnessError
from harness.paths import digest
from harness.record import Record, read, upgrade

RESULT = re.compile(r"\d+-[0-9a-f]{8}\.json")
NAME = re.compile(r"\d+-[0-9a-f]{8}\.refuted-[0-9a-f]{8}\.json")
VERSION = 1


class Refutation(BaseModel):
    """The file's content. `refutes`: the id of the disputed run."""

    model_config = ConfigDict(extra="forbid")

    kind: Literal["refutation"] = "refutation"
    schema_version: int = VERSION
    refutes: str
    record: Record


def prefix(record: Record, refutes: str) -> str:
    """What the file's name begins with: a repetition has the seed of what it repeats."""
    return f"{record.identity.seed}-{refutes[:8]}.refuted"


def name(record: Record, refutes: str) -> str:
    return f"{prefix(record, refutes)}-{digest(record.model_dump(mode='json'))[:8]}.json"


def unwrap(raw: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """(the disputed id, the repetition's record) of a file's JSON; what is missing fails in the record's schema."""
    record = raw.get("record")
    whole = isinstance(record, dict) and set(raw) == {"kind", "schema_version", "refutes", "record"}
    whole = whole and raw["kind"] == "refutation" and raw["schema_version"] == VERSION
    return str(raw.get("refutes")), dict(record) if whole and isinstance(record, dict) else {}


def load(path: Path) -> Refutation:
    """A refutation from its file. Raises HarnessError."""
    import json

    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        return Refutation(refutes=unwrap(raw)[0], record=Record.model_validate(upgrade(unwrap(raw)[1])))
    except (OSError, ValueError, ValidationError, AttributeError, RecursionError) as error:
        raise HarnessError(f"refutation {str(path)!r}: {' '.join(str(error).split())[:160]}") from None


def disputed(file: Path, record: Record, refutes: str) -> Record | None:
    """The disputed record, beside the refutation."""
    try:
        return read(file.parent / f"{record.identity.seed}-{refutes[:8]}.json")
    except HarnessError:
        return None


def problems(record: Record, refutes: str, other: Record | None) -> Iterator[tuple[str, str]]:
    """Why this is no refutation of `other`."""
    if other is None or other.id != refutes:
        yield f"refutes {refutes!a}", "the id of a record in the same folder"
        return
    if record.workload != other.workload:
        yield f"workload {record.workload}", f"{other.workload}, of what it refutes"
    mine, theirs = (r.identity.model_dump(exclude={"passed", "source_sha256", "suite_sha256"}) for r in (record, other))
    for r, values in ((record, mine), (other, theirs)):
        values["budget"] = r.identity.budget.multiple
    for key in sorted(mine):
        if mine[key] != theirs[key]:
            yield (
                f"identity.{key} {ascii(mine[key])[:60]}",
                f"{ascii(theirs[key])[:60]}, of what it refutes: repeat the same run",
            )
    if {t: s.items_sha256 for t, s in record.scores.items()} == {t: s.items_sha256 for t, s in other.scores.items()}:
        yield "the same items as the record that it refutes", "a result that differs: this one reproduces it"
