"""The journal: one line per finished verb with its arguments' digest and its result, each line checksummed.

It is written for durable replay: `run(lab)` started again asks for the same verbs in the same order, and a verb whose
line exists answers from it. A different verb or other arguments is `NonDeterministicStrategy`.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from harness.errors import NonDeterministicStrategy
from harness.paths import canonical

RELATIVE, ABSOLUTE = 1e-3, 1e-4  # between two computations of one number on a GPU, or on other numbers of ranks


class Journal:
    """Append-only `journal.jsonl`.

    `replay` holds the finished lines that a restarted run answers from; `expected` those after the durable point, which
    are computed again: where that is `exact`, on the CPU of one process both times, and `on` the same machine with as many
    threads, they must come out the same. Elsewhere what is journalled wins where it is near enough; where it is not, what
    is computed now is a course of its own.
    """

    def __init__(
        self,
        path: Path | None,
        replay: list[dict[str, Any]] | None = None,
        expected: list[dict[str, Any]] | None = None,
    ) -> None:
        self._replay = replay or []
        self._expected = {line["i"]: line for line in expected or []}
        self._file: IO[str] | None = path.open("a", encoding="utf-8") if path else None
        self.verbs = 0
        self.exact, self.on = True, ""

    @property
    def replaying(self) -> bool:
        """Whether the next verb will be answered from the journal."""
        return self.verbs < len(self._replay)

    def recall(self, verb: str, args: str) -> dict[str, Any] | None:
        """The finished line of the next verb, if there is one. Raises NonDeterministicStrategy if it differs."""
        if self.verbs >= len(self._replay):
            return None
        line = self._replay[self.verbs]
        self._same(line, verb, args)
        self.verbs += 1
        return line

    def _same(self, line: dict[str, Any], verb: str, args: str) -> None:
        if (line["verb"], line["args"]) != (verb, args):
            raise NonDeterministicStrategy(
                f"verb {self.verbs} was {line['verb']} and is {verb} on replay"
                + ("" if line["verb"] != verb else " with other arguments")
                + "; a strategy draws from lab.rng only and keeps no state between runs"
            )

    def check(self, verb: str, args: str, result: Any) -> Any:
        """The result that counts of a recomputed verb, of which an interrupted run may have left a line.

        Raises NonDeterministicStrategy if it must be the same and is not.
        """
        line = self._expected.pop(self.verbs, None)
        if line is None:
            return result
        if not self.exact or line.get("near") or line.get("on", self.on) != self.on:
            same = (line["verb"], line["args"]) == (verb, args) and near(line["result"], json.loads(json.dumps(result)))
            if not same:
                self._expected.clear()
            return line["result"] if same else result
        self._same(line, verb, args)
        if json.dumps(line["result"], sort_keys=True) != json.dumps(json.loads(json.dumps(result)), sort_keys=True):
            raise NonDeterministicStrategy(
                f"verb {self.verbs} ({verb}) gave another result when it was computed again after the interruption"
            )
        return result

    def append(self, verb: str, args: str, result: Any, ledger_lines: int, exhausted: int | None = None) -> None:
        """Write one finished verb; it survives a kill. `exhausted`: whose budget it met the end of."""
        line = {"i": self.verbs, "verb": verb, "args": args, "result": result, "ledger": ledger_lines}
        line["exhausted"] = exhausted
        if not self.exact:
            line["near"] = True
        if self.on:
            line["on"] = self.on
        self.verbs += 1
        if self._file:
            self._file.write(seal(line) + "\n")
            self._file.flush()  # a machine that goes down goes back to the last snapshot, which syncs this file

    def sync(self) -> None:
        """All finished verbs are on disk when this returns."""
        if self._file:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def near(had: Any, has: Any) -> bool:
    """Whether two results differ in nothing but numbers that are rounded otherwise."""
    if isinstance(had, float) and isinstance(has, float):
        return math.isclose(had, has, rel_tol=RELATIVE, abs_tol=ABSOLUTE) or (had != had and has != has)
    if isinstance(had, Mapping) and isinstance(has, Mapping):
        return {str(k) for k in had} == {str(k) for k in has} and all(near(had[str(k)], v) for k, v in has.items())
    if isinstance(had, list | tuple) and isinstance(has, list | tuple):
        return len(had) == len(has) and all(map(near, had, has))
    return type(had) is type(has) and bool(had == has)


def seal(line: dict[str, Any]) -> str:
    """One journal line with its checksum."""
    text = json.dumps(line, sort_keys=True, separators=(",", ":"))
    return canonical({"crc": zlib.crc32(text.encode())})[:-1] + "," + text[1:]


def read(path: Path) -> list[dict[str, Any]]:
    """The intact lines, up to the first that is truncated or damaged."""
    lines: list[dict[str, Any]] = []
    for raw in path.read_bytes().split(b"\n"):
        try:
            line = json.loads(raw)
            crc = line.pop("crc")
            text = json.dumps(line, sort_keys=True, separators=(",", ":"))
        except (ValueError, KeyError, AttributeError):
            break
        if crc != zlib.crc32(text.encode()) or line.get("i") != len(lines):
            break
        lines.append(line)
    return lines
