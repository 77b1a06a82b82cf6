"""An entry in a picture: its shape and colour, its interval, its name and what it is in words.

Pictures read without colour: no two of 56 entries have the same shape and colour. Colours are CSS variables of the page.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from harness import REFERENCE
from harness.drawing import Scale, arrow, readable
from harness.plain import plain

LEAST = 5.0  # percent of score that an axis spans at least, lest noise look like a difference
LETTER = 6.7  # pixels that a letter takes, a little more than in most fonts
COLOURS = [f"var(--series-{k})" for k in range(1, 8)]
SHAPES = (
    "M-4.6 0a4.6 4.6 0 1 0 9.2 0a4.6 4.6 0 1 0-9.2 0Z",  # circle
    "M-4-4h8v8h-8Z",  # square
    "M0-5L5 4h-10Z",  # triangle up
    "M0-5.6L5.2 0L0 5.6L-5.2 0Z",  # diamond
    "M-1.7-5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3Z",  # cross
    "M0 5L5-4h-10Z",  # triangle down
    "M5 0L-4-5v10Z",  # triangle right
    "M-5 0L4-5v10Z",  # triangle left
)


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
    provisional: bool = False

    @property
    def words(self) -> str:
        """What a mark is, for a screen reader and for who points at it."""
        ends = "" if self.low is None or self.high is None else (self.low, self.high)
        told = f", 95 % interval {100 * ends[0]:.1f} to {100 * ends[1]:.1f}" if ends else ""
        seeds = ", provisional" if self.provisional else ""
        bill = f"{self.spent:.3g}x billed, {self.multiple:g}x budget"
        return f"{plain(self.label, 60)}: {100 * self.score:.1f} %{told}{seeds}; {bill}"


@dataclass(frozen=True)
class Glyph:
    """How an entry is drawn."""

    colour: str
    shape: str


def glyphs(points: Sequence[Point]) -> dict[str, Glyph]:
    """A colour for each strategy and a shape for each entry; of one colour all shapes are taken before one comes again."""
    names = [REFERENCE, *sorted({p.strategy for p in points} - {REFERENCE})]
    made: dict[str, Glyph] = {}
    taken: dict[str, list[str]] = {}
    for strategy, label in sorted({(p.strategy, p.label) for p in points}, key=lambda x: (names.index(x[0]), x[1])):
        k = names.index(strategy)
        colour = COLOURS[k % len(COLOURS)]
        used = taken.setdefault(colour, [])
        shape = min((SHAPES[(k + j) % len(SHAPES)] for j in range(len(SHAPES))), key=used.count)
        used.append(shape)
        made[label] = Glyph(colour, shape)
    return made


def domain(points: Sequence[Point]) -> tuple[float, float]:
    """Percent of score that an axis spans: all points, and their intervals as far as these can be read."""
    ends = [(100 * p.low, 100 * p.high) for p in points if p.low is not None and p.high is not None]
    low, high = readable([100 * p.score for p in points], ends)
    low, high = max(low, 0.0), min(high, 100.0)
    widen = max(0.0, LEAST - (high - low)) / 2
    return low - widen, high + widen


def bar(p: Point, glyph: Glyph, scale: Scale, cross: float, upright: bool = False) -> str:
    """An interval along `scale` with arrows where it runs out of it, open where a hollow mark stands."""
    if p.low is None or p.high is None:
        return ""
    low, high, at = (scale(100 * v) for v in (p.low, p.high, p.score))
    towards = 1 if high >= low else -1
    pieces = [(low, at - 6 * towards), (at + 6 * towards, high)] if p.provisional else [(low, high)]
    pieces = [(a, b) for a, b in pieces if (b - a) * towards > 0]
    drawn = "".join(f"M{cross:.1f} {a:.1f}V{b:.1f}" if upright else f"M{a:.1f} {cross:.1f}H{b:.1f}" for a, b in pieces)
    for end, out, side in ((low, 100 * p.low < scale.low, -towards), (high, 100 * p.high > scale.high, towards)):
        drawn += arrow(end + 2 * side, cross, side > 0, upright) if out else ""
    style = f'stroke="{glyph.colour}" stroke-width="1.6" fill="{glyph.colour}"'
    return f'<path d="{drawn}" {style} aria-label="{escape(p.words)}"/>' if drawn else ""


def mark(p: Point, glyph: Glyph, x: float, y: float, size: float = 1.0) -> str:
    """The entry's shape, hollow where it lacks seeds."""
    inside = 'fill="none" stroke-width="1.5" pointer-events="all"' if p.provisional else f'fill="{glyph.colour}"'
    turned = f'transform="translate({x:.1f} {y:.1f})' + (f' scale({size:g})"' if size != 1 else '"')
    words = f'aria-roledescription="point" aria-label="{escape(p.words)}"'
    return f'<path d="{glyph.shape}" {turned} {inside} stroke="{glyph.colour}" {words}/>'


def text(x: float, y: float, words: str, label: str = "", anchor: str = "start") -> str:
    told = f' aria-label="{escape(label)}"' if label else ""
    where = f'x="{x:.1f}" y="{y + 4:.1f}"' + (f' text-anchor="{anchor}"' if anchor != "start" else "")
    return f'<text {where} fill="currentColor"{told}>{escape(plain(words))}</text>'


def letters(words: str) -> int:
    """How many letters wide a text is; those of East Asia are two."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in words)


def called(points: Sequence[Point]) -> dict[str, str]:
    """Each label with the options that fewest entries of its strategy have before the others: what is cut off a name is
    what they share.
    """
    options = {p.label: p.label.removeprefix(p.strategy).strip().split(", ") for p in points}
    made = {}
    for p in points:
        peers = [options[label] for label in {q.label for q in points if q.strategy == p.strategy}]
        mine = sorted(options[p.label], key=lambda option: sum(option in peer for peer in peers))
        made[p.label] = " ".join((p.strategy, ", ".join(mine))).strip()
    return made


def short(label: str, longest: int = 30) -> str:
    """A name cut to the letters that its column holds."""
    words = plain(label, 60).replace("\n", " ")
    while letters(words) > longest:
        words = words.removesuffix("…")[:-1] + "…"
    return words


def picture(width: float, height: float, parts: Sequence[str]) -> Markup:
    size = f'viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="marks" {size} font-size="12">'
    return Markup(f"{head}{''.join(parts)}</svg>")
