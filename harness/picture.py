"""Score against billed FLOPs as one SVG. Colours are CSS variables of the page, so that it follows light and dark.

It reads without colour: a shape per strategy and a label per entry, at its largest budget. Points of one budget would lie
on top of each other, so they are set side by side; the exact FLOPs are in the table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 640, 360  # pixels of the plot, without axes
LEAST = 5.0  # percent of score that the y axis spans at least, lest noise look like a difference
LABEL = 16  # pixels from one label's line to the next
COLOURS = [f"var(--series-{k})" for k in range(1, 8)]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
REFERENCE = "proportional"  # always the first colour and shape


@dataclass(frozen=True)
class Point:
    """One row of the table. Scores and interval ends are fractions; `spent` is a multiple of the 1x budget."""

    strategy: str
    label: str
    multiple: float
    spent: float
    score: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Frame:
    """Domains of the axes: x in natural logarithms of the multiple, y in percent."""

    left: float
    right: float
    bottom: float
    top: float

    @property
    def label_gap(self) -> float:
        """Percent of score that one label's line is high."""
        return LABEL * (self.top - self.bottom) / HEIGHT


def frame(points: Sequence[Point], base: float | None) -> Frame:
    """Room for all points and intervals, for labels to the right, and for the base model if it is not far below."""
    xs = [math.log(p.spent) for p in points]
    span = max(max(xs) - min(xs), 0.6)
    ends = [100 * x for p in points for x in (p.score, p.low, p.high) if x is not None]
    low, high = max(0.0, min(ends)), min(100.0, max(ends))
    widen = max(0.0, LEAST - (high - low)) / 2
    low, high = low - widen, high + widen
    if base is not None and 2 * low - high <= 100 * base < low:
        low = 100 * base
    pad = 0.08 * (high - low)
    return Frame(min(xs) - 0.12 * span, max(xs) + 0.5 * span, low - pad, high + pad)


def place(points: Sequence[Point], f: Frame) -> list[dict[str, Any]]:
    """Marks of all points: x moved aside within a budget, interval ends cut to the frame.

    Aside goes by name: by score, the better would look cheaper.
    """
    marks = []
    for multiple in sorted({p.multiple for p in points}):
        peers = sorted((p for p in points if p.multiple == multiple), key=lambda p: p.label)
        step = min(0.018, 0.12 / len(peers)) * (f.right - f.left)
        for k, p in enumerate(peers):
            x = math.exp(math.log(p.spent) + (k - (len(peers) - 1) / 2) * step)
            ends = [p.score if e is None else min(max(100 * e, f.bottom), f.top) / 100 for e in (p.low, p.high)]
            y, low, high = (100 * v for v in (p.score, *ends))
            marks.append(
                {"strategy": p.strategy, "label": p.label, "multiple": multiple, "x": x, "y": y}
                | {"low": low, "high": high}
            )
    return marks


def labels(marks: Sequence[dict[str, Any]], f: Frame) -> list[dict[str, Any]]:
    """A label for each entry beside its largest budget, spread vertically so that none covers another."""
    last = {m["label"]: m for m in marks}  # marks come by rising budget
    made = []
    for multiple in sorted({m["multiple"] for m in last.values()}):
        peers = sorted((m for m in last.values() if m["multiple"] == multiple), key=lambda m: m["y"])
        x = math.exp(math.log(max(m["x"] for m in marks if m["multiple"] == multiple)) + 0.03 * (f.right - f.left))
        heights = spread([m["y"] for m in peers], f.label_gap, f.bottom + f.label_gap / 2, f.top - f.label_gap / 2)
        made += [{**m, "at_x": x, "at_y": y} for m, y in zip(peers, heights, strict=True)]
    return made


def spread(values: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Rising values moved as little as needed to lie `gap` apart between the ends; too many share what room there is."""
    if len(values) > 1:
        gap = min(gap, (high - low) / (len(values) - 1))
    out: list[float] = []
    for v in values:
        out.append(max(v, low, out[-1] + gap if out else low))
    ceiling = high
    for k in reversed(range(len(out))):
        out[k] = min(out[k], ceiling)
        ceiling = out[k] - gap
    return out


def draw(points: Sequence[Point], base: float | None) -> str:
    """The SVG. `base` is the base model's macro mean, a dashed line where it is near and a remark where it is not."""
    import altair as alt  # here: it takes a second, and only the site needs it
    import vl_convert

    f = frame(points, base)
    marks = alt.Chart(alt.InlineData(values=place(points, f)))
    text = alt.Chart(alt.InlineData(values=labels(place(points, f), f)))
    x, y = _axes(points, f)
    colour, shape = _identity(points)
    at_x, at_y = alt.X("at_x:Q"), alt.Y("at_y:Q")
    layers = [
        *_base(base, f),
        marks.mark_line(strokeWidth=1, opacity=0.6).encode(x, y, colour, detail="label:N"),
        marks.mark_rule(strokeWidth=1.5).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), colour),
        marks.mark_point(filled=True, size=85, opacity=1).encode(x, y, colour, shape),
        text.mark_rule(strokeWidth=0.75, strokeDash=[1, 2]).encode(x, y, alt.X2("at_x"), alt.Y2("at_y"), colour),
        text.mark_text(align="left", dx=4, limit=190, **_WORDS).encode(at_x, at_y, text="label:N"),
    ]
    return str(vl_convert.vegalite_to_svg(_styled(alt.layer(*layers)).to_dict()))


_WORDS = {"baseline": "middle", "fontSize": 12, "color": "currentColor"}


def _axes(points: Sequence[Point], f: Frame) -> tuple[Any, Any]:
    import altair as alt

    budgets = sorted({p.multiple for p in points})
    x = alt.X("x:Q", title="billed FLOPs, as a multiple of the 1x budget (logarithmic)")
    x = x.scale(type="log", domain=[math.exp(f.left), math.exp(f.right)], nice=False)
    x = x.axis(values=budgets, labelExpr="format(datum.value, '~r') + 'x'")
    return x, alt.Y("y:Q", title="macro mean score, %").scale(domain=[f.bottom, f.top], zero=False, nice=False)


def _identity(points: Sequence[Point]) -> tuple[Any, Any]:
    """Colour and shape of each strategy; they repeat at different periods, so that 56 pairs differ."""
    import altair as alt

    names = [REFERENCE, *sorted({p.strategy for p in points} - {REFERENCE})]
    cycle = {"domain": names, "range": [COLOURS[k % len(COLOURS)] for k in range(len(names))]}
    shapes = {"domain": names, "range": [SHAPES[k % len(SHAPES)] for k in range(len(names))]}
    return alt.Color("strategy:N", legend=None).scale(**cycle), alt.Shape("strategy:N", legend=None).scale(**shapes)


def _base(base: float | None, f: Frame) -> list[Any]:
    import altair as alt

    if base is None:
        return []
    y, near = 100 * base, f.bottom <= 100 * base <= f.top
    at = y if near else f.bottom
    words = f"base model {y:.1f} %" + ("" if near else ", below this axis" if y < at else ", above this axis")
    chart = alt.Chart(alt.InlineData(values=[{"at": at, "words": words}]))
    text = chart.mark_text(align="left", x=6, dy=-9, **_WORDS).encode(alt.Y("at:Q"), text="words:N")
    return [chart.mark_rule(strokeDash=[6, 4], color="currentColor").encode(alt.Y("at:Q")), text] if near else [text]


def _styled(chart: Any) -> Any:
    """Axes in the page's text colour, faint grid, no background."""
    axis: dict[str, Any] = {"labelColor": "currentColor", "titleColor": "currentColor", "domainColor": "currentColor"}
    axis |= {"tickColor": "currentColor", "gridColor": "currentColor", "gridOpacity": 0.12, "titleFontWeight": "normal"}
    chart = chart.properties(width=WIDTH, height=HEIGHT, background="transparent")
    return chart.configure_axis(**axis, labelFontSize=12, titleFontSize=12).configure_view(stroke=None)
