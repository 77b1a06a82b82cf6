"""Templates and the numbers' forms. Every expression of a template is made plain and then escaped, whatever it holds."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from harness import REFERENCE, RULES_VERSION, __version__
from harness.drawing import nice, readable, whisker, whisker_axis
from harness.ledger import BESIDE, BILLED
from harness.paths import asset
from harness.plain import LONGEST, number, option, plain, slug
from harness.record import Record
from harness.rows import Row, one, phase

MINUS = "\N{MINUS SIGN}"
ROOM = 12  # letters for which the narrowest column of names has room
JOINTS = re.compile(r"(?<=[+=_])(?=[^+=_])")


@lru_cache(maxsize=1)
def templates() -> Environment:
    loader = FileSystemLoader(asset("site") / "templates")
    made = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_final
    )
    made.filters.update(
        percent=lambda x, digits=1: f"{100 * x:.{digits}f}",
        signed=lambda x: f"{100 * x:+.1f}".replace("-", MINUS),
        flops=flops,
        times=times,
        duration=duration,
        slug=slug,
        ticks=ticks,
        breaks=breaks,
        number=number,
        option=option,
        clip=lambda x, n=120: plain(x, n),
        data=lambda x: "" if x is None else f"{x:.6g}",
    )
    made.globals.update(BILLED=BILLED, BESIDE=BESIDE, REFERENCE=REFERENCE, phase=phase, one=one)
    made.globals.update(whisker=row_whisker, axis=axis, span=span)
    made.globals.update(
        version=__version__, rules=RULES_VERSION, short_device=short_device, long=lambda x: Markup(escape(x))
    )
    return made


def render(template: str, /, **values: Any) -> str:
    return templates().get_template(template).render(**values)


def _final(value: Any) -> Any:
    """What every `{{ ... }}` goes through; pictures and other made markup come as Markup."""
    # Most are short and of one script: what `plain` would find, without the call.
    if type(value) is not str or (len(value) <= LONGEST and value.isascii() and value.isprintable()):
        return value
    return plain(value)


def ticks(text: str) -> Markup:
    """A docstring's `names` as code."""
    parts = [escape(plain(part)) for part in text.split("`")]
    if len(parts) % 2 == 0:
        return escape(plain(text))
    return Markup("").join(Markup("<code>{}</code>").format(part) if k % 2 else part for k, part in enumerate(parts))


def breaks(text: str) -> Markup:
    """A name whose long words may end a line after + = _, each of them only where it has no room on a line of its own.

    What is copied, or looked for within a word, is the text as it was.
    """
    made = []
    for word in plain(text).split(" "):
        parts = [escape(part) for part in (JOINTS.split(word) if len(word) > ROOM else [word])]
        whole = Markup("<wbr>").join(parts)
        made.append(Markup('<span class="word">{}</span>').format(whole) if len(parts) > 1 else whole)
    return Markup(" ").join(made)


def flops(x: float) -> str:
    """Three digits and an exponent, 2.46e12; small counts whole."""
    mantissa, exponent = f"{x:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}" if x >= 1000 else f"{x:.0f}"


def times(x: float) -> str:
    """A multiple of the 1x budget or of another amount: 0.98x, 12x, and 0.0008x where it is small."""
    if not math.isfinite(x):
        return "never"
    return f"{x:.2f}x" if 0.01 <= x < 10 else f"{x:.0f}x" if x >= 10 else f"{x:.1g}x"


def duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}" if seconds < 100 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


def short_device(name: str) -> str:
    """`cpu (x86_64)` -> CPU; `NVIDIA H200` -> H200."""
    if name.lower().startswith("cpu"):
        return "CPU"
    return plain(name, 40).removeprefix("NVIDIA ").removeprefix("AMD ")


def span(rows: Iterable[Row]) -> tuple[float, float]:
    """The axis that all differences of a table share, as fractions: zero, entries' differences, and of their intervals
    what can be read.

    Each side has at least a third of the other, so that its number has a place. No difference exceeds 100 points.
    """
    found = [d for row in rows if not (row.is_reference or row.tuning) and (d := row.difference)]
    ends = [(d.low, d.high) for d in found if d.low is not None and d.high is not None]
    low, high = readable([0.0, *(d.value for d in found)], ends)
    wide = max(-low, high)
    left, right = (nice(max(side, 0.01 if side == wide else max(wide, 0.01) / 3)) for side in (-low, high))
    return -min(left, 1.0), min(right, 1.0)


def row_whisker(row: Row, ends: tuple[float, float]) -> Markup:
    d = row.difference
    if d is None or row.is_reference:
        return Markup()
    words = f"{100 * d.value:+.1f} points" + (
        "" if d.low is None else f", 95 % from {100 * d.low:+.1f} to {100 * (d.high or 0):+.1f}"
    )
    return whisker(d.value, d.low, d.high, ends, words)


def axis(ends: tuple[float, float]) -> Markup:
    """The head of a column of differences, in points."""
    low, high = (f"{100 * e:+g}".replace("-", MINUS) for e in (round(ends[0], 4), round(ends[1], 4)))
    return whisker_axis(ends, (low, high), f"Differences from {low} to {high} points")


def command(r: Record) -> str:
    """What to type to repeat a run, quoted for a POSIX shell."""
    i = r.identity
    words = ["harness", "run", "--strategy", i.strategy, "--model", i.model, "--suite", i.suite, "--seed", str(i.seed)]
    words += ["--budget", f"{repr(i.budget.multiple).removesuffix('.0')}x", "--lr", repr(i.lr), "--mode", i.mode]
    words += [word for name, value in sorted(i.passed.items()) for word in ("-o", f"{name}={value}")]
    words += ["--limit", str(r.reports.limit)] if r.reports.limit is not None else []
    return shlex.join(words)
