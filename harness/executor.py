"""What executors of a matrix have in common: what they are asked, and what they tell while runs go on."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol, Self

from harness.matrix import Cell


@dataclass(frozen=True)
class Report:
    """How far a running cell is: share of its budget, loss, training tokens a second."""

    share: float
    loss: float
    speed: float


class Watcher(Protocol):
    """Who is told what happens; `tick` comes a few times a second."""

    def started(self, cell: Cell, where: str = "") -> None: ...
    def reported(self, cell: Cell, report: Report) -> None: ...
    def said(self, cell: Cell, line: str) -> None: ...
    def lost(self, cell: Cell, why: str) -> None: ...  # through no fault of its own; it will be started again
    def ended(self, cell: Cell, error: str | None) -> None: ...
    def tick(self) -> None: ...


class Executor(AbstractContextManager["Executor"], Protocol):
    """Where cells run, within its `with`. Every cell is one ordinary run, in a process of its own, and resumes itself."""

    def __enter__(self) -> Self: ...

    @property
    def width(self) -> int:
        """How many runs at a time there is room for now."""

    @property
    def capacity(self) -> str:
        """The same in words."""

    def run(self, cells: Sequence[Cell], watcher: Watcher) -> None:
        """Run all cells. When interrupted, the cells under way are ended; they go on another time."""
