"""Files of a model or data set: from a mirror, or from the hub through its resumable cache; why, where they cannot be had."""

from __future__ import annotations

import re
import textwrap
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
    if there := mirrored(kind, name, mirror):
        return there
    hint = f"--mirror DIR looks in DIR/{kind}/{name} first" + (", and found nothing there" if mirror else "")
    return _downloaded(kind, name, tuple(patterns), revision, hint)


@cache
def _downloaded(kind: Kind, name: str, patterns: tuple[str, ...], revision: str | None, hint: str) -> Path:
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
        raise HarnessError(f"{NOUN[kind]} {name!r}: the hub cannot give it ({_why(error, revision)}); {hint}") from None


def _why(error: Exception, revision: str | None) -> str:
    """What of the hub was asked for and did not come, in one clause."""
    from huggingface_hub import constants, errors

    none_here = f"its cache here has {f'no revision {revision!r}' if revision else 'no copy'}"
    if constants.HF_HUB_OFFLINE and isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled):
        return f"{none_here}, and HF_HUB_OFFLINE keeps from asking {constants.ENDPOINT}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{constants.ENDPOINT} knows no such name, or it is private: `hf auth login`"
    if isinstance(error, errors.LocalEntryNotFoundError):
        cause = error.__cause__
        said = f" ({type(cause).__name__}: {whole(str(cause), 120)})" if cause else ""
        return f"{none_here}, and {constants.ENDPOINT} cannot be reached{said}"
    return f"{constants.ENDPOINT}: {whole(str(error), 200)}"


def whole(text: str, longest: int) -> str:
    """The text on one line; of a longer one as many whole words as there is room for, and an ellipsis."""
    return textwrap.shorten(text, longest, placeholder=" …")


def revision_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache holds; None for a mirror."""
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None
