"""What no published text may hold: secrets, hosts, users, absolute paths, addresses, and text that is not what it looks like.

Two kinds of text: names (strategy, task, device, version ...) consist of a few plain characters, whatever else somebody
thinks of; free text (logged values, reasons, responses) is searched.
"""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+=,:@()/-]*")
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
NAME_LENGTH, TEXT_LENGTH = 200, 64_000

PATH = re.compile(
    r"""(?<![\w/.:)\]>~-])(?:~?/(?!/)(?=[\w.~@-]*[A-Za-z])[\w.~@-]+(?:/[\w.~@-]+)*/?|~/\S*)|\b[A-Za-z]:\\\S+|\\\\\w+\\\S+"""
)
ADDRESS = re.compile(
    r"\b[a-z][a-z0-9+.-]{0,30}://|\b(?:javascript|vbscript|file):\S|\bdata:[a-z]+/|\b\d{1,3}(?:\.\d{1,3}){3}\b", re.I
)
MAIL = re.compile(r"\b[\w.+-]{1,64}@[\w-]{1,64}\.\w")
HOST = re.compile(
    r"\b[\w-]{1,63}(?:\.[\w-]{1,63}){0,4}\.(?:local|localdomain|internal|lan|corp|intra|cluster|edu|com|org|net|io|dev)\b",
    re.I,
)
MARKUP = re.compile(r"<\s*[/!?]?[a-zA-Z]|&#?\w+;")
SECRET = re.compile(
    r"\b(?:hf_|sk-|gh[opsu]_|github_pat_|xox[abpr]-|glpat-|AIza|ya29\.|npm_|pypi-)[\w-]{10,}"
    r"|\b(?:AKIA|ASIA)[0-9A-Z]{12,}|\beyJ[\w-]{8,400}\.[\w-]{8}|-----BEGIN [A-Z ]*PRIVATE KEY",
    re.I,
)
GIVEN = re.compile(r"\b(?:password|passwd|secret|api_?key|token)\s*[=:]\s*\S{6}", re.I)  # a response may hold such code
RANDOM = re.compile(r"[A-Za-z0-9_+/=-]{24,}")


def hidden(text: str) -> str | None:
    """A character that shows nothing or reorders what is shown (controls, bidi marks, lone surrogates), named."""
    if text.isascii() and not CONTROL.search(text):
        return None
    for c in text:
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") and c not in "\n\t\r":
            return f"U+{ord(c):04X}"
    return None


def wrong_name(text: str) -> str | None:
    """What is wrong with a name, or None."""
    if len(text) > NAME_LENGTH:
        return f"{len(text)} characters; expected at most {NAME_LENGTH}"
    if (c := hidden(text)) is not None:
        return f"the hidden character {c}"
    if not NAME.fullmatch(text):
        return f"{short(text)}; expected letters, digits and a few signs, beginning with a letter or a digit"
    return leak(text, free=False)


def wrong_text(text: str) -> str | None:
    """What is wrong with free text, or None."""
    if len(text) > TEXT_LENGTH:
        return f"{len(text)} characters; expected at most {TEXT_LENGTH}"
    if (c := hidden(text)) is not None:
        return f"the hidden character {c}"
    if found := MARKUP.search(text):
        return f"markup: {short(text[found.start() :])}"
    return leak(text)


def leak(text: str, free: bool = True) -> str | None:
    """A secret, and in free text a path, address, host or user; None if there is none."""
    if SECRET.search(text) or GIVEN.search(text) or any(value in text for value in _environment()):
        return "a secret"  # not shown again
    if PATH.search(text):
        return f"an absolute path: {short(text)}"
    if ADDRESS.search(text) or MAIL.search(text):
        return f"a network address: {short(text)}"
    if free and any(_random(x) for x in RANDOM.findall(text)):
        return "what looks like a secret (a long random word)"
    words = set(re.findall(r"[\w.-]+", text.lower())) | set(re.findall(r"[\w-]+", text.lower()))
    if free and (HOST.search(text) or words & _machine()):
        return f"the name of a host or a user: {short(text)}"
    return None


def secret(text: str) -> bool:
    """Whether a model's response, which may say anything, holds a secret of a known form or of this environment."""
    return bool(SECRET.search(text)) or any(value in text for value in _environment())


def strings(value: Any, where: str = "") -> Iterator[tuple[str, str, bool]]:
    """(path, text, whether it is a key) of all strings in plain JSON."""
    if isinstance(value, str):
        yield where, value, False
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield where, key, True
            yield from strings(inner, f"{where}.{short(key, 40)}" if where else short(key, 40))
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from strings(inner, f"{where}.{k}")


def scrub(text: str) -> str:
    """Free text with absolute paths cut to their last part, and this machine's names taken out."""
    text = PATH.sub(lambda m: re.split(r"[\\/]", m.group().rstrip("\\/"))[-1] or "-", text)
    for name in _machine():
        text = re.sub(rf"\b{re.escape(name)}\b", "-", text, flags=re.I)
    return text


def short(text: str, n: int = 60) -> str:
    """As one line of printable ASCII, quoted and cut: safe on any terminal."""
    shown = ascii(text)
    return shown if len(shown) <= n else f"{shown[: n - 4]}...'"


def _random(word: str) -> bool:
    """Long, of three kinds of characters, and close to evenly spread over them: not a name, not a hex digest."""
    if re.fullmatch(r"[0-9a-fA-F]+", word) or not all(re.search(p, word) for p in ("[a-z]", "[A-Z]", "[0-9]")):
        return False
    counts = Counter(word)
    entropy = -sum(n / len(word) * math.log2(n / len(word)) for n in counts.values())
    return entropy > 3.5


@cache
def _machine() -> frozenset[str]:
    """Names of this host and user that are not everyday words."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = ""
    host = socket.gethostname()
    found = {host, host.split(".")[0], user, Path.home().name}
    common = {"root", "user", "admin", "home", "localhost", "runner", "ubuntu", "main", "test", "model", "data"}
    return frozenset(x.lower() for x in found if len(x) >= 4 and x.lower() not in common)


@cache
def _environment() -> tuple[str, ...]:
    """Values of environment variables whose names say that they are secret."""
    names = re.compile(r"TOKEN|SECRET|PASSW|API_?KEY|CREDENTIAL", re.I)
    return tuple(value for name, value in os.environ.items() if names.search(name) and len(value) >= 8)
