"""Durable execution: snapshots of a running lab, and going on from the newest one after a crash.

A snapshot is taken on wall-clock, in the middle of a training too. It holds weights, optimizer, the core's plain state, the
running stage, and how long journal and ledger were; a resumed run cuts both back to it, answers finished verbs from the
journal and computes the rest again. What is damaged is never used: then the run starts again from its first verb.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from harness import checkpoint, journal, ledger, ranks
from harness.checkpoint import Tensors
from harness.errors import HarnessError
from harness.paths import file_digest, write_atomic

SECONDS = 60.0
# What a snapshot holds and means. To be raised with any change of it: a run is never resumed from what it misreads.
LAYOUT = 2


@dataclass(frozen=True)
class Point:
    """A durable point: `verbs` finished, ledger lines kept, tensors, the open labs' state and the stage in progress."""

    verbs: int
    tensors: dict[str, Tensors]
    levels: list[dict[str, Any]]
    trail: dict[str, Any]
    checkpoints: list[str]
    stage: dict[str, Any] | None
    replay: list[dict[str, Any]]
    expected: list[dict[str, Any]]
    entries: list[ledger.Entry]
    peak: int = 0  # checkpoints at one time so far


class Snapshots:
    """The snapshots of one run directory: at most one, replaced whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "snapshot"
        self.every = float(os.environ.get("HARNESS_SNAPSHOT_SECONDS", SECONDS))
        self._last, self._took = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether rank 0's clock says so."""
        # A large model's snapshot takes long: it may cost a twentieth of the time at most.
        return ranks.first(time.monotonic() - self._last >= (max(self.every, 20 * self._took) if self.every else 0.0))

    def write(
        self,
        verbs: int,
        tensors: Mapping[str, Tensors],
        state: Mapping[str, Any],
        book: ledger.Ledger,
        store: checkpoint.Store,
    ) -> None:
        """Write the checkpoints that the snapshot refers to, then the snapshot beside the old one, then point to it.

        A kill at any moment leaves a whole snapshot whose checkpoints are there.
        Rank 0 does; the others have taken part in getting the tensors there.
        """
        if not ranks.main():
            return
        started = time.monotonic()
        self.folder.mkdir(exist_ok=True)
        store.flush()
        book.sync()
        old = _pointer(self.folder)
        name = "a" if old is None or old["name"] == "b" else "b"
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        for group, values in tensors.items():
            save_file({k: t.contiguous() for k, t in values.items()}, target / f"{group}.safetensors")
        write_atomic(target / "state.json", json.dumps(state))
        fault("snapshot")
        pointer = {
            "layout": LAYOUT,
            "name": name,
            "verbs": verbs,
            "ledger_lines": len(book.entries),
            "ledger_sha256": _head_digest(book.path, len(book.entries)),
            "sha256": {p.name: file_digest(p) for p in sorted(target.iterdir())},
        }
        write_atomic(self.folder / "pointer.json", json.dumps(pointer))
        if old is not None:
            shutil.rmtree(self.folder / old["name"], ignore_errors=True)
        self._last = time.monotonic()
        self._took = self._last - started


def load(folder: Path) -> Point | None:
    """The durable point of an interrupted run, checked; None if there is none or any part of it is damaged.

    Raises HarnessError if another version of harness wrote it: its hours are not thrown away unasked.
    """
    pointer = _pointer(folder / "snapshot")
    if pointer is None:
        return None
    if pointer.get("layout") != LAYOUT:
        raise HarnessError(
            f"run {folder.name} was begun by a version of harness whose snapshots this one cannot read: "
            "finish it with that version, or start it again with --force"
        )
    there = folder / "snapshot" / pointer["name"]
    try:
        intact = all(file_digest(there / n) == sha for n, sha in pointer["sha256"].items())
        lines, book = journal.read(folder / "journal.jsonl"), folder / "ledger.jsonl"
        if not intact or _head_digest(book, pointer["ledger_lines"]) != pointer["ledger_sha256"]:
            return None
        state = json.loads((there / "state.json").read_text(encoding="utf-8"))
        tensors = {p.stem: load_file(p) for p in there.glob("*.safetensors")}
        if not all(checkpoint.intact(folder / "checkpoints" / checkpoint.folder_name(n)) for n in state["checkpoints"]):
            return None
    except (OSError, KeyError, ValueError, TypeError):
        return None
    n = pointer["verbs"]
    if len(lines) < n:
        return None
    entries = ledger.read(book, pointer["ledger_lines"])
    plain = (state["levels"], state["trail"], state["checkpoints"], state["stage"])
    return Point(n, tensors, *plain, lines[:n], lines[n:], entries, state.get("peak", 0))


def agreed(point: Point | None) -> Point | None:
    """Rank 0's point on every rank; the engine's tensors stay where they are."""
    told = ranks.first(point and replace(point, tensors=checkpoint.light(point.tensors)))
    return point if ranks.main() else told


def cut(folder: Path, point: Point) -> None:
    """Cut journal and ledger back together to the durable point."""
    write_atomic(folder / "journal.jsonl", "".join(journal.seal(line) + "\n" for line in point.replay))
    write_atomic(folder / "ledger.jsonl", "".join(entry.line() + "\n" for entry in point.entries))


def _pointer(folder: Path) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads((folder / "pointer.json").read_text(encoding="utf-8"))
        return found if {"name", "verbs", "ledger_lines", "ledger_sha256", "sha256"} <= set(found) else None
    except (OSError, ValueError, TypeError):
        return None


def _head_digest(path: Path | None, lines: int) -> str:
    """sha256 of a file's first lines; the ledger may have grown since the snapshot."""
    total = hashlib.sha256()
    if path is not None and lines:
        with path.open("rb") as handle:
            for _ in range(lines):
                total.update(handle.readline())
    return total.hexdigest()


_counts: dict[str, int] = {}


def fault(where: str) -> None:
    """For tests: HARNESS_FAULT=kill@WHERE:N kills this process with SIGKILL at the N-th time it comes by (from 1).

    full@WHERE:N raises what writing to a full disk raises, once. Of several ranks only HARNESS_FAULT_RANK (0) is struck.
    """
    if ranks.number() != int(os.environ.get("HARNESS_FAULT_RANK", 0)):
        return
    kind, _, asked = os.environ.get("HARNESS_FAULT", "").partition("@")
    place, _, count = asked.partition(":")
    if kind not in ("kill", "full") or place != where:
        return
    _counts[where] = _counts.get(where, 0) + 1
    if _counts[where] == int(count or 1):
        if kind == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)
        os.kill(os.getpid(), 9)
