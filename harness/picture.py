"""The board's pictures as SVG: scores at one budget, score against billed FLOPs, and performance profiles.

Most entries have one budget, the same, so that their points would lie on top of each other: they stand in a list, best
first, with their intervals. The second picture has every point where its bill puts it, and names those that were run at
several budgets; the list says whose the other marks are. Every mark says what it is in its `aria-label`, which the page's
script shows when it is pointed at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup, escape

from harness import REFERENCE
from harness.drawing import Scale, ticks
from harness.marks import (
    COLOURS,
    LETTER,
    Glyph,
    Point,
    bar,
    called,
    domain,
    glyphs,
    letters,
    mark,
    picture,
    short,
    text,
)
from harness.plain import plain

WIDTH, HEIGHT = 640, 340  # pixels of the profiles' plot, without axes
LABEL = 15  # pixels from one label's line to the next
ROW = 19  # pixels from one entry of the list to the next
MOST, MOST_BARS = 80, 12  # entries in the list, and lines of a plot that shows intervals; the table has all
ASIDE = 8  # pixels from one mark to the next that would lie on it
SIZES = 440, 480  # pixels of the two pictures' width


def draw(points: Sequence[Point], base: float | None) -> list[Markup]:
    """The list of the first budget, and score against FLOPs where these differ by a tenth at least.

    `base` is the base model's macro mean, a dashed line where it is near and a remark where it is not.
    """
    known = glyphs(points)
    spent = [p.spent for p in points]
    made = [listed(points, known)]
    return [*made, scattered(points, known, base)] if max(spent) > 1.1 * min(spent) else made


def listed(points: Sequence[Point], known: Mapping[str, Glyph]) -> Markup:
    """Entries of the first budget, 1x where there is one, in the order given: name, mark on its interval, score."""
    first = min((p.multiple for p in points), key=lambda m: (m != 1, m))
    rows = [p for p in points if p.multiple == first]
    shown, hidden = rows[:MOST], len(rows) - MOST
    names = {label: short(name) for label, name in called(shown).items()}
    left = LETTER * max(map(letters, names.values())) + 14
    bottom = 8 + ROW * len(shown)
    low, high = domain(shown)
    x = Scale(low, high, left + 8, SIZES[0] - 48)
    parts = [_grid(x(t), bottom, f"{t:g}") for t in ticks(low, high, 6)]
    for k, p in enumerate(shown):
        y, words = 8 + ROW * (k + 0.5), escape(p.words)
        parts += [
            f'<rect x="0" y="{y - ROW / 2:.1f}" width="{SIZES[0]}" height="{ROW}" fill="transparent" aria-label="{words}"/>',
            text(left - 6, y, names[p.label], p.words, "end"),
            bar(p, known[p.label], x, y),
            mark(p, known[p.label], x(100 * p.score), y),
            text(SIZES[0] - 2, y, f"{100 * p.score:.1f}", p.words, "end"),
        ]
    more = f"; {hidden} more are in the table" if hidden > 0 else ""
    parts.append(text((left + SIZES[0]) / 2, bottom + 34, f"macro mean score at {first:g}x, %{more}", anchor="middle"))
    return picture(SIZES[0], bottom + 44, parts)


def scattered(points: Sequence[Point], known: Mapping[str, Glyph], base: float | None) -> Markup:
    """All points, score against billed FLOPs. Entries of several budgets have a line and a name beside the plot, and bars
    where they are few.
    """
    lines = {p.label: sorted((q for q in points if q.label == p.label), key=lambda q: q.multiple) for p in points}
    several = {label: line for label, line in lines.items() if len(line) > 1}
    alone = [line[0] for line in lines.values() if len(line) == 1]
    height = max(HEIGHT, LABEL * (len(several) + 1))
    names = {label: short(name, 22) for label, name in called(points).items() if label in several}
    right = SIZES[1] - (LETTER * max(map(letters, names.values())) + 34 if names else 8)
    low, high = domain(points)
    if base is not None and low - (high - low) / 4 <= 100 * base < low:
        low = 100 * base
    pad = 0.04 * (high - low)
    y = Scale(low - pad, high + pad, height, 8)
    logs = [math.log(p.spent) for p in points]
    x = Scale(min(logs), max(logs), 76, right - 28)
    few = len(several) <= MOST_BARS
    parts = [_rung(y(t), right, f"{t:g}") for t in ticks(low - pad, high + pad, 8)]
    parts += _budgets(sorted({p.multiple for p in points}, key=lambda m: (m != 1, m)), x, right, height)
    parts += _base(base, y, right)
    parts += [mark(p, known[p.label], x(math.log(p.spent)), y(100 * p.score), 0.75) for p in alone]
    marked = [p for line in several.values() for p in line]
    at = _apart(marked, x, y) if few else {p: x(math.log(p.spent)) for p in marked}
    for label, line in several.items():
        joined = "L".join(f"{at[p]:.1f} {y(100 * p.score):.1f}" for p in line)
        stroke = f'fill="none" stroke="{known[label].colour}" opacity="0.6"'
        parts.append(f'<path d="M{joined}" {stroke} aria-label="{escape(plain(label, 60))}"/>')
    parts += [bar(p, known[p.label], y, at[p], upright=True) for p in marked if few]
    parts += [mark(p, known[p.label], at[p], y(100 * p.score), 1.0 if few else 0.75) for p in marked]
    ends = sorted((line[-1] for line in several.values()), key=lambda p: -p.score)
    heights = spread([y(100 * p.score) for p in ends], LABEL, 8 + LABEL / 2, height - LABEL / 2)
    for p, level in zip(ends, heights, strict=True):
        lead = f"M{at[p] + 7:.1f} {y(100 * p.score):.1f}L{right - 4:.1f} {level:.1f}H{right + 4:.1f}"
        dots = 'fill="none" stroke="currentColor" opacity="0.45" stroke-dasharray="1 2"'
        parts += [
            f'<path d="{lead}" {dots} aria-label="{escape(p.words)}"/>',
            mark(p, known[p.label], right + 12, level),
            text(right + 22, level, names[p.label], p.words),
        ]
    parts.append(text((48 + right) / 2, height + 36, "billed FLOPs, in 1x budgets (logarithmic)", anchor="middle"))
    turned = f'transform="rotate(-90)" x="{-height / 2:.0f}" y="14" text-anchor="middle" fill="currentColor"'
    parts.append(f"<text {turned}>macro mean score, %</text>")
    return picture(SIZES[1], height + 46, parts)


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


def _apart(points: Sequence[Point], x: Scale, y: Scale) -> dict[Point, float]:
    """Where marks with bars stand: at their bill, or a place beside it where they would lie on another's.

    Aside goes by name: by score, the better would look cheaper.
    """
    made: dict[Point, float] = {}
    taken: list[tuple[float, float, float]] = []
    for p in sorted(points, key=lambda p: (p.label, p.multiple)):
        ends = [100 * v for v in (p.score, p.low, p.high) if v is not None]
        top, bottom = y(max(ends)) - 6, y(min(ends)) + 6
        bill = x(math.log(p.spent))
        places = (bill, bill + ASIDE, bill - ASIDE)  # further off, it would be read as another bill
        free = (
            at
            for at in places
            if not any(abs(at - other) < ASIDE and top < low and high < bottom for other, high, low in taken)
        )
        made[p] = next(free, bill)
        taken.append((made[p], top, bottom))
    return made


def _grid(x: float, bottom: float, words: str) -> str:
    line = f'<path d="M{x:.1f} 4V{bottom}" stroke="currentColor" opacity="0.14"/>'
    return line + text(x, bottom + 14, words, anchor="middle")


def _rung(y: float, right: float, words: str) -> str:
    line = f'<path d="M48 {y:.1f}H{right:.1f}" stroke="currentColor" opacity="0.14"/>'
    return line + text(42, y, words, anchor="end")


def _budgets(multiples: Sequence[float], x: Scale, right: float, height: float) -> list[str]:
    """A line for every budget on the axis, named where there is room: 1x before all others."""
    made: list[str] = []
    named: list[float] = []
    for m in multiples:
        at = x.left + (math.log(m) - x.low) / ((x.high - x.low) or 1.0) * (x.right - x.left)
        if not 48 <= at <= right:
            continue
        made.append(f'<path d="M{at:.1f} 4V{height}" stroke="currentColor" opacity="0.14"/>')
        if all(abs(at - other) >= 36 for other in named):
            named.append(at)
            made.append(text(at, height + 14, f"{m:g}x", anchor="middle"))
    return made


def _base(base: float | None, y: Scale, right: float) -> list[str]:
    if base is None:
        return []
    value = 100 * base
    beyond = ", below this axis" if value < y.low else ", above this axis" if value > y.high else ""
    words = text(
        52,
        y(value) + (8 if beyond.startswith(", above") else -16 if beyond else -10),
        f"base model {value:.1f} %{beyond}",
    )
    line = f'<path d="M48 {y(value):.1f}H{right:.1f}" stroke="currentColor" stroke-dasharray="6 4"/>'
    return [words] if beyond else [line, words]


def _lean(drawn: Any) -> str:
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
    shown = [plain(n, 60) for n in names]
    colour = alt.Color("label:N", legend=None).scale(
        domain=shown, range=[COLOURS[k % len(COLOURS)] for k in range(len(names))]
    )
    dash = alt.StrokeDash("label:N", legend=None).scale(
        domain=shown, range=[DASHES[k % len(DASHES)] for k in range(len(names))]
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
    named = alt.Chart(alt.InlineData(values=last)).mark_text(align="left", dx=6, limit=150, clip=False, **_WORDS)
    chart = alt.layer(lines.encode(x, y, colour, dash, alt.Description("label:N")), named.encode(x, y, text="label:N"))
    chart = chart.properties(padding={"left": 5, "top": 5, "bottom": 5, "right": 40})
    return _lean(vl_convert.vegalite_to_svg(_styled(chart, HEIGHT).to_dict()))


_WORDS = {"baseline": "middle", "fontSize": 12, "color": "currentColor"}


def _styled(chart: Any, height: int) -> Any:
    """Axes in the page's text colour, faint grid, no background."""
    axis: dict[str, Any] = {"labelColor": "currentColor", "titleColor": "currentColor", "domainColor": "currentColor"}
    axis |= {"tickColor": "currentColor", "gridColor": "currentColor", "gridOpacity": 0.12, "titleFontWeight": "normal"}
    chart = chart.properties(width=WIDTH, height=height, background="transparent")
    return chart.configure_axis(**axis, labelFontSize=12, titleFontSize=12).configure_view(stroke=None)
