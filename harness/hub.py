"""Files of a model or data set: from a mirror, or from the hub through its resumable cache; why, where they cannot be had."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal

from harness.errors import HarnessError

Kind = Literal["models", "datasets"]
PAGE = {"models": "https://huggingface.co/", "datasets": "https://huggingface.co/datasets/"}
NOUN = {"models": "model", "datasets": "data"}


def mirrored(kind: Kind, name: str, mirror: Path | None) -> Path | None:
    """The folder of `name` in a mirror, if it has one."""
    folder = mirror / kind / name if mirror else None
    return folder if folder is not None and folder.is_dir() else None


def folder(
    kind: Kind, name: str, patterns: Iterable[str], mirror: Path | None = None, revision: str | None = None
) -> Path:
    """Where the files of `name` lie; no network is asked for what a mirror has, nor under HF_HUB_OFFLINE=1.

    Raises HarnessError with what to do: whose licence to accept, which revision is unknown, where a copy may lie.
    """
    return mirrored(kind, name, mirror) or _downloaded(kind, name, tuple(patterns), revision)


@cache
def _downloaded(kind: Kind, name: str, patterns: tuple[str, ...], revision: str | None) -> Path:
    """Once per process, so that all that a run reads of one data set is of one revision."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                repo_type=kind.removesuffix("s"),
                revision=revision,
                allow_patterns=list(patterns),
                etag_timeout=10,
            )
        )
    except errors.GatedRepoError:
        raise HarnessError(
            f"{NOUN[kind]} {name!r} is gated: accept its licence at {PAGE[kind]}{name}, then log in with `hf auth login`"
        ) from None
    except errors.RevisionNotFoundError:
        raise HarnessError(f"{NOUN[kind]} {name!r} has no revision {revision!r}") from None
    except Exception as error:  # offline, unknown id, proxy: the library raises many kinds
        reason = " ".join(str(error).split())[:120]
        raise HarnessError(
            f"{NOUN[kind]} {name!r}: the hub cannot give it ({reason}); --mirror DIR looks in DIR/{kind}/{name} first"
        ) from None


def revision_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache holds; None for a mirror."""
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
