"""The local executor of a matrix: every cell in a process of its own (process.py), some at a time on this machine."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import wait
from types import TracebackType
from typing import Self

from harness.executor import Watcher
from harness.matrix import Cell
from harness.process import CellProcess, Job, context, stop


class Local:
    """`jobs` cells at a time; one crash takes no other."""

    def __init__(self, jobs: int) -> None:
        self.width = jobs
        self.capacity = f"{jobs} at a time"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Nothing is held between runs."""

    def run(self, cells: Sequence[Cell], watcher: Watcher) -> None:
        """Run all cells. When interrupted, the cells under way are ended; they go on another time."""
        _environment(self.width)
        how = context()
        waiting, free = deque(cells), list(range(self.width))[::-1]
        working: dict[CellProcess, tuple[Cell, int]] = {}
        try:
            while waiting or working:
                while waiting and free:
                    cell, slot = waiting.popleft(), free.pop()
                    working[CellProcess(Job(cell.request, cell.id, _device(slot)), how)] = cell, slot
                    watcher.started(cell)
                ready = wait([process.pipe for process in working], timeout=0.25)
                for process in [p for p in working if p.pipe in ready]:
                    if not _pass_on(process, working[process][0], watcher):
                        cell, slot = working.pop(process)
                        free.append(slot)
                        watcher.ended(cell, _reason(process))
                watcher.tick()
        finally:
            stop(list(working))


def _pass_on(process: CellProcess, cell: Cell, watcher: Watcher) -> bool:
    """Tell the watcher one message; False when the cell has ended."""
    message = process.listen()
    if message is None:
        return False
    kind, what = message
    if kind == "report":
        watcher.reported(cell, what)
    elif kind == "say":
        watcher.said(cell, what)
    return True


def _reason(process: CellProcess) -> str | None:
    end = process.end()
    return f"{end.error}; the same command goes on from its last snapshot" if end.died else end.error


def _environment(jobs: int) -> None:
    """What the cells inherit; before the first of them starts."""
    # A module of the user's folder called like one of the library's must not stand in the way of a new interpreter.
    os.environ["PYTHONSAFEPATH"] = "1"
    if jobs > 1:
        os.environ.setdefault("HARNESS_THREADS", str(max(1, cores() // jobs)))


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device(slot: int) -> str | None:
    """The GPU of a slot where CUDA_VISIBLE_DEVICES names several: they are dealt out in turn."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return visible[slot % len(visible)] if len(visible) > 1 else None
