"""The ledger: every FLOP that a run causes, by phase, and the cap that it may not pass.

One line per booking in `ledger.jsonl`: {verb, step, phase, model, hardware, tokens, seconds}. Seven phases are billed and
sum to the total (`discarded` is derived from `train` when the record is written); `look` and `score` stand beside them.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
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


class Account:
    """A cap on what is booked through it: the whole run's, or a fork's share within its parent's.

    `spent` is what is billed through this account; a booking also counts against every account above it.
    """

    def __init__(self, root: Ledger | None, cap: int, parent: Account | None = None, phase: str | None = None) -> None:
        self._root, self.cap, self.parent, self.phase = root, cap, parent, phase
        self.spent = 0
        self.exhausted = False

    @property
    def root(self) -> Ledger:
        assert self._root is not None
        return self._root

    def chain(self) -> Iterator[Account]:
        """This account and those above it."""
        account: Account | None = self
        while account is not None:
            yield account
            account = account.parent

    @property
    def remaining(self) -> int:
        return min(a.cap - a.spent for a in self.chain())

    def fits(self, flops: int) -> bool:
        return flops <= self.remaining

    def require(self, flops: int) -> None:
        """Raise BudgetExhausted if this billed work does not fit, or if an earlier verb was cut."""
        self.cut(flops)
        ended = [account for account in self.chain() if account.exhausted]
        if ended:
            # The outermost: a fork that is allowed all that is left must not end quietly where the run ends.
            raise BudgetExhausted(ended[-1], f"{flops} FLOPs asked for, {self.remaining} left of {self.cap}")

    def cut(self, flops: int) -> None:
        """Close every account that these FLOPs would overdraw."""
        for account in self.chain():
            account.exhausted |= account.spent + flops > account.cap

    def book(self, phase: str, cost: Cost, seconds: float, verb: int, step: int = 0) -> None:
        """Book work of a phase; inside a fork everything billed is the fork's phase."""
        if phase not in BILLED and phase not in BESIDE:
            raise ValueError(f"unknown ledger phase {phase!r}")
        if phase in BILLED:
            for account in self.chain():
                phase = account.phase or phase
                account.spent += cost.model
        self.root.add(Entry(verb, step, phase, cost.model, cost.hardware, cost.tokens, seconds))

    def open(self, phase: str, cap: int | None) -> Account:
        """An account within this one; without a cap of its own it may use all that is left."""
        return Account(self.root, self.remaining if cap is None else min(cap, self.remaining), self, phase)


class Ledger(Account):
    """Bookings of one run: the outermost account, the list of entries, and their file."""

    def __init__(self, cap: int, path: Path | None = None, entries: Iterable[Entry] = ()) -> None:
        super().__init__(None, cap)
        self.path = path
        self.entries: list[Entry] = list(entries)
        self.spent = sum(e.model for e in self.entries if e.phase in BILLED)
        mode = "a" if self.entries else "w"
        self._file: IO[str] | None = path.open(mode, encoding="utf-8") if path else None

    @property
    def root(self) -> Ledger:
        return self

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
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
