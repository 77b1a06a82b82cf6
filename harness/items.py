"""Per-item results: the files of a run (`items/<task>.jsonl`) and their one file beside a submitted record.

The submitted file holds the same lines, task after task, so that the record's digests hold for it too. Where that is more
than fits, it leaves out what the suite's data give back (`target`, `prompt_sha256`), and says so by their absence.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, AnyStr

from harness.errors import HarnessError
from harness.record import Record

LIMIT, UNPACKED = 300_000, 30_000_000  # bytes
SPARE = ("target", "prompt_sha256")
KEYS = {"id", "item_sha256", "prompt_sha256", "target", "response", "truncated", "filtered", "correct"}

Item = dict[str, Any]


@dataclass(frozen=True)
class Items:
    """Lines of each task as they were written, parsed; `whole`: nothing is left out, so that digests can be checked."""

    lines: dict[str, list[str]]
    rows: dict[str, list[Item]]

    @property
    def whole(self) -> bool:
        return all(row.keys() >= set(SPARE) for rows in self.rows.values() for row in rows)

    def sha256(self, task: str) -> str:
        """Digest of the task's file as the scorer wrote it."""
        return hashlib.sha256("".join(f"{line}\n" for line in self.lines[task]).encode()).hexdigest()


def beside(path: Path) -> Path:
    """The items file of a submitted record."""
    return path.with_name(path.name.removesuffix(".json") + ".items.jsonl.gz")


def load(path: Path) -> Items | None:
    """Items of the record file at `path`: of a run's folder, or beside a submitted record; None where there are none.

    Raises HarnessError for what is not readable, and for files over their limits.
    """
    packed = beside(path)
    if packed.is_file():
        return unpack(packed)
    folder = path.parent / "items"
    if path.name != "record.json" or not folder.is_dir():
        return None
    texts = {}
    for file in sorted(folder.glob("*.jsonl")):
        if file.stat().st_size > UNPACKED:
            raise HarnessError(f"{file}: {file.stat().st_size:,} bytes; expected at most {UNPACKED:,}")
        texts[file.stem] = _text(file.read_bytes(), file)
    return Items(*_parsed({task: _lines(text) for task, text in texts.items()}, folder))


def unpack(path: Path) -> Items:
    """A submitted items file. Never unpacks more than its limit, whatever the file claims."""
    groups: dict[str, list[str]] = {}
    for line in _lines(_text(_unpacked(path), path)):
        groups.setdefault(_task(line), []).append(line)
    return Items(*_parsed(groups, path))


def _unpacked(path: Path) -> bytes:
    size = path.stat().st_size
    if size > LIMIT:
        raise HarnessError(f"{path}: {size:,} bytes; expected at most {LIMIT:,}")
    stream = zlib.decompressobj(wbits=31)  # one gzip member with its checksum; gzip.open takes half as long again
    try:
        data = stream.decompress(path.read_bytes(), UNPACKED + 1)
    except zlib.error as error:
        raise HarnessError(f"{path}: not a whole gzip file ({error})") from None
    if len(data) > UNPACKED:
        raise HarnessError(f"{path}: unpacks to more than {UNPACKED:,} bytes")
    if not stream.eof or stream.unused_data:
        raise HarnessError(f"{path}: not a whole gzip file ({'bytes after its end' if stream.eof else 'cut short'})")
    return data


def pack(items: Items) -> bytes:
    """The bytes of the submitted file, the same for the same items. Raises HarnessError where they do not fit."""
    for spare in ((), SPARE):
        rows = [row for task in sorted(items.rows) for row in items.rows[task]]
        kept = [{k: v for k, v in row.items() if k not in spare} for row in rows]
        out = io.BytesIO()
        with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=9, mtime=0) as handle:
            handle.write("".join(json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in kept).encode())
        if len(out.getvalue()) <= LIMIT:
            return out.getvalue()
    raise HarnessError(f"its items take {len(out.getvalue()):,} bytes; at most {LIMIT:,} can be submitted")


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise HarnessError(f"{path}: not UTF-8 text") from None


def _lines(text: AnyStr) -> list[AnyStr]:
    """Lines end in a newline and nothing else: str.splitlines also cuts at separators that a response may hold."""
    end = "\n" if isinstance(text, str) else b"\n"
    return text.removesuffix(end).split(end) if text else []


def _task(line: str) -> str:
    """`t:TASK/INDEX` -> TASK; what is wrong is found later."""
    try:
        return str(json.loads(line)["id"]).removeprefix("t:").rpartition("/")[0]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _parsed(lines: Mapping[str, list[str]], path: Path) -> tuple[dict[str, list[str]], dict[str, list[Item]]]:
    rows: dict[str, list[Item]] = {}
    for task, group in lines.items():
        for number, line in enumerate(group, 1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise HarnessError(f"{path}: task {task!r}, line {number}: not a JSON object")
            rows.setdefault(task, []).append(row)
    return dict(lines), rows


def outcomes(record: Record, file: Path, chosen: Mapping[str, str]) -> list[list[float]] | None:
    """1 for right and 0 for wrong of each item, task by task in the order of their names; None without items.

    `file`: where the record lies. `chosen`: the filter of each task's score; a task that is not in it takes the filter
    whose value the score has. Only the verdicts are read (3 ms for 2,400 items, `load` takes 19), since a page needs
    those of thousands of runs. Raises HarnessError for items that are not those of the record.
    """
    groups = _by_task(record, file)
    if groups is None:
        return None
    found = []
    for task, lines in groups.items():
        score = record.scores[task]
        name = chosen.get(task) or next((f for f, v in sorted(score.filters.items()) if v == score.value), "")
        starts = [line[: line.find(b"}") + 1] for line in lines]
        known = {start: _verdict(start, name, file) for start in set(starts)}
        verdicts = [known[start] for start in starts]
        if len(verdicts) != score.n or sum(verdicts) != round(score.filters.get(name, -1) * score.n):
            raise HarnessError(f"items of {file}: not those that task {task!r} was scored on")
        found.append(verdicts)
    return found


def _by_task(record: Record, file: Path) -> dict[str, list[bytes]] | None:
    tasks = sorted(record.scores)
    if beside(file).is_file():
        lines, groups, at = _lines(_unpacked(beside(file))), {}, 0
        for task in tasks:
            groups[task] = lines[at : at + record.scores[task].n]
            at += record.scores[task].n
        if at != len(lines):
            raise HarnessError(f"items of {file}: {len(lines)}; expected {at}, as its scores say")
        return groups
    folder = file.parent / "items"
    if file.name != "record.json" or not all((folder / f"{task}.jsonl").is_file() for task in tasks):
        return None
    return {task: _lines((folder / f"{task}.jsonl").read_bytes()) for task in tasks}


def _verdict(start: bytes, name: str, file: Path) -> float:
    """Of a line up to its first closing brace: keys are sorted, so the verdicts come first."""
    try:
        return float(json.loads(start + b"}")["correct"][name])
    except (ValueError, KeyError, TypeError):
        raise HarnessError(f"items of {file}: no verdict of filter {name!r}") from None
