"""What a run's page draws: its ledger, curves, mixture and events, each with its numbers as text."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from harness.drawing import Series, nice, panel, signed, stream
from harness.ledger import BILLED
from harness.plain import cell, plain
from harness.record import Event, MixtureChange, Record
from harness.rows import phase

MOST_EVENTS, MOST_POINTS, MOST_TASKS, MOST_CHANGES = 200, 400, 60, 400  # shown; the record's file has all


@dataclass(frozen=True)
class Panel:
    """One task's curves: exact match in percent, loss in nats; numbers of the first and the last look."""

    task: str
    match: Markup
    loss: Markup
    matches: tuple[float, float]
    losses: tuple[float | None, float | None]


@dataclass(frozen=True)
class Learned:
    """The last weights that a strategy logged: task, weight, its share of the first mixture; and what they come from.

    Of very many tasks the heaviest are shown, and `hidden` are not. `distance`: L1 of all weights to uniform. `only`: the
    first mixture was the only one; `limited`: and it is another than the weights. `terms`: name, a number and a bar a task,
    in the tasks' order. `least`: whether TaskPGM's energy is least at the weights, so far as the logged digits can tell;
    None where there are no such terms.
    """

    weights: tuple[tuple[str, float, float], ...] = ()
    terms: tuple[tuple[str, list[float], list[Markup]], ...] = ()
    least: bool | None = None
    distance: float = 0.0
    hidden: int = 0
    only: bool = False
    limited: bool = False


@dataclass(frozen=True)
class View:
    means: dict[str, float]
    bar: tuple[tuple[str, float], ...]
    panels: tuple[Panel, ...]
    curves: str
    highest_loss: float
    stream: Markup
    before: float  # billed when the run's own training began, where the picture shows it
    mixture: str
    events: tuple[tuple[float, Event, str], ...]
    hidden_events: int
    matrices: tuple[tuple[str, list[str], list[list[float]], float, bool], ...]
    learned: Learned


def view(r: Record, runs: Sequence[Record]) -> View:
    """Everything that needs more than the template can say. `runs`: the entry's, one a seed."""
    means = {task: math.fsum(x.scores[task].value for x in runs) / len(runs) for task in r.scores}
    total = r.total_model_flops
    shares = tuple((name, phase(r, name) / total) for name in BILLED if total and phase(r, name))
    panels, top = _panels(r)
    shown = r.events[:MOST_EVENTS]
    events = tuple((e.billed_flops, e, _compact(e.data)) for e in shown)
    changes = r.mixture[:: max(1, len(r.mixture) // MOST_CHANGES)]
    return View(
        means, shares, panels, _curves_csv(r), top, _stream(r, changes),
        _before(changes, total), _mixture_csv(changes), events,
        len(r.events) - len(shown), tuple(_matrices(r.events)), _learned(r),
    )  # fmt: skip


def _panels(r: Record) -> tuple[tuple[Panel, ...], float]:
    series: dict[str, list[tuple[float, float, float | None]]] = {}
    for p in r.curves:
        series.setdefault(p.task, []).append((p.billed_flops, p.exact_match, p.loss))
    losses = [x for points in series.values() for _, _, x in points if x is not None and math.isfinite(x)]
    top, right = nice(max(losses, default=1.0)), max((float(p.billed_flops) for p in r.curves), default=1.0)
    made = []
    for task in sorted(series)[:MOST_TASKS]:
        points = sorted(series[task], key=lambda p: p[0])
        points = points[:: max(1, len(points) // MOST_POINTS)]
        match: Series = [(at, m) for at, m, _ in points]
        loss: Series = [(at, math.nan if x is None else x) for at, _, x in points]
        name = plain(task, 80)
        first, last = points[0], points[-1]
        words = f"{name}: exact match from {100 * first[1]:.1f} to {100 * last[1]:.1f} %"
        lost = f"{name}: loss from {_number(first[2])} to {_number(last[2])} nats a token"
        made.append(
            Panel(
                task,
                panel([("match", match)], right, 0, 1, words),
                panel([("loss", loss)], right, 0, top, lost),
                (first[1], last[1]),
                (first[2], last[2]),
            )
        )
    return tuple(made), top


def _stream(r: Record, changes: Sequence[MixtureChange]) -> Markup:
    if not changes or not any(c.weights for c in changes) or len({t for c in changes for t in c.weights}) > MOST_TASKS:
        return Markup()
    end = float(max(r.total_model_flops, changes[-1].billed_flops))
    weights = [(float(c.billed_flops), c.weights) for c in changes]
    return stream(
        weights, end, f"Share of each task in the training mixture over billed FLOPs: {len(changes)} mixtures"
    )


def _before(changes: Sequence[MixtureChange], total: int) -> float:
    """What was billed before the first mixture; 0 where that is less than a hundredth of the picture."""
    first = changes[0].billed_flops if changes else 0
    return float(first) if first >= total / 100 else 0.0


def _number(x: float | None) -> str:
    return "none" if x is None else f"{x:.3f}"


def _curves_csv(r: Record) -> str:
    rows = [
        f"{p.billed_flops},{cell(p.task)},{'' if p.loss is None else format(p.loss, '.4f')},{p.exact_match:.4f}"
        for p in r.curves[:2000]
    ]
    return "\n".join(["billed_flops,task,loss,exact_match", *rows])


def _mixture_csv(changes: Sequence[MixtureChange]) -> str:
    tasks = sorted({t for c in changes for t in c.weights})
    rows = [",".join([str(c.billed_flops), *(f"{c.weights.get(t, 0):.4f}" for t in tasks)]) for c in changes]
    return "\n".join([",".join(["billed_flops", *map(cell, tasks)]), *rows])


def _compact(data: Any) -> str:
    if data is None:
        return ""
    try:
        return plain(json.dumps(_rounded(data), ensure_ascii=False, separators=(", ", ": ")), 400)
    except (ValueError, TypeError, RecursionError):
        return "not shown"


def _rounded(data: Any) -> Any:
    """Floats to five digits: the record's file has them whole."""
    if isinstance(data, float):
        return float(f"{data:.5g}")
    if isinstance(data, dict):
        return {k: _rounded(v) for k, v in data.items()}
    return [_rounded(v) for v in data[:200]] if isinstance(data, list) else data


def _matrices(events: Sequence[Event]) -> list[tuple[str, list[str], list[list[float]], float, bool]]:
    """Square matrices over tasks that the strategy logged: name, tasks, rows, largest absolute value, whether symmetric."""
    made = []
    for e in events:
        tasks = e.data.get("tasks") if isinstance(e.data, dict) else None
        if e.verb != "log" or not isinstance(tasks, list) or not 1 < len(tasks) <= MOST_TASKS:
            continue
        for name, value in e.data.items():
            if _square(value, len(tasks)):
                most = max(abs(x) for row in value for x in row) or 1.0
                mirrored = all(value[i][j] == value[j][i] for i in range(len(value)) for j in range(i))
                made.append((f"{e.note}: {name}", [str(t) for t in tasks], value, most, mirrored))
    return made[:4]


def _square(value: Any, n: int) -> bool:
    whole = (
        isinstance(value, list) and len(value) == n and all(isinstance(row, list) and len(row) == n for row in value)
    )
    return whole and all(_number_like(x) for row in value for x in row)


def _learned(r: Record) -> Learned:
    """Of the last log with weights: those, and its lists of a number a task (TaskPGM's unary and pairwise terms)."""
    found = [
        e.data
        for e in r.events
        if e.verb == "log" and isinstance(e.data, dict) and isinstance(e.data.get("weights"), dict)
    ]
    if not found or not found[-1]["weights"]:
        return Learned()
    start, weights = r.mixture[0].weights if r.mixture else {}, found[-1]["weights"]
    if not all(map(_number_like, weights.values())):
        return Learned()
    every = [(str(t), w, start.get(t, 0.0)) for t, w in sorted(weights.items())]
    heaviest = sorted(range(len(every)), key=lambda i: (-every[i][1], i))
    shown = sorted(heaviest[:MOST_TASKS])
    pairs = tuple(every[i] for i in shown)
    lists = {k: v for k, v in sorted(found[-1].items(), reverse=True) if _numbers(v, len(weights))}
    least = _least([w for _, w in sorted(weights.items())], lists) if [*lists] == ["unary", "pairwise"] else None
    most = max((abs(x) for v in lists.values() for x in v), default=0.0)
    terms = [(k, [v[i] for i in shown], [signed(v[i], most, f"{v[i]:.4g}") for i in shown]) for k, v in lists.items()]
    distance = math.fsum(abs(w - 1 / len(weights)) for w in weights.values())
    only = len(r.mixture) == 1
    limited = only and any(abs(w - share) > 2e-3 for _, w, share in every)
    return Learned(pairs, tuple(terms[:4]), least, distance, len(every) - len(shown), only, limited)


def _least(weights: Sequence[float], terms: Mapping[str, list[float]]) -> bool:
    """Whether pairwise less unary, the energy's slope, is the same for all tasks with weight and nowhere smaller.

    It is not where m tasks were chosen first, or where the closed form was projected.
    """
    slope = [b - a for a, b in zip(terms["unary"], terms["pairwise"], strict=True)]
    room = 1e-4 * max(1.0, *map(abs, (*terms["unary"], *terms["pairwise"])))  # logged to six digits after the point
    at = [x for x, w in zip(slope, weights, strict=True) if w > 1e-6]
    return bool(at) and max(at) - min(slope) <= room


def _numbers(value: Any, n: int) -> bool:
    return isinstance(value, list) and len(value) == n and all(_number_like(x) for x in value)


def _number_like(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)
