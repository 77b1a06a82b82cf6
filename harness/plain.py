"""Text of records made harmless to look at, before it is escaped: what does not show, or turns the text around, shows as �."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from fractions import Fraction
from functools import lru_cache

LONGEST = 2_000  # characters of one string on a page
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, format (bidi marks, zero width), unassigned, separators
_STACKED = re.compile(r"(?:[^\W_]|.)?([\u0300-\u036f\u0483-\u0489\u20d0-\u20ff]{4,})")


def plain(value: object, longest: int = LONGEST) -> str:
    """One line or several of printable text, cut with an ellipsis; newlines and tabs stay."""
    found = value if isinstance(value, str) else str(value)
    if len(found) > longest:
        found = found[: longest - 1] + "…"
    if found.isascii() and found.isprintable():
        return found
    shown = "".join(
        c if c in "\n\t" or unicodedata.category(c) not in HIDDEN else "\N{REPLACEMENT CHARACTER}" for c in found
    )
    return _STACKED.sub("\N{REPLACEMENT CHARACTER}", shown)


def number(value: object) -> object:
    """A number of many digits as people write it, 1/3 or 0.142857; anything else as it is. Only to be looked at."""
    if not isinstance(value, float) or len(repr(value)) <= 10 or not math.isfinite(value):
        return value
    near = Fraction(value).limit_denominator(99)
    return str(near) if near and float(near) == value else f"{value:.6g}"


def option(value: object) -> object:
    """A hyperparameter's value as `-o` takes it: null, true and false by these names. Only to be looked at."""
    return json.dumps(value) if value is None or isinstance(value, bool) else number(value)


@lru_cache(maxsize=4096)  # names of tasks, in every line of a run's curves
def cell(word: str) -> str:
    """Text as one cell of CSV, on one line."""
    word = plain(word, 120).replace("\n", " ")
    return '"' + word.replace('"', '""') + '"' if set(word) & set(',"') else word


def slug(name: str) -> str:
    """A file's name for any text: the text itself where it is plain and lower case, else its digest."""
    from harness.paths import digest

    return name if re.fullmatch(r"[a-z0-9][a-z0-9_+-]{0,63}", name) else "x-" + digest(name)[:12]
