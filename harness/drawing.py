"""Small pictures written directly: thousands of run pages are made in seconds, where a chart library takes minutes.

Text of records is made plain and escaped. Lines differ by dash, fills by a border and a label inside, and colours are the
page's CSS classes, so that a picture follows light and dark and reads without colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from harness.plain import plain

Series = Sequence[tuple[float, float]]

WHISKER = 132, 20  # pixels
PANEL = 172, 92
STREAM = 760, 300
LABEL = 12  # pixels: a band of a stream thinner than this has no label inside


def svg(size: tuple[float, float], label: str, *parts: str, css: str) -> Markup:
    """The picture of parts that are markup already; the label is any text."""
    width, height = size
    head = f'<svg class="{css}" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
    return Markup(f'{head} aria-label="{escape(plain(label))}">{"".join(parts)}</svg>')


def text(x: float, y: float, words: object) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(plain(words))}</text>'


def path(points: Series, css: str) -> str:
    """A polyline; what is not finite interrupts it."""
    if points and all(math.isfinite(y) for _, y in points):
        drawn = "M" + "L".join(["%.1f %.1f" % p for p in points])  # noqa: UP031 - a run's page has hundreds
        return f'<path class="{css}" d="{drawn}"/>'
    pieces: list[str] = []
    step = "M"
    for x, y in points:
        if not math.isfinite(y):
            step = "M"
            continue
        pieces.append(f"{step}{x:.1f} {y:.1f}")
        step = "L"
    return f'<path class="{css}" d="{"".join(pieces)}"/>'


@dataclass(frozen=True)
class Scale:
    """A straight map of [low, high] to pixels; values outside are set on the edge."""

    low: float
    high: float
    left: float
    right: float

    def __call__(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return self.left + share * (self.right - self.left)

    def all(self, values: Sequence[float]) -> list[float]:
        """The same of many; NaN stays NaN."""
        low, high, left, per = (
            self.low,
            self.high,
            self.left,
            (self.right - self.left) / ((self.high - self.low) or 1.0),
        )
        return [left + (high if v > high else low if v < low else v) * per - low * per for v in values]


def readable(values: Sequence[float], intervals: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Ends of an axis for these values and the intervals around them: all values, and of intervals what does not squeeze them.

    An interval of two seeds can be fifty times as wide as the others. The axis reaches beyond the values by at most half of
    what they span, or three times the half width that a quarter of the intervals do not exceed; what is wider runs out.
    """
    low, high = min(values), max(values)
    halves = sorted((b - a) / 2 for a, b in intervals)
    room = max((high - low) / 2, 3 * halves[(len(halves) - 1) // 4] if halves else 0.0)
    left, right = min([low, *(a for a, _ in intervals)]), max([high, *(b for _, b in intervals)])
    return max(left, low - room), min(right, high + room)


def ticks(low: float, high: float, most: int) -> list[float]:
    """At most so many (two or more) round numbers from low to high: the finest step of 1, 2 or 5 times a power of ten.

    One at least: between two neighbours of a step lie at most two numbers of the finer step before it.
    """
    rough = (high - low) / max(1, most - 1)
    base = 10.0 ** math.floor(math.log10(rough)) if rough > 0 else 1.0
    found: list[float] = []
    for step in (base, 2 * base, 5 * base, 10 * base):
        found = [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
        if len(found) <= most:
            break
    return found


def arrow(tip: float, cross: float, forward: bool, upright: bool = False) -> str:
    """Path data of a head whose tip is at an edge of the picture: what it ends does not end there."""
    back = -6 if forward else 6
    return f"M{cross:.1f} {tip:.1f}l-3.5 {back}h7Z" if upright else f"M{tip:.1f} {cross:.1f}l{back} -3.5v7Z"


def whisker(value: float, low: float | None, high: float | None, span: tuple[float, float], label: str) -> Markup:
    """A difference with its interval on an axis over `span`: filled where the interval leaves out zero.

    Where the interval runs out of the axis it ends in an arrow.
    """
    width, height = WHISKER
    at = Scale(*span, 6, width - 6)
    middle = height / 2
    zero = f'<path class="zero" d="M{at(0):.1f} 1V{height - 1}"/>'
    bar = ""
    sure = low is not None and high is not None and (low > 0 or high < 0)
    if low is not None and high is not None:
        bar = f'<path class="whisk" d="M{at(low):.1f} {middle:.1f}H{at(high):.1f}"/>'
        for end, out, forward in ((low, low < span[0], False), (high, high > span[1], True)):
            if out:
                bar += f'<path class="out" d="{arrow(width if forward else 0, middle, forward)}"/>'
            else:
                bar += f'<path class="whisk" d="M{at(end):.1f} {middle - 3:.1f}v6"/>'
    dot = f'<circle class="{"sure" if sure else "open"}" cx="{at(value):.1f}" cy="{middle:.1f}" r="3.6"/>'
    return svg(WHISKER, label, zero, bar, dot, css="whisker")


def whisker_axis(span: tuple[float, float], words: tuple[str, str], label: str) -> Markup:
    """The numbers above a column of whiskers: both ends and zero."""
    width, at = WHISKER[0], Scale(*span, 6, WHISKER[0] - 6)
    zero = f'<text x="{at(0):.1f}" y="15" text-anchor="middle">0</text>'
    ends = f'<text x="0" y="15">{escape(words[0])}</text><text x="{width}" y="15" text-anchor="end">{escape(words[1])}</text>'
    return svg(WHISKER, label, zero, ends, css="whisker")


def signed(value: float, reach: float, label: str) -> Markup:
    """A bar from zero to the value on an axis from -reach to reach: filled above zero, outlined below."""
    width, height = WHISKER
    at = Scale(-reach or -1.0, reach or 1.0, 4, width - 4)
    left, right = sorted((at(0), at(value)))
    bar = f'<rect class="{"plus" if value >= 0 else "minus"}" x="{left:.1f}" y="5" width="{right - left:.1f}" height="10"/>'
    return svg(WHISKER, label, bar, f'<path class="zero" d="M{at(0):.1f} 1V{height - 1}"/>', css="whisker")


def panel(lines: Sequence[tuple[str, Series]], right: float, bottom: float, top: float, label: str) -> Markup:
    """Lines (css class, points) over [0, right] x [bottom, top], with a frame and three faint lines."""
    width, height = PANEL
    x, y = Scale(0, right or 1.0, 3, width - 3), Scale(bottom, top if top > bottom else bottom + 1, height - 4, 4)
    grid = [f'<path class="grid" d="M3 {y(v):.1f}H{width - 3}"/>' for v in (bottom, (bottom + top) / 2, top)]
    drawn = [path(_placed(points, x, y), css) for css, points in lines]
    ends = [
        f'<circle class="end {css}" cx="{x(points[-1][0]):.1f}" cy="{y(points[-1][1]):.1f}" r="2.6"/>'
        for css, points in lines
        if points and math.isfinite(points[-1][1])
    ]
    return svg(PANEL, label, *grid, *drawn, *ends, css="panel")


def _placed(points: Series, x: Scale, y: Scale) -> Series:
    """Points in pixels; what is not finite stays so."""
    at, up = x.all([a for a, _ in points]), y.all([b for _, b in points])
    return list(zip(at, up, strict=True))


def stream(changes: Sequence[tuple[float, Mapping[str, float]]], end: float, label: str) -> Markup:
    """Weights over billed FLOPs as stacked steps, tasks by name from the bottom, labels inside of bands."""
    width, height = STREAM
    tasks = sorted({t for _, weights in changes for t in weights})
    steps = [*[(at, weights) for at, weights in changes], (max(end, changes[-1][0]), changes[-1][1])]
    x, y = Scale(0, steps[-1][0] or 1.0, 0, width), Scale(0, 1, height, 0)
    made, floor = [], [0.0] * (len(steps) - 1)
    for k, task in enumerate(tasks):
        share = [weights.get(task, 0.0) for _, weights in steps[:-1]]
        top = [f + s for f, s in zip(floor, share, strict=True)]
        upper, lower = _stairs(steps, top, x, y), _stairs(steps, floor, x, y)
        outline = "L".join(f"{a:.1f} {b:.1f}" for a, b in (*upper, *reversed(lower)))
        made.append(f'<path class="band b{k % 7 + 1}" d="M{outline}Z"><title>{escape(plain(task))}</title></path>')
        made.append(_inside(task, steps, floor, top, x, y))
        floor = top
    return svg(STREAM, label, *made, css="stream")


def _stairs(
    steps: Sequence[tuple[float, object]], values: Sequence[float], x: Scale, y: Scale
) -> list[tuple[float, float]]:
    ends = list(pairwise(at for at, _ in steps))
    return [p for (a, b), v in zip(ends, values, strict=True) for p in ((x(a), y(v)), (x(b), y(v)))]


def _inside(
    task: str, steps: Sequence[tuple[float, object]], low: Sequence[float], high: Sequence[float], x: Scale, y: Scale
) -> str:
    """The label in the longest stretch where the band is high enough for it."""
    best, run = (0.0, 0.0, 0.0), (0.0, 0.0, 0.0)  # width, left, middle
    for k, (a, b) in enumerate(pairwise(at for at, _ in steps)):
        middle = (y(low[k]) + y(high[k])) / 2
        if y(low[k]) - y(high[k]) < LABEL:
            run = (0.0, 0.0, 0.0)
            continue
        same = run[0] > 0 and abs(run[2] - middle) < 1
        run = (run[0] + x(b) - x(a), run[1], run[2]) if same else (x(b) - x(a), x(a), middle)
        best = max(best, run)
    name = plain(task)
    fits = int((best[0] - 8) / 6.4)
    if fits < 3:
        return ""
    return text(best[1] + 5, best[2] + 4, name if len(name) <= fits else name[: fits - 1] + "…")


def nice(value: float) -> float:
    """The next round number above a positive value, as an axis ends on."""
    if not (math.isfinite(value) and value > 0):
        return 1.0
    base = 10.0 ** math.floor(math.log10(value))
    return next(m * base for m in (1, 1.5, 2, 3, 4, 5, 6, 8, 10) if m * base >= value * (1 - 1e-9))
