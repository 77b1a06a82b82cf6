"""A plan as tables for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Row = Mapping[str, Any]


@contextmanager
def waiting() -> Iterator[Callable[[str], None]]:
    """A line on stderr that says which scenario is played; nothing where stderr is not a terminal."""
    with Console(stderr=True).status("reading the data") as status:
        yield lambda text: status.update(escape(text))


def tables(plan: Row) -> None:
    """Ledger, needs, GPU-hours and scenarios of a plan on stdout."""
    console = Console(highlight=False)
    budget = plan["budget"]
    mode = "" if plan["mode"] == "full" else f" ({plan['mode']})"
    console.print(
        f"{plan['strategy']} on {plan['suite']} x {plan['model']}{mode}, seed {plan['seed']}, "
        f"{budget['multiple']:g}x budget = {budget['flops']:.4g} FLOPs",
        markup=False,
    )
    console.print(_ledger(plan))
    console.print(_needs(plan))
    console.print(_hours(plan["gpu_hours"]))
    if plan["adaptive"]:
        console.print(_scenarios(plan["scenarios"]))
        console.print("It reacts to what it sees: ranges span these scenarios; a run may lie outside.")


def _columns(title: str, *names: str) -> Table:
    table = Table(*names, title=title)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _span(values: Row, shown: Callable[[Any], str]) -> str:
    """`low` or `low - high`, where the two differ as they are shown."""
    low, high = shown(values["min"]), shown(values["max"])
    return low if low == high else f"{low} - {high}"


def _flops(value: float) -> str:
    return f"{value:.3e}" if value else "0"


def _count(value: int) -> str:
    for unit, scale in (("B", 1e9), ("M", 1e6)):
        if value >= 10 * scale:
            return f"{value / scale:.4g} {unit}"
    return f"{value:,}"


def _bytes(value: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g} {unit}"
    return f"{value:.0f} B"


def _ledger(plan: Row) -> Table:
    table = _columns("ledger", "phase", "model FLOPs", "% of budget", "tokens")
    cap = plan["budget"]["flops"]

    def add(phase: str, row: Row, billed: bool = True) -> None:
        share = _span(row["model_flops"], lambda f: f"{100 * f / cap:.1f}") if billed else "not billed"
        table.add_row(phase, _span(row["model_flops"], _flops), share, _span(row["tokens"], _count))

    for phase, row in plan["ledger"].items():
        if phase != "look" and (row["model_flops"]["max"] or phase == "train"):
            add(phase, row)
    table.add_section()
    share = _span(plan["share_of_budget"], lambda s: f"{100 * s:.1f}")
    table.add_row("billed", _span(plan["total_model_flops"], _flops), share, "")
    if plan["reused"]:
        _add_reused(table, plan["reused"], plan["total_model_flops"], cap)
    table.add_section()
    add("look", plan["ledger"]["look"], billed=False)
    return table


def _add_reused(table: Table, reused: Row, total: Row, cap: int) -> None:
    """What the mixture had cost the run that learned it, and both together."""
    table.add_row(f"mixture of run {reused['id']}", _flops(reused["flops"]), f"{100 * reused['flops'] / cap:.1f}", "")
    first = {end: flops + reused["flops"] for end, flops in total.items()}
    table.add_row("at first use", _span(first, _flops), _span(first, lambda f: f"{100 * f / cap:.1f}"), "")


def _needs(plan: Row) -> Table:
    table = _columns("what it takes", "", "")
    table.show_header = False
    disk, memory = plan["disk"], plan["memory"]
    one = disk["checkpoint_bytes"]
    rows = {
        "optimizer steps": _span(plan["steps"], "{:,}".format),
        "looks that are billed": _span(plan["looks"], "{:,}".format),
        "checkpoints at a time": _span(disk["checkpoints_at_peak"], str),
        "  one, without and with optimizer": f"{_bytes(one['without_optimizer'])}, {_bytes(one['with_optimizer'])}",
        "disk": _span(disk["total_bytes"], _bytes),
        "  checkpoints": _span(disk["checkpoints_bytes"], _bytes),
        "  two snapshots": _span(disk["snapshots_bytes"], _bytes),
        "  final weights": _bytes(disk["final_bytes"]),
        "device memory, without activations": _bytes(memory["device_bytes"]),
        "host memory for checkpoints": _span(memory["host_copies_bytes"], _bytes),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _hours(found: Row) -> Table:
    """With the harness's own looks; scoring comes on top."""
    table = _columns(f"without scoring, at MFU {found['mfu']:g}", "GPU", "peak TFLOP/s", "GPU-hours")
    for name, row in found["hours"].items():
        shown = _span(row, lambda h: f"{h:.3g}" if h >= 0.01 else "below 0.01")
        table.add_row(name, f"{row['peak_flops_per_second'] / 1e12:.0f}", shown)
    return table


def _scenarios(rows: list[Row]) -> Table:
    table = Table("if", "ends by", "steps", "looks", "billed FLOPs", title="scenarios")
    for row in rows:
        ends = "itself" if row["status"] == "finished" else "the cap"
        table.add_row(row["meaning"], ends, str(row["steps"]), str(row["looks"]), _flops(row["total_model_flops"]))
    for column in table.columns[2:]:
        column.justify = "right"
    return table
