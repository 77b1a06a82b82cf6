"""What a person sees of a matrix: the plan, the cells as they run, and the ones that failed. All of it on stderr."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from harness.executor import Report
from harness.matrix import Cell, Matrix
from harness.plan import MFU

MARKS = {"done": "■", "running": "▶", "failed": "x", "missing": "·"}
STYLES = {"done": "green", "running": "cyan", "failed": "bold red", "missing": "dim"}
SHOWN = 12  # marks a row; more are counted
WIDE = 100  # columns of a terminal that has room for bars beside names and figures


def plan(matrix: Matrix, found: dict[str, Any], capacity: str) -> None:
    """How many cells, how many are done, what the rest costs."""
    console = Console(stderr=True, highlight=False)
    todo = found["cells"] - found["done"]
    states = {"done": "done", "interrupted": "to go on", "failed": "to try again", "missing": "to start"}
    if found["submitted"]:
        states["done"] += f" ({found['submitted']} of them submitted)"
    parts = [f"{found[state]} {said}" for state, said in states.items() if found[state]]
    _say(console, f"{found['cells']} runs: {', '.join(parts)}")
    for line in matrix.skipped:
        _say(console, f"left out: {line}")
    if todo:
        disk = f"up to {_bytes(found['disk_bytes'])} of disk"
        _say(console, f"{found['flops']:.3g} FLOPs of budget to run, {capacity}, {disk}")
        hours = ", ".join(f"{_hours(found['gpu_hours'][name])} on {name}" for name in ("A100-80GB", "H100"))
        _say(console, f"GPU-hours at MFU {MFU:g}, without looks and scoring: {hours}")


def failures(failed: dict[str, str], cells: Sequence[Cell]) -> None:
    """One line a failed cell."""
    console = Console(stderr=True, highlight=False)
    for cell in cells:
        if cell.id in failed:
            _say(console, f"failed: {cell} ({cell.id}): {failed[cell.id]}")


def _say(console: Console, line: str) -> None:
    console.print(f"harness: {line}", highlight=False, markup=False, soft_wrap=True)


def _hours(n: float) -> str:
    return f"{n:,.0f}" if n >= 100 else f"{n:.2g}" if n >= 0.01 else "below 0.01"


def _bytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.0f} MB"


def duration(seconds: float) -> str:
    """`42 s`, `3:05 min` or `2:07 h`."""
    s = round(seconds)
    if s < 60:
        return f"{s} s"
    return f"{s // 60}:{s % 60:02} min" if s < 3600 else f"{s // 3600}:{s % 3600 // 60:02} h"


def short(entries: Iterable[str]) -> dict[str, str]:
    """Each entry without the options that all entries of its strategy have, unless two would read the same."""
    words = {entry: entry.split(" ") for entry in entries}
    made = {}
    for entry, (name, *options) in words.items():
        shared = set.intersection(*(set(other) for other in words.values() if other[0] == name))
        made[entry] = " ".join([name, *(option for option in options if option not in shared)])
    return made if len(set(made.values())) == len(made) else {entry: entry for entry in made}


class Board:
    """All cells on a terminal, a mark each; elsewhere one line when a run starts and one when it ends."""

    def __init__(self, cells: Sequence[Cell], console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.cells = cells
        self.states = {cell.id: "done" if cell.state == "done" else "missing" for cell in cells}
        self.failed: dict[str, str] = {}
        self.running: dict[str, tuple[Cell, float, Report | None, str]] = {}
        self.names = short(cell.row[3] for cell in cells)
        self.began, self.flops = time.monotonic(), 0.0
        self.many = {k: len({cell.row[k] for cell in cells}) > 1 for k in range(3)}
        self.live = Live(
            get_renderable=self.render, console=self.console, refresh_per_second=4, transient=True, screen=False
        )

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.console.is_terminal:
            self.live.stop()

    # --- what happens

    def started(self, cell: Cell, where: str = "") -> None:
        self.states[cell.id] = "running"
        self.running[cell.id] = (cell, time.monotonic(), None, "starting")
        self._line(f"{cell}: started ({cell.id}{' on ' + where if where else ''})")

    def reported(self, cell: Cell, report: Report) -> None:
        self.running[cell.id] = (*self.running[cell.id][:2], report, "")

    def said(self, cell: Cell, line: str) -> None:
        self.running[cell.id] = (*self.running[cell.id][:3], line)

    def lost(self, cell: Cell, why: str) -> None:
        self.running.pop(cell.id, None)
        self.states[cell.id] = "missing"
        self._line(f"{cell}: {why}; it will go on from its last snapshot")

    def ended(self, cell: Cell, error: str | None) -> None:
        _, began, _, _ = self.running.pop(cell.id, (cell, time.monotonic(), None, ""))
        self.states[cell.id] = "done" if error is None else "failed"
        if error is not None:
            self.failed[cell.id] = error
        self.flops += cell.plan.identity.budget.flops
        took = f"{'done' if error is None else f'failed: {error}'}, {duration(time.monotonic() - began)}"
        self._line(f"{cell}: {took}; {self.summary()}")

    def tick(self) -> None:
        """Nothing to do: the table draws itself."""

    def _line(self, line: str) -> None:
        if not self.console.is_terminal:
            _say(self.console, line)

    # --- what is shown

    def summary(self) -> str:
        """Counts of the matrix and when it will be over."""
        counts = Counter(self.states.values())
        parts = [f"{counts['done']} of {len(self.cells)} done"]
        parts += [f"{counts['failed']} failed"] if counts["failed"] else []
        left = self.eta()
        parts += [f"about {duration(left)} left"] if left else []
        return ", ".join(parts)

    def eta(self) -> float | None:
        """Seconds left at the rate so far, in FLOPs of the cells' budgets."""
        budgets = {cell.id: cell.plan.identity.budget.flops for cell in self.cells}
        under_way = {i: (report.share if report else 0.0) * budgets[i] for i, (_, _, report, _) in self.running.items()}
        done = self.flops + sum(under_way.values())
        left = sum(budgets[i] for i, state in self.states.items() if state in ("missing", "running"))
        rate = done / max(1e-9, time.monotonic() - self.began)
        return (left - sum(under_way.values())) / rate if done and left else None

    def render(self) -> Group:
        """The matrix, the runs under way, the sums."""
        room = max(3, self.console.height - len(self.running) - 8)
        legend = Text.assemble(*(x for state in MARKS for x in ((MARKS[state], STYLES[state]), f" {state}   ")))
        return Group("", self._matrix(room), "", self._under_way(), "", legend, Text(self.summary()))

    def _matrix(self, room: int) -> Table:
        rows: dict[tuple[Any, ...], list[Cell]] = {}
        for cell in self.cells:
            rows.setdefault(cell.row, []).append(cell)
        table = Table.grid(padding=(0, 2))
        # Where not all rows fit, those with something still to do come first.
        order = sorted(rows.items(), key=lambda item: all(self.states[c.id] == "done" for c in item[1]))
        shown = order if len(order) <= room else order[: room - 1]
        for row, cells in rows.items():
            if (row, cells) in shown:
                table.add_row(self._title(row), f"{row[4]:g}x", self._marks(cells))
        if len(shown) < len(order):
            table.add_row(Text(f"and {len(order) - len(shown)} more rows", style="dim"))
        return table

    def _title(self, row: tuple[Any, ...]) -> Text:
        where = " ".join(row[k] for k in range(3) if self.many[k])
        return Text(self.names[row[3]] + (f" · {where}" if where else ""), overflow="ellipsis", no_wrap=True)

    def _marks(self, cells: Sequence[Cell]) -> Text:
        states = [self.states[cell.id] for cell in sorted(cells, key=lambda c: c.request.seed)]
        if len(states) > SHOWN:
            counts = Counter(states)
            return Text.assemble(*(x for s in MARKS if counts[s] for x in ((MARKS[s], STYLES[s]), f"{counts[s]} ")))
        return Text.assemble(*((MARKS[state], STYLES[state]) for state in states))

    def _under_way(self) -> Table:
        table = Table.grid(padding=(0, 2), expand=False)
        for cell, began, report, note in self.running.values():
            title = Text(f"▶ {self.names[cell.row[3]]}", overflow="ellipsis", no_wrap=True)
            which = Text(f"{cell.row[4]:g}x seed {cell.request.seed}", no_wrap=True)
            share = report.share if report else 0.0
            figures = note or (f"{share:4.0%}  loss {report.loss:.3f}  {report.speed:,.0f} tok/s" if report else "")
            bar = "█" * round(12 * share) + "░" * (12 - round(12 * share))  # told apart without colour
            bars = [bar] if self.console.width >= WIDE else []
            took = Text(duration(time.monotonic() - began), no_wrap=True)
            table.add_row(title, which, *bars, Text(figures, no_wrap=True), took)
        return table
