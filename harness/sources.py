"""Rows of a suite's data sets as texts: read one after the other, named, filtered, divided and counted off."""

from __future__ import annotations

import hashlib
import heapq
import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple

import jinja2

from harness import hub, stock
from harness.errors import HarnessError
from harness.paths import digest
from harness.spec import Divide, Scored, Source
from harness.suite import Suite

JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
BUILDERS = {".jsonl": "json", ".json": "", ".parquet": "parquet", ".csv": "csv"}
FILES = ("*.parquet", "*.jsonl", "*.json", "*.csv", "README.md")
ALONE = re.compile(r"\{\{\s*(\w+)\s*\}\}")
BETWEEN = re.compile(r"[\s,\[\]]*")
BLOCK = 1 << 20  # characters of a JSON file that are read at a time
SLICE = re.compile(r"(.+?)\[(\d*):(\d*)\]")


class Text(NamedTuple):
    """One row: its task, what is asked, what is answered, and all of its fields as the data set has them."""

    task: str
    input: str
    target: str
    fields: Mapping[str, Any]


def read(suite: Suite, split: str, mirror: Path | None) -> Iterator[Text]:
    """The rows of a split of ours that `data.sources` give, in their order; the scoring tasks' for a test split of theirs.

    Raises HarnessError naming the data set, and the field that is not there.
    """
    if split == "test" and suite.scoring.tasks:
        yield from _scored(suite, mirror)
        return
    cap = suite.data.rows.get(split)
    found = (
        row
        for source in suite.data.sources
        for row in _texts(suite, source, split, mirror, {})
        if row.task in suite.tasks
    )
    yield from found if cap is None else _counted_off(found, cap)


def _scored(suite: Suite, mirror: Path | None) -> Iterator[Text]:
    for name, task in suite.scored.items():
        assert task.source is not None
        given: dict[str, Any] = {}
        if "description" in task.source.input and task.include:
            given["description"] = stock.config(stock.path(suite.folder, task.include)).get("description", "")
        found = (row._replace(task=name) for row in _texts(suite, task.source, "test", mirror, given))
        cap = task.source.rows
        yield from found if cap is None else _counted_off(found, cap)


def _counted_off(texts: Iterator[Text], most: int) -> Iterator[Text]:
    """At most so many rows of a task: those of the smallest hashes, in the order of the source."""
    kept: dict[str, list[tuple[int, int, Text]]] = {}
    for number, row in enumerate(texts):
        heap = kept.setdefault(row.task, [])
        entry = (-int(digest([row.input, row.target])[:16], 16), -number, row)
        if len(heap) < most:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    chosen = sorted((-number, row) for heap in kept.values() for _, number, row in heap)
    return (row for _, row in chosen)


def _texts(suite: Suite, source: Source, split: str, mirror: Path | None, given: Mapping[str, Any]) -> Iterator[Text]:
    """A source's rows of one of our splits, without those that `where` leaves out."""
    if (reads := source.reads(split)) is None:
        return
    mine = share(suite.data.divide, source, split) if not isinstance(source, Scored) else None
    say = _Says(suite.name, source)
    for fields in rows(suite, source, reads, mirror):
        known = {**given, **fields}
        if source.where is not None and not say.true(known):
            continue
        row = Text(say.text("task", known), say.text("input", known), say.text("target", known), fields)
        if mine is None or mine(say.key(suite.data.divide, row, known)):
            yield row


class _Says:
    """A source's texts over one row after the other; a mistake in them is one line."""

    def __init__(self, suite: str, source: Source) -> None:
        self.name = f"suite {suite}: data {source.hub or source.files!r}"
        self.source = source
        self._compiled = cache(self._compile)

    def text(self, key: str, fields: Mapping[str, Any]) -> str:
        return str(self._ask(key, fields, self._compiled(getattr(self.source, key), False)))

    def true(self, fields: Mapping[str, Any]) -> bool:
        assert self.source.where is not None
        return bool(self._ask("where", fields, self._compiled(self.source.where, True)))

    def key(self, divide: Divide | None, row: Text, fields: Mapping[str, Any]) -> str:
        if divide is None or not divide.by:
            return row.input
        return str(self._ask("divide.by", fields, self._compiled(divide.by, False)))

    def _compile(self, text: str, expression: bool) -> Any:
        """What turns a row's fields into the text. One field alone needs no template: that is most of the time."""
        if alone := ALONE.fullmatch(text):
            return itemgetter(alone[1])
        try:
            if expression:
                return JINJA.compile_expression(text, undefined_to_none=False)
            return JINJA.from_string(text).render
        except jinja2.TemplateError as error:
            raise HarnessError(f"{self.name}: {text!r}: {error}") from None

    def _ask(self, key: str, fields: Mapping[str, Any], ask: Callable[..., Any]) -> Any:
        try:
            return ask(fields)
        except (jinja2.TemplateError, TypeError, ValueError, LookupError) as error:
            raise HarnessError(f"{self.name}: {key}: {error}; its fields: {', '.join(sorted(fields))}") from None


def share(divide: Divide | None, source: Source, split: str) -> Callable[[str], bool] | None:
    """Whether a row goes to this split of ours, where several are made of one split of the source; None: every row."""
    ours = [s for s in ("test", "validation", "train") if source.reads(s) == source.reads(split)]
    if divide is None or len(ours) == 1:
        return None
    parts = {"test": divide.test, "validation": divide.validation}
    start = sum(parts.get(s, 0.0) for s in ours[: ours.index(split)])
    end = start + parts[split] if split in parts else 1.0
    return lambda key: start <= _unit(key) < end


def _unit(key: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:13], 16) / 16**13


def place(suite: Suite, source: Source, mirror: Path | None) -> Path:
    """The folder of a source's files, fetched if need be."""
    if source.hub is None:
        return suite.folder
    patterns: tuple[str, ...] = FILES
    if source.files:
        file = source.files.partition("::")[0].replace("{split}", "*")
        patterns = tuple(file.replace("{config}", c) for c in source.config or ("*",))
    return hub.folder("datasets", source.hub, patterns, mirror, source.revision)


def rows(suite: Suite, source: Source, split: str, mirror: Path | None) -> Iterator[dict[str, Any]]:
    """A source's own rows, streamed: nothing is copied into a cache, so a changed file is always read again."""
    folder = place(suite, source, mirror)
    match = SLICE.fullmatch(split)
    name, first, last = match.groups() if match else (split, "", "")
    for config in source.config or ("",):
        try:
            table = _table(folder, source, config, name)
            for row in islice(table, int(first or 0), int(last) if last else None):
                yield {"config": config, **row}
        except HarnessError:
            raise
        except Exception as error:  # the library raises a dozen kinds for "not there"
            reason = hub.whole(str(error), 160)
            raise HarnessError(
                f"data {source.hub or source.files!r}: not to be had ({reason})"
                + (f"; --mirror DIR looks in DIR/datasets/{source.hub} first" if source.hub else "")
            ) from None


def _table(folder: Path, source: Source, config: str, split: str) -> Any:
    import datasets

    datasets.disable_progress_bars()
    if source.files is None:
        return datasets.load_dataset(str(folder), config or None, split=split, streaming=True)
    file, _, member = source.files.replace("{config}", config).replace("{split}", split).partition("::")
    suffix = Path(member or file).suffix
    if suffix not in BUILDERS:
        raise HarnessError(f"{source.files!r} is none of {', '.join(BUILDERS)}")
    if suffix == ".json":
        return _objects(folder, file, member)
    path = f"zip://{member}::{folder / file}" if member else str(folder / file)
    return datasets.load_dataset(BUILDERS[suffix], data_files={"rows": path}, split="rows", streaming=True)


def _objects(folder: Path, file: str, member: str) -> Iterator[dict[str, Any]]:
    """Rows of JSON files, of an archive's member if one is named. `datasets` would hold a whole array in memory."""
    if not (found := sorted(folder.glob(file))):
        raise FileNotFoundError(f"no file {file}")
    for path in found:
        if not member:
            with path.open(encoding="utf-8") as text:
                yield from _decoded(text)
            continue
        with zipfile.ZipFile(path) as archive, archive.open(member) as raw:
            yield from _decoded(io.TextIOWrapper(raw, encoding="utf-8"))


def _decoded(text: IO[str]) -> Iterator[dict[str, Any]]:
    """The objects of an array, or of lines, one after the other."""
    decoder, buffer, at = json.JSONDecoder(), "", 0
    while True:
        at = BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]  # it matches the empty text
        try:
            row, at = decoder.raw_decode(buffer, at)
        except ValueError:
            if not (more := text.read(BLOCK)):
                if buffer[at:]:
                    raise
                return
            buffer, at = buffer[at:] + more, 0
            continue
        if not isinstance(row, dict):
            raise TypeError(f"expected objects, found {type(row).__name__}")
        yield row


def check(suite: Suite) -> None:
    """Refuse sources of which no row can be for test, or of which test has the rows that are trained on.

    The test split itself is read when all training is done.
    """
    if not suite.data.sources or suite.scoring.tasks:
        return
    shares = [_test_share(suite, source) for source in suite.data.sources]
    if not any(shares):
        raise HarnessError(
            f"suite {suite.name}: no source gives rows to test: name its split, or give divide.test a share"
        )


def _test_share(suite: Suite, source: Source) -> float:
    """The share of what a source reads for test that goes there."""
    mine, divide = source.reads("test"), suite.data.divide
    if mine is None or mine not in (source.reads("train"), source.reads("validation")):
        return float(mine is not None)
    if divide is None:
        name = source.hub or source.files
        raise HarnessError(
            f"suite {suite.name}: data {name!r}: test is read from split {mine!r}, as others are: give divide.test a share"
        )
    return divide.test


def fetch(suite: Suite, mirror: Path | None) -> dict[str, str | None]:
    """Have the files of every source at hand, those of the scoring tasks too; the revisions that they are of, None of a mirror.

    A gated or missing test set is found out here, not when all training is done.
    """
    found: dict[str, str | None] = {}
    for source in every(suite):
        if source.hub:
            found[source.hub] = hub.revision_of(place(suite, source, mirror))
    return found


def every(suite: Suite) -> list[Source]:
    """All sources of a suite; of a hub dataset that `ids` divides, one."""
    whole = [Source(hub=suite.data.hub, revision=suite.data.revision, input="", target="")] if suite.data.hub else []
    return [*whole, *suite.data.sources, *(t.source for t in suite.scored.values() if t.source is not None)]
