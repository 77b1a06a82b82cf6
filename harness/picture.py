"""The board's picture, score against billed FLOPs, and performance profiles, as SVG. Colours are CSS variables of the page.

They read without colour: a shape or a dash per strategy and a label per entry, at its largest budget. Points of one budget
would lie on top of each other, so they are set side by side; the exact FLOPs are in the table. Every mark says what it
is in its `aria-label`, which the page's script shows when it is pointed at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.plain import plain

WIDTH, HEIGHT = 640, 340  # pixels of the plot, without axes; higher where labels need it
LEAST = 5.0  # percent of score that the y axis spans at least, lest noise look like a difference
LABEL = 15  # pixels from one label's line to the next
COLOURS = [f"var(--series-{k})" for k in range(1, 8)]
SHAPES = ["circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left"]
REFERENCE = "proportional"  # always the first colour and shape


AXIS = "billed FLOPs, in 1x budgets (logarithmic; points of one budget stand side by side)"


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
    height: int = HEIGHT

    @property
    def label_gap(self) -> float:
        """Percent of score that one label's line is high."""
        return LABEL * (self.top - self.bottom) / self.height


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
    height = max(HEIGHT, LABEL * (len({p.label for p in points}) + 2))
    left, right = (0.45, 0.75) if alone(points) else (0.12, 0.5)
    return Frame(min(xs) - left * span, max(xs) + right * span, low - pad, high + pad, height)


def alone(points: Sequence[Point]) -> bool:
    """Whether all points are of one budget, and have the whole width to stand side by side in."""
    return len({p.multiple for p in points}) == 1


def place(points: Sequence[Point], f: Frame) -> list[dict[str, Any]]:
    """Marks of all points: x moved aside within a budget, interval ends cut to the frame.

    Aside goes by name: by score, the better would look cheaper.
    """
    marks = []
    for multiple in sorted({p.multiple for p in points}):
        peers = sorted((p for p in points if p.multiple == multiple), key=lambda p: p.label)
        step = min(0.02, (0.6 if alone(points) else 0.08) / len(peers)) * (f.right - f.left)
        for k, p in enumerate(peers):
            x = math.exp(math.log(p.spent) + (k - (len(peers) - 1) / 2) * step)
            ends = [p.score if e is None else min(max(100 * e, f.bottom), f.top) / 100 for e in (p.low, p.high)]
            y, low, high = (100 * v for v in (p.score, *ends))
            marks.append(
                {"strategy": p.strategy, "label": plain(p.label, 60), "multiple": multiple, "x": x, "y": y}
                | {"low": low, "high": high, "words": _words(p)}
            )
    return marks


def _words(p: Point) -> str:
    """What a mark is, for a screen reader and for who points at it."""
    ends = "" if p.low is None or p.high is None else f", 95 % interval {100 * p.low:.1f} to {100 * p.high:.1f}"
    return f"{plain(p.label, 60)}: {100 * p.score:.1f} %{ends}; {p.spent:.3g}x billed, {p.multiple:g}x budget"


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
    at_x, at_y, words = alt.X("at_x:Q"), alt.Y("at_y:Q"), alt.Description("words:N")
    layers = [
        *_base(base, f),
        marks.mark_line(strokeWidth=1, opacity=0.6).encode(x, y, colour, alt.Description("label:N"), detail="label:N"),
        marks.mark_rule(strokeWidth=1.5).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), colour, words),
        marks.mark_point(filled=True, size=85, opacity=1).encode(x, y, colour, shape, words),
        text.mark_rule(strokeWidth=0.75, strokeDash=[1, 2]).encode(x, y, alt.X2("at_x"), alt.Y2("at_y"), colour, words),
        text.mark_text(align="left", dx=4, limit=190, **_WORDS).encode(at_x, at_y, words, text="label:N"),
    ]
    return _svg(vl_convert.vegalite_to_svg(_styled(alt.layer(*layers), f.height).to_dict()))


def _svg(drawn: Any) -> str:
    """Without the attributes that repeat on each mark and that nobody reads: a third of the size."""
    return re.sub(
        r' (?:aria-roledescription="(?!point)[^"]*"|role="graphics-symbol"|pointer-events="none"|stroke-miterlimit="10")',
        "",
        str(drawn),
    )


DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [10, 4], [1, 3]]


def profile_picture(factors: Sequence[float], shares: Mapping[str, Sequence[float]]) -> str:
    """Performance profiles: the share of workloads on which a strategy is within a factor of the best. "" for none."""
    import altair as alt
    import vl_convert

    if not shares:
        return ""
    names = [n for n in (REFERENCE,) if n in shares] + sorted(shares.keys() - {REFERENCE})
    curves = [
        {"x": x, "y": 100 * y, "label": plain(n, 60)} for n in names for x, y in zip(factors, shares[n], strict=True)
    ]
    gap = LABEL * 108 / HEIGHT
    ends = sorted(names, key=lambda n: shares[n][-1])
    heights = spread([100 * shares[n][-1] for n in ends], gap, 0, 104)
    last = [{"x": factors[-1], "y": y, "label": plain(n, 60)} for n, y in zip(ends, heights, strict=True)]
    colour, _ = _identity([Point(plain(n, 60), n, 1, 1, 0, None, None) for n in names])
    colour.shorthand = "label:N"
    dash = alt.StrokeDash("label:N", legend=None).scale(
        domain=[plain(n, 60) for n in names], range=[DASHES[k % len(DASHES)] for k in range(len(names))]
    )
    x = alt.X("x:Q", title="FLOPs to target, as a multiple of the best strategy's").scale(
        domain=[factors[0], factors[-1]], nice=False
    )
    y = (
        alt.Y("y:Q", title="workloads within that factor, %")
        .scale(domain=[0, 108], nice=False)
        .axis(values=[0, 25, 50, 75, 100])
    )
    lines = alt.Chart(alt.InlineData(values=curves)).mark_line(interpolate="step-after", strokeWidth=2)
    text = alt.Chart(alt.InlineData(values=last)).mark_text(align="left", dx=6, limit=150, clip=False, **_WORDS)
    chart = alt.layer(lines.encode(x, y, colour, dash, alt.Description("label:N")), text.encode(x, y, text="label:N"))
    chart = chart.properties(padding={"left": 5, "top": 5, "bottom": 5, "right": 40})
    return _svg(vl_convert.vegalite_to_svg(_styled(chart, HEIGHT).to_dict()))


_WORDS = {"baseline": "middle", "fontSize": 12, "color": "currentColor"}


def _axes(points: Sequence[Point], f: Frame) -> tuple[Any, Any]:
    import altair as alt

    budgets = sorted({p.multiple for p in points})
    x = alt.X("x:Q", title=AXIS)
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


def _styled(chart: Any, height: int) -> Any:
    """Axes in the page's text colour, faint grid, no background."""
    axis: dict[str, Any] = {"labelColor": "currentColor", "titleColor": "currentColor", "domainColor": "currentColor"}
    axis |= {"tickColor": "currentColor", "gridColor": "currentColor", "gridOpacity": 0.12, "titleFontWeight": "normal"}
    chart = chart.properties(width=WIDTH, height=height, background="transparent")
    return chart.configure_axis(**axis, labelFontSize=12, titleFontSize=12).configure_view(stroke=None)
