"""A matrix of runs - strategies x options x modes x suites x models x LRs x budgets x seeds - planned cell by cell.

Each cell is one ordinary run with the identity, and so the run directory, that `harness run` would give it: a finished
record means "already done", and so does one that was submitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import record, registry
from harness.axes import Draft, Spec, drafts
from harness.errors import HarnessError
from harness.paths import canonical
from harness.plan import MFU, gpu_hours
from harness.request import Plan, Request, prepare, vary
from harness.rundir import finished
from harness.submit import submitted
from harness.suite import load_suite


@dataclass(frozen=True)
class Cell:
    """One run of the matrix. `entry` names its row in tables; `tuning`: its LR comes from the suite's grid; `results`:
    the folder of submitted records.
    """

    entry: str
    tuning: bool
    plan: Plan
    results: Path | None = None

    @property
    def id(self) -> str:
        return self.plan.id

    @property
    def request(self) -> Request:
        return self.plan.request

    @property
    def row(self) -> tuple[str, str, str, str, float]:
        """What it shares with the cells that differ in their seed alone."""
        i = self.plan.identity
        return i.suite, i.model, i.mode, self.entry, i.budget.multiple

    @property
    def record(self) -> Path | None:
        """The record of a run that ended well, here or submitted."""
        return finished(self.plan) or self.submitted

    @property
    def submitted(self) -> Path | None:
        """Its record among the submitted ones."""
        return submitted(self.plan.identity, self.id, self.results) if self.results is not None else None

    @property
    def state(self) -> str:
        """done, failed, interrupted or missing, as the run directory tells."""
        if self.record:
            return "done"
        if (self.plan.folder / "record.json").exists():
            return "failed"
        return "interrupted" if (self.plan.folder / "journal.jsonl").exists() else "missing"

    def __str__(self) -> str:
        i = self.plan.identity
        return f"{self.entry} on {i.suite} x {i.model}, {i.budget.multiple:g}x, seed {i.seed}"


@dataclass(frozen=True)
class Matrix:
    """All cells, each run once, and the reasons why some strategies do not apply to some suites."""

    cells: tuple[Cell, ...]
    skipped: tuple[str, ...]


def build(file: Path | None, given: Spec, common: Request, results: Path | None = None) -> Matrix:
    """The matrix of a file, of options, or of both; see docs/matrix.md. Raises HarnessError for what is wrong."""
    return _resolve(drafts(file, given, common), results)


def _resolve(drafts: Sequence[Draft], results: Path | None) -> Matrix:
    """Every draft as the run that it is; what workloads share is read once. Two drafts of one run are one cell."""
    first: dict[str, Plan] = {}
    cells: dict[str, Cell] = {}
    skipped: dict[str, None] = {}
    for draft in drafts:
        r = draft.request
        suite = load_suite(r.suite or ("pocket" if r.model == "pocket" else "bbh"))
        plugin = registry.resolve(r.strategy)
        if reason := plugin.build(plugin.apart(r.options)[0]).skip(suite):
            skipped[f"{draft.entry} does not apply to {suite.name}: {reason}"] = None
            continue
        key = canonical([r.suite, r.model, r.mode])
        try:
            plan = vary(first[key], r) if key in first else prepare(r)
        except HarnessError as error:
            raise HarnessError(f"{draft.where}: {error}") from None
        first.setdefault(key, plan)
        cells.setdefault(plan.id, Cell(draft.entry, draft.tuning, plan, results))
    return Matrix(tuple(cells.values()), tuple(skipped))


def outlook(cells: Sequence[Cell], jobs: int) -> dict[str, Any]:
    """What running them would mean: counts by state, FLOPs of the budgets still to run, GPU-hours, bytes of disk."""
    states = [cell.state for cell in cells]
    todo = [cell for cell, state in zip(cells, states, strict=True) if state != "done"]
    sizes = sorted((weights(cell) for cell in todo), reverse=True)
    flops = sum(cell.plan.identity.budget.flops for cell in todo)
    return {
        "cells": len(cells),
        **{state: states.count(state) for state in ("done", "interrupted", "failed", "missing")},
        "submitted": sum(
            finished(cell.plan) is None and state == "done" for cell, state in zip(cells, states, strict=True)
        ),
        "flops": flops,
        "gpu_hours": {name: row["max"] for name, row in gpu_hours({"max": flops}, MFU)["hours"].items()},
        # A run keeps its final weights; while it goes on, its snapshot and checkpoints take a few times as much.
        "disk_bytes": sum(sizes) + 8 * sum(sizes[:jobs]) + 1_000_000 * len(todo),
    }


def weights(cell: Cell) -> int:
    """Bytes of a model's weights."""
    return sum(p.stat().st_size for p in cell.plan.model.folder.glob("*.safetensors"))


def reason(cell: Cell) -> str | None:
    """Why the run of a cell failed, in one line."""
    try:
        return record.read(cell.plan.folder).reports.error
    except HarnessError:
        return None
