"""Per-item results: the files of a run (`items/<task>.jsonl`) and how a results folder keeps them.

What a run answered lies beside its record, `<seed>-<id8>.items.jsonl.gz`: first the digest of its questions, then a line an
item. The questions (id, digests of item and prompt, target) are the same in every run of a workload and do not compress, so
they lie there once, `<suite>/questions/<sha16>.jsonl.gz`, named by their digest. Together they are the scorer's own lines,
byte for byte, so that the record's digests hold for them too.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, AnyStr

from harness.errors import HarnessError
from harness.record import TaskScore

LIMIT, QUESTIONS, UNPACKED = 300_000, 5_000_000, 30_000_000  # bytes: of answers, of questions, of either unpacked
ASKED = ("id", "item_sha256", "prompt_sha256", "target")
KEYS = {*ASKED, "response", "truncated", "filtered", "correct"}

Item = dict[str, Any]


@dataclass(frozen=True)
class Items:
    """Lines of each task as the scorer wrote them, and the same parsed."""

    lines: dict[str, list[str]]
    rows: dict[str, list[Item]]

    def sha256(self, task: str) -> str:
        """Digest of the task's file as the scorer wrote it."""
        return hashlib.sha256("".join(f"{line}\n" for line in self.lines[task]).encode()).hexdigest()


@dataclass(frozen=True)
class Packed:
    """The two files of submitted items. `name`: of the questions' file, from the digest of their text."""

    answers: bytes
    questions: bytes
    name: str


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
    lines = {task: _lines(text) for task, text in texts.items() if text}
    rows = {t: [_object(x, folder / f"{t}.jsonl", n) for n, x in enumerate(group, 1)] for t, group in lines.items()}
    return Items(lines, rows)


def unpack(path: Path) -> Items:
    """Submitted items. Never unpacks more than its limits, whatever the files claim."""
    head, *answers = _lines(_text(_unpacked(path, LIMIT), path)) or [""]
    questions = _questions(path, head)
    if len(answers) != len(questions):
        raise HarnessError(f"{path}: {len(answers)} items; expected {len(questions)}, one for each of its questions")
    rows: dict[str, list[Item]] = {}
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True), 2):
        row = question | _object(answer, path, number)
        rows.setdefault(_task(row), []).append(row)
    return Items({task: [_line(row) for row in group] for task, group in rows.items()}, rows)


def shared(path: Path, name: str) -> Path | None:
    """Where the questions' file `name` of the submitted items at `path` lies, in the `questions` of a folder above."""
    files = (folder / "questions" / name for folder in path.absolute().parents)
    return next((file for file in files if file.is_file()), None)


def _questions(path: Path, head: str) -> list[Item]:
    """The questions that the first line of the items at `path` names."""
    sha = str(_object(head, path, 1).get("questions"))
    file = shared(path, _name(sha)) if re.fullmatch("[0-9a-f]{64}", sha) else None  # a name, and no path out of here
    if file is None:
        raise HarnessError(
            f"{path}: its questions are missing; expected them in {_name(sha)!r} of the suite's questions/"
        )
    text = _text(_unpacked(file, QUESTIONS), file)
    if hashlib.sha256(text.encode()).hexdigest() != sha:
        raise HarnessError(f"{file}: not the questions of its name; expected those of {path.name}, sha256 {sha[:64]!r}")
    return _parsed(text, file)


@lru_cache(maxsize=8)
def _parsed(text: str, file: Path) -> list[Item]:
    """Nobody may change what it returns: a results folder has them once for all its records."""
    return [_object(line, file, number) for number, line in enumerate(_lines(text), 1)]


def _unpacked(path: Path, limit: int) -> bytes:
    size = path.stat().st_size
    if size > limit:
        raise HarnessError(f"{path}: {size:,} bytes; expected at most {limit:,}")
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


def pack(items: Items) -> Packed:
    """The bytes of the submitted files, the same for the same items. Raises HarnessError where they do not fit."""
    rows = [row for task in sorted(items.rows) for row in items.rows[task]]
    asked = "".join(_line({k: v for k, v in row.items() if k in ASKED}) + "\n" for row in rows)
    sha = hashlib.sha256(asked.encode()).hexdigest()
    said = [_line({"questions": sha}), *(_line({k: v for k, v in row.items() if k not in ASKED}) for row in rows)]
    packed = Packed(_gzip("".join(f"{line}\n" for line in said)), _gzip(asked), _name(sha))
    for what, data, limit in (("items", packed.answers, LIMIT), ("questions", packed.questions, QUESTIONS)):
        if len(data) > limit:
            raise HarnessError(f"its {what} take {len(data):,} bytes; at most {limit:,} can be submitted")
    return packed


def _name(sha: str) -> str:
    return f"{sha[:16]}.jsonl.gz"


def _line(row: Item) -> str:
    """As the scorer writes it."""
    return json.dumps(row, ensure_ascii=False, sort_keys=True)


@lru_cache(maxsize=8)  # the questions of one record are those of the next
def _gzip(text: str) -> bytes:
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=9, mtime=0) as handle:
        handle.write(text.encode())
    return out.getvalue()


def _text(data: bytes, path: Path) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise HarnessError(f"{path}: not UTF-8 text") from None


def _lines(text: AnyStr) -> list[AnyStr]:
    """Lines end in a newline and nothing else: str.splitlines also cuts at separators that a response may hold."""
    end = "\n" if isinstance(text, str) else b"\n"
    return text.removesuffix(end).split(end) if text else []


def _task(row: Item) -> str:
    """`t:TASK/INDEX` -> TASK; what is wrong is found later."""
    return str(row.get("id")).removeprefix("t:").rpartition("/")[0]


def _object(line: str, path: Path, number: int) -> Item:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise HarnessError(f"{path}, line {number}: not a JSON object")
    return row


def outcomes(scores: Mapping[str, TaskScore], file: Path, chosen: Mapping[str, str]) -> list[list[float]] | None:
    """1 for right and 0 for wrong of each item, task by task in the order of their names; None without items.

    `scores`: the record's, by task; `file`: where it lies. `chosen`: the filter of each task's score; a task that is not in
    it takes the filter whose value the score has. Only the verdicts are read (3 ms for 2,400 items, `load` takes 19), since
    a page needs those of thousands of runs. Raises HarnessError for items that are not those of the record.
    """
    groups = _by_task(scores, file)
    if groups is None:
        return None
    found = []
    for task, lines in groups.items():
        score = scores[task]
        name = chosen.get(task) or next((f for f, v in sorted(score.filters.items()) if v == score.value), "")
        starts = [line.partition(b"}")[0] for line in lines]
        known = {start: _verdict(start, name, file) for start in set(starts)}
        verdicts = [known[start] for start in starts]
        if len(verdicts) != score.n or sum(verdicts) != round(score.filters.get(name, -1) * score.n):
            raise HarnessError(f"items of {file}: not those that task {task!r} was scored on")
        found.append(verdicts)
    return found


def _by_task(scores: Mapping[str, TaskScore], file: Path) -> dict[str, list[bytes]] | None:
    tasks = sorted(scores)
    if beside(file).is_file():
        lines, groups, at = _lines(_unpacked(beside(file), LIMIT))[1:], {}, 0
        for task in tasks:
            groups[task] = lines[at : at + scores[task].n]
            at += scores[task].n
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
        return float(json.loads(start + b"}}")["correct"][name])
    except (ValueError, KeyError, TypeError):
        raise HarnessError(f"items of {file}: no verdict of filter {name!r}") from None
