"""`harness matrix`, from its options to its exit status: plan, ask, run what is missing, say what failed, sum up."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from harness import REFERENCE, cluster, matrix_view, study, study_view, workers
from harness.errors import HarnessError, RunFailed
from harness.executor import Executor
from harness.matrix import Cell, Matrix, build, outlook, reason
from harness.request import Request


@dataclass(frozen=True)
class Campaign:
    """The command's options; those that are None leave the file's keys as they are."""

    file: Path | None
    strategies: str | None = None
    suites: str | None = None
    models: str | None = None
    seeds: str | None = None
    budgets: str | None = None
    lr: str | None = None
    mode: str | None = None
    limit: int | None = None
    mirror: Path | None = None
    runs: Path = Path("runs")
    results: Path | None = None
    executor: str = "local"
    jobs: int | None = None
    ray_address: str | None = None
    cpus: int | None = None
    gpus: float | None = None
    yes: bool = False
    against: str = REFERENCE
    shape: str | None = None
    as_json: bool = False

    def go(self) -> None:
        """Raises RunFailed when a cell failed, HarnessError for what is wrong with the request."""
        executor = None if self.shape is not None or (self.as_json and not self.yes) else self._executor()
        if self.file is None and self.strategies is None:
            raise HarnessError("matrix: give FILE.yaml, or --strategies NAME,NAME")
        matrix = build(self.file, self._given(), Request(mirror=self.mirror, runs=self.runs), self.results)
        study.check_against(matrix.cells, self.against)
        if executor is None:  # only looked at
            self._print(matrix, {})
            return
        failed = self._run(matrix, executor)
        self._print(matrix, failed)
        if failed:
            matrix_view.failures(failed, matrix.cells)
            raise RunFailed(f"{len(failed)} of {len(matrix.cells)} runs failed; the same command tries them again")

    def _given(self) -> dict[str, Any]:
        keys = ("strategies", "suites", "models", "seeds", "budgets", "lr", "mode", "limit")
        return {key: value for key in keys if (value := getattr(self, key)) is not None}

    def _executor(self) -> Executor:
        if self.executor == "ray":
            return cluster.Cluster(self.ray_address, self.jobs, self.cpus, self.gpus)
        for name in ("ray_address", "cpus", "gpus"):
            if getattr(self, name) is not None:
                raise HarnessError(f"--{name.replace('_', '-')} {getattr(self, name)}: only with --executor ray")
        return workers.Local(self.jobs or 1)

    def _run(self, matrix: Matrix, executor: Executor) -> dict[str, str]:
        """Run what is missing; the reasons of those that failed, by id."""
        todo = [cell for cell in matrix.cells if cell.state != "done"]
        if not todo:
            matrix_view.plan(matrix, outlook(matrix.cells, 0), "")
            return {}
        with executor:
            matrix_view.plan(matrix, outlook(matrix.cells, max(1, executor.width)), executor.capacity)
            self._ask(len(todo))
            with matrix_view.Board(matrix.cells) as board:
                executor.run(todo, board)
        return board.failed

    def _ask(self, n: int) -> None:
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise HarnessError(f"matrix: {n} runs would start; --yes starts them")
        if not click.confirm(f"Start {n} runs?", default=True, err=True):
            raise click.Abort

    def _print(self, matrix: Matrix, failed: Mapping[str, str]) -> None:
        rows = study.rows(matrix.cells, self.against)
        if self.as_json:
            cells = [_facts(cell, failed.get(cell.id)) for cell in matrix.cells]
            found = {"cells": cells, "skipped": list(matrix.skipped), "rows": [study.as_dict(row) for row in rows]}
            click.echo(json.dumps(found, indent=1))
        elif self.shape == "markdown":
            click.echo(study_view.markdown(rows))
        elif self.shape == "csv":
            click.echo(study_view.as_csv(rows))
        else:
            study_view.text(rows)


def _facts(cell: Cell, error: str | None) -> dict[str, Any]:
    i, state = cell.plan.identity, cell.state
    return {
        "name": cell.id,
        "state": "failed" if error else state,
        "entry": cell.entry,
        "strategy": i.strategy,
        "suite": i.suite,
        "model": i.model,
        "mode": i.mode,
        "seed": i.seed,
        "budget": i.budget.multiple,
        "lr": i.lr,
        "options": dict(cell.request.options),
        "tuning": cell.tuning,
        "record": str(cell.record) if state == "done" else None,
        "reason": error or (reason(cell) if state == "failed" else None),
    }
