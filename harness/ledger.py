"""The ledger: every FLOP that a run causes, by phase, and the cap that it may not pass.

One line per booking in `ledger.jsonl`: {verb, step, phase, model, hardware, tokens, seconds}. Seven phases are billed and
sum to the total (`discarded` is derived from `train` when the record is written); `look` and `score` stand beside them.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import IO, Any

from harness.errors import BudgetExhausted

BILLED = ("train", "discarded", "proxy", "validate", "probe", "gradients", "generate")
BESIDE = ("look", "score")


@dataclass(frozen=True)
class Cost:
    """FLOPs in both columns, and real tokens."""

    model: int = 0
    hardware: int = 0
    tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.model + other.model, self.hardware + other.hardware, self.tokens + other.tokens)


@dataclass(frozen=True)
class Entry:
    """One ledger line. `verb` counts the lab's verbs from 0, `step` the optimizer steps within it."""

    verb: int
    step: int
    phase: str
    model: int
    hardware: int
    tokens: int
    seconds: float

    def line(self) -> str:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return json.dumps(values | {"seconds": round(self.seconds, 6)}, separators=(",", ":"))


class Ledger:
    """Bookings of one run under a cap in FLOPs. `spent` is what is billed so far."""

    def __init__(self, cap: int, path: Path | None = None, entries: Iterable[Entry] = ()) -> None:
        self.cap = cap
        self.path = path
        self.entries: list[Entry] = list(entries)
        self.spent = sum(e.model for e in self.entries if e.phase in BILLED)
        self.exhausted = False
        mode = "a" if self.entries else "w"
        self._file: IO[str] | None = path.open(mode, encoding="utf-8") if path else None

    @property
    def remaining(self) -> int:
        return self.cap - self.spent

    def fits(self, flops: int) -> bool:
        return self.spent + flops <= self.cap

    def require(self, flops: int) -> None:
        """Raise BudgetExhausted if this billed work does not fit, or if an earlier verb was cut."""
        if self.exhausted or not self.fits(flops):
            self.exhausted = True
            raise BudgetExhausted(f"{flops} FLOPs asked for, {self.remaining} left of {self.cap}")

    def book(self, phase: str, cost: Cost, seconds: float, verb: int, step: int = 0) -> None:
        if phase not in BILLED and phase not in BESIDE:
            raise ValueError(f"unknown ledger phase {phase!r}")
        entry = Entry(verb, step, phase, cost.model, cost.hardware, cost.tokens, seconds)
        self.entries.append(entry)
        if phase in BILLED:
            self.spent += cost.model
        if self._file:
            self._file.write(entry.line() + "\n")

    def flush(self) -> None:
        if self._file:
            self._file.flush()

    def sync(self) -> None:
        """All bookings so far are on disk when this returns."""
        if self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


def read(path: Path, n: int | None = None) -> list[Entry]:
    """The first n entries of a `ledger.jsonl`, or all."""
    with path.open(encoding="utf-8") as handle:
        return [Entry(**json.loads(line)) for line in itertools.islice(handle, n)]


def by_phase(entries: Iterable[Entry], kept: Mapping[int, int] | None = None) -> dict[str, dict[str, Any]]:
    """Sums per phase as the record shows them.

    `kept` maps each training verb on the path from the base to the answer to the last step that lies on it; other
    training is `discarded`. Without it nothing is.
    """
    table = {
        phase: {"model_flops": 0, "hardware_flops": 0, "tokens": 0, "seconds": 0.0} for phase in (*BILLED, *BESIDE)
    }
    for e in entries:
        lost = e.phase == "train" and kept is not None and e.step > kept.get(e.verb, 0)
        row = table["discarded" if lost else e.phase]
        row["model_flops"] += e.model
        row["hardware_flops"] += e.hardware
        row["tokens"] += e.tokens
        row["seconds"] += e.seconds
    for row in table.values():
        row["seconds"] = round(row["seconds"], 3)
    return table


def billed(table: Mapping[str, Mapping[str, Any]]) -> int:
    """The sum of the seven billed phases."""
    return sum(int(table[phase]["model_flops"]) for phase in BILLED)
