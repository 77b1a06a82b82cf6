"""Where the strategies, suites and site templates lie: beside the package in a clone, inside it in a wheel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).resolve().parent


def asset(name: str) -> Path:
    """The folder `strategies`, `suites` or `site`."""
    bundled = _PACKAGE / "_bundled" / name
    return bundled if bundled.is_dir() else _PACKAGE.parent / name


def document(name: str) -> Path:
    """A text file of the repository by its path from the top, such as docs/rules.md; in a wheel its copy."""
    bundled = _PACKAGE / "_bundled" / name
    return bundled if bundled.is_file() else _PACKAGE.parent / name


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text. NaN and infinities are refused."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_number
    )


def _number(value: Any) -> Any:
    """A number of an array as a plain one."""
    if getattr(value, "shape", None) != ():
        raise TypeError(f"a {type(value).__name__} is not JSON")
    return value.item()


def digest(value: Any) -> str:
    """sha256 (hex) of the canonical JSON of a value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_atomic(path: Path, text: str) -> None:
    """Write a whole file or nothing: the new text is on disk before it takes the old one's name."""
    import os

    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as handle:
        handle.write(text)
        handle.flush()
        os.fsync(handle.fileno())
    os.replace(partial, path)
