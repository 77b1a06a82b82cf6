"""Records and names as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from typing import Any

from rich.console import Console
from rich.table import Table

from harness.errors import HarnessError
from harness.ledger import BESIDE, BILLED
from harness.plain import number, option
from harness.record import Record, Reused, read


def tables(record: Record) -> None:
    """Scores before and after, and the ledger, on stdout."""
    console = Console(width=None, highlight=False)
    i, why = record.identity, "; ".join(record.doubts)
    console.print(
        f"{i.strategy} on {i.suite} x {i.model}, seed {i.seed}, {i.budget.multiple:g}x budget: "
        f"{record.status}{'' if record.official else f', unofficial ({why})' if why else ', unofficial'}"
        f"{', suite unverified' if record.reports.unverified else ''}",
        markup=False,
    )
    if record.scores:
        console.print(_scores(record))
    if any(s.metrics for s in record.scores.values()):
        console.print(_metrics({task: s.metrics for task, s in record.scores.items()}))
    console.print(_ledger(record))
    backend = record.reports.backend
    if backend is not None and (backend["name"] == "vllm" or backend["instead_of_vllm"]):
        console.print(_scorer(backend, record.reports.backend_gate), markup=False)
    if record.reports.error:
        console.print(record.reports.error, markup=False)


def _scores(record: Record) -> Table:
    table = Table("task", "n", "base", "score", "± s.e.", "change", title="scores (lm-eval, test split, %)")
    base = record.reports.base_scores
    for column in table.columns[1:]:
        column.justify = "right"
    for task, s in record.scores.items():
        before = base.get(task)
        change = "" if before is None else f"{100 * (s.value - before):+.1f}"
        shown = "" if before is None else f"{100 * before:.1f}"
        table.add_row(task, str(s.n), shown, f"{100 * s.value:.1f}", f"{100 * s.stderr:.1f}", change)
    macro, start = record.macro, record.macro_base
    table.add_section()
    n = sum(s.n for s in record.scores.values())
    change = "" if start is None else f"{100 * (macro - start):+.1f}"
    table.add_row("macro mean", str(n), "" if start is None else f"{100 * start:.1f}", f"{100 * macro:.1f}", "", change)
    return table


def _metrics(found: Mapping[str, Mapping[str, float]]) -> Table:
    """What the task files of lm-eval measure beside the score, as they measure it."""
    names = sorted({name for row in found.values() for name in row})
    table = Table("task", *names, title="beside the score (lm-eval)")
    for task, row in found.items():
        if row:
            table.add_row(task, *("" if name not in row else f"{row[name]:.3f}" for name in names))
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def scores(summary: dict[str, Any]) -> None:
    """Scores of one checkpoint, and which backend they are by, on stdout."""
    console = Console(highlight=False)
    table = Table("task", "n", "score", "± s.e.", "cut", title=f"{summary['checkpoint']} (lm-eval, test split, %)")
    for column in table.columns[1:]:
        column.justify = "right"
    rows = summary["scores"]
    for task, row in rows.items():
        shown = (f"{100 * row['value']:.1f}", f"{100 * row['stderr']:.1f}", str(row["truncated"]))
        table.add_row(task, str(row["n"]), *shown)
    table.add_section()
    n, value = sum(r["n"] for r in rows.values()), sum(r["value"] for r in rows.values()) / len(rows)
    table.add_row("macro mean", str(n), f"{100 * value:.1f}", "", "")
    console.print(table)
    if any(row["metrics"] for row in rows.values()):
        console.print(_metrics({task: row["metrics"] for task, row in rows.items()}))
    console.print(_scorer(summary["backend"], summary["backend_gate"]), markup=False)


def _scorer(backend: dict[str, Any], gate: dict[str, Any] | None) -> str:
    """One line: the backend, its version, and what the gate said."""
    package = {"hf": "transformers"}.get(backend["name"], backend["name"])
    by = f"scored by {backend['name']} ({package} {backend['packages'][package]})"
    if backend["instead_of_vllm"]:
        by += f", not by vLLM: {backend['instead_of_vllm']}"
    if gate is None:
        return by
    why = gate["why"] or (gate.get("base", gate)["why"] or "").replace("gate:", "gate, base model:")
    return f"{by}; {why or 'backend gate: agreement {agreement:.1%} of {items} items'.format(**gate)}"


def _ledger(record: Record) -> Table:
    """What is billed and its sum, then what stands beside it; a record's file has its phases by name."""
    table = Table("phase", "model FLOPs", "% of total", "tokens", "seconds", title="ledger")
    for column in table.columns[1:]:
        column.justify = "right"

    def add(phase: str, share: str) -> None:
        row = record.ledger.get(phase)
        if row is not None and (row.model_flops or phase == "train"):
            table.add_row(phase, f"{row.model_flops:.4g}", share, f"{row.tokens:,}", f"{row.seconds:.1f}")

    total = max(1, record.total_model_flops)
    for phase in BILLED:
        add(phase, f"{100 * record.ledger[phase].model_flops / total:.1f}" if phase in record.ledger else "")
    table.add_section()
    share = f"{100 * record.total_model_flops / max(1, record.identity.budget.flops):.1f} of cap"
    table.add_row("billed", f"{record.total_model_flops:.4g}", share, "", "")
    if record.reports.reused:
        _add_reused(table, record, record.reports.reused)
    table.add_section()
    for phase in BESIDE:
        add(phase, "not billed")
    return table


def _add_reused(table: Table, record: Record, reused: Reused) -> None:
    """What the mixture had cost the run that learned it, and both together."""
    share = f"{100 * record.first_use_flops / max(1, record.identity.budget.flops):.1f} of cap"
    table.add_row(f"mixture of {reused.id}", f"{reused.flops:.4g}", "billed there", "", "")
    table.add_row("at first use", f"{record.first_use_flops:.4g}", share, "", "")


def listing(what: str, runs: Path) -> list[dict[str, Any]]:
    """Rows of `harness list`: dicts with `name` and a few facts."""
    if what == "runs":
        return _runs(runs)
    return {"strategies": _strategies, "models": _models, "suites": _suites}[what]()


def _strategies() -> list[dict[str, Any]]:
    from harness import registry

    rows = []
    for name in registry.names():
        try:
            plugin = registry.find(name)
            rows.append({"name": name, "summary": plugin.summary, "options": plugin.fields})
        except HarnessError as error:  # a broken plug-in is reported, not fatal
            rows.append({"name": name, "summary": f"broken: {error}", "options": {}})
    return rows


def _models() -> list[dict[str, Any]]:
    from harness import models

    return [{"name": name, "source": models.HUB.get(name, "embedded")} for name in models.names()]


def _suites() -> list[dict[str, Any]]:
    from harness.suite import available, load_suite

    suites = [load_suite(name) for name in available()]
    return [
        {
            "name": s.name,
            "tasks": len(s.tasks),
            "rows": s.rows,
            "metric": s.metrics,
            "source": s.source,
            "verified": "yes" if s.verified else "no",
            "title": s.title,
        }
        for s in suites
    ]


def _runs(runs: Path) -> list[dict[str, Any]]:
    rows = []
    for folder in sorted(p.parent for p in runs.glob("*/config.yaml")):
        try:
            r = read(folder)
            score = round(100 * r.macro, 2) if r.scores else None
            i = r.identity
            rows.append(
                {
                    "name": folder.name,
                    "status": r.status,
                    "strategy": i.strategy,
                    "suite": i.suite,
                    "model": i.model,
                    "seed": i.seed,
                    "budget": i.budget.multiple,
                    "score": score,
                    "reason": r.reports.error,
                }
            )
        except HarnessError:
            rows.append({"name": folder.name, "status": "unfinished"})
    return rows


def narrow(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows as a terminal of 80 columns can show them: the texts of a suite or of a run stand under each other."""
    keys = {key for row in rows for key in row}
    if {"title", "metric", "source"} <= keys:
        return [_under(row, ["{title}", "scored by {metric}", "{source}"]) for row in rows]
    if {"name", "status"} <= keys:
        lines = ["{strategy} on {suite} x {model}", "seed {seed}, budget {budget:g}x", "{reason}"]
        return [{"name": row["name"], "status": row["status"], "score": None} | _under(row, lines) for row in rows]
    return rows


def _under(row: dict[str, Any], lines: list[str]) -> dict[str, Any]:
    """The row with `what` in place of the values that these lines show; a line of which something is missing is none."""
    used = {line: [key for _, key, _, _ in Formatter().parse(line) if key] for line in lines}
    shown = [line.format(**row) for line, keys in used.items() if all(row.get(key) is not None for key in keys)]
    gone = {key for keys in used.values() for key in keys}
    return {key: value for key, value in row.items() if key not in gone} | {"what": "\n".join(shown)}


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table of dicts on stdout; says so when there are none."""
    console = Console(highlight=False)
    if not rows:
        console.print("none")
        return
    columns = list(dict.fromkeys(key for row in rows for key in row))
    table = Table(*columns)
    for column in table.columns:
        column.overflow = "fold"  # rather than cut: names and ids are there to be pasted
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*(_cell(row.get(c)) for c in columns))
    console.print(table)


def _cell(value: Any) -> str:
    from rich.markup import escape

    if isinstance(value, dict):
        return escape(", ".join(f"{k}={option(v)}" for k, v in value.items()))
    return "" if value is None else escape(str(number(value)))
