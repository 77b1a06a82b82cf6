"""Rows of a suite's splits, rendered by its template and tokenised as the scorer will tokenise them.

Prompt and completion are tokenised apart and their ids joined, because at scoring time the model continues the ids of
the prompt alone. The test split is read by the scoring process only.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2

from harness import sources
from harness.errors import HarnessError
from harness.paths import canonical
from harness.spec import Source
from harness.suite import Suite

Raw = dict[str, list[sources.Text]]
BATCH = 1000  # texts tokenised at a time: the library keeps offsets of all of them


@dataclass(frozen=True)
class Row:
    """One item as text. `id` is `task/index`, with `v:` in front for validation and `t:` for test.

    `fields` are those of the data set, for scoring tasks with rows of their own: lm-eval's task reads them.
    """

    id: str
    task: str
    input: str
    target: str
    prompt: str
    completion: str
    fields: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class Item:
    """One tokenised item: `ids` of T tokens, of which the last `supervised` (completion and EOS) carry the loss."""

    id: str
    task: str
    ids: tuple[int, ...]
    supervised: int

    @property
    def tokens(self) -> int:
        """Positions that the model is run on: the last token predicts nothing."""
        return len(self.ids) - 1


def load_rows(suite: Suite, split: str, mirror: Path | None = None, limit: int | None = None) -> dict[str, list[Row]]:
    """The rows of a split by task, in the source's order. Raises HarnessError for a split that cannot be used."""
    raw = _raw(suite, split, mirror)
    pinned = suite.data.sha256.get(split)
    found = content_digest({task: [(r.input, r.target) for r in rows] for task, rows in raw.items()})
    if pinned and pinned != found:
        raise HarnessError(
            f"suite {suite.name}: the {split} split is not the data that the suite pins "
            f"(sha256 {found[:12]}, pinned {pinned[:12]})"
        )
    template = {key: _template(suite, key) for key in ("prompt", "completion")}
    prefix = {"train": "", "validation": "v:", "test": "t:"}[split]
    foreign = split == "test" and bool(suite.scoring.tasks)
    rows: dict[str, list[Row]] = {}
    for task in sorted(suite.scored if foreign else suite.tasks):
        _usable(suite, task, split, raw.get(task, []))
        rows[task] = []
        before = "" if foreign else suite.tasks[task].prefix
        for i, one in enumerate(raw[task][:limit]):
            fields = {"input": one.input, "target": one.target, "prefix": before}
            texts = {key: _render(suite, key, t, fields) for key, t in template.items()}
            row = Row(
                f"{prefix}{task}/{i}", task, one.input, one.target, **texts, fields=one.fields if foreign else None
            )
            rows[task].append(row)
    return rows


def seen(suite: Suite, mirror: Path | None = None, limit: int | None = None) -> Iterator[tuple[str, str]]:
    """(input, target) of every row that is trained or validated on; unrendered, and not all in memory at once."""
    for split in ("train", "validation"):
        counts: Counter[str] = Counter()
        rows = (
            sources.read(suite, split, mirror)
            if suite.data.sources
            else (row for group in _raw(suite, split, mirror).values() for row in group)
        )
        for row in rows:
            counts[row.task] += 1
            if limit is None or counts[row.task] <= limit:
                yield row.input, row.target


def _raw(suite: Suite, split: str, mirror: Path | None) -> Raw:
    if suite.data.files and not (split == "test" and suite.scoring.tasks):
        return _from_files(suite, split)
    if suite.data.hub and not (split == "test" and suite.scoring.tasks):
        return _from_hub(suite, split, mirror)
    raw: Raw = {}
    for row in sources.read(suite, split, mirror):
        raw.setdefault(row.task, []).append(row)
    return raw


def _template(suite: Suite, key: str) -> jinja2.Template:
    try:
        return sources.JINJA.from_string(getattr(suite.template, key))
    except jinja2.TemplateError as error:
        raise HarnessError(f"suite {suite.name}: template.{key}: {error}") from None


def _render(suite: Suite, key: str, template: jinja2.Template, fields: Mapping[str, str]) -> str:
    try:
        return template.render(fields)
    except jinja2.TemplateError as error:
        raise HarnessError(f"suite {suite.name}: template.{key}: {error}; known: {', '.join(fields)}") from None


def content_digest(rows: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """sha256 of (task, input, target) of all rows: where they came from does not matter, what they say does.

    It is that of the canonical JSON of {task: [[input, target], ...]}, without that text in memory.
    """
    found = hashlib.sha256()
    for start, task in zip(["{", *"," * len(rows)], sorted(rows), strict=False):
        found.update(f"{start}{canonical(task)}:".encode())
        mark = "["
        for pair in rows[task]:
            found.update((mark + canonical(list(pair))).encode())
            mark = ","
        found.update(b"]" if mark == "," else b"[]")
    found.update(b"}" if rows else b"{}")
    return found.hexdigest()


def _usable(suite: Suite, task: str, split: str, rows: list[sources.Text]) -> None:
    if not rows:
        raise HarnessError(f"suite {suite.name}: task {task!r} has an empty {split} split")
    if len(rows) > 1 and len({(r.input, r.target) for r in rows}) == 1:
        raise HarnessError(
            f"suite {suite.name}: the {split} split of task {task!r} is one row repeated {len(rows)} times"
        )


def check_disjoint(suite: Suite, train: Mapping[str, list[Row]], validation: Mapping[str, list[Row]]) -> None:
    """Refuse a task whose validation rows are all training rows: looking at it would measure memory."""
    for task, rows in validation.items():
        seen = {(r.input, r.target) for r in train.get(task, [])}
        if all((r.input, r.target) in seen for r in rows):
            raise HarnessError(f"suite {suite.name}: every validation row of task {task!r} is also a training row")


def _from_files(suite: Suite, split: str) -> Raw:
    path = suite.folder / str(suite.data.files).replace("{split}", split)
    rows: Raw = {}
    try:
        for number, found in enumerate(_parquet(path) if path.suffix == ".parquet" else _lines(path), 1):
            if found is not None:
                _add(rows, found, f"{path.name}:{number}")
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise HarnessError(f"suite {suite.name}: {split} data: {reason}: {path.name}") from None
    strangers = sorted(set(rows) - set(suite.tasks))
    if strangers:
        raise HarnessError(f"suite {suite.name}: {path.name} has rows of task {strangers[0]!r}, which the suite lacks")
    return rows


def _lines(path: Path) -> Iterator[Any]:
    """A JSONL file's lines; None for empty ones, and what is not JSON as its text."""
    with path.open(encoding="utf-8") as handle:
        for line in handle:
            try:
                yield json.loads(line) if line.strip() else None
            except ValueError:
                yield line


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise HarnessError(f"{path.name}: {' '.join(str(error).split())[:120]}") from None


def _add(rows: Raw, row: Any, where: str) -> None:
    try:
        task, source, target = row["task"], row["input"], row["target"]
        if not all(isinstance(x, str) for x in (task, source, target)):
            raise TypeError
    except (KeyError, TypeError):
        raise HarnessError(
            f"{where}: expected a JSON object (or parquet row) with the strings 'task', 'input' and 'target'"
        ) from None
    rows.setdefault(task, []).append(sources.Text(task, source, target, {}))


def _from_hub(suite: Suite, split: str, mirror: Path | None) -> Raw:
    """Rows of a hub dataset at the indices that the suite's id file names."""
    ids = json.loads((suite.folder / str(suite.data.ids)).read_text(encoding="utf-8"))
    tables = hub_rows(suite, mirror)
    strayed = [t for t, table in tables.items() if max(ids[t][split], default=-1) >= len(table)]
    if strayed:
        raise HarnessError(
            f"data {suite.data.hub!r}: task {strayed[0]!r} has {len(tables[strayed[0]])} rows, fewer than the id list names"
        )
    return {t: [sources.Text(t, table[i][0], table[i][1], {}) for i in ids[t][split]] for t, table in tables.items()}


def hub_rows(suite: Suite, mirror: Path | None) -> dict[str, list[tuple[str, str]]]:
    """All rows by task of the suite's hub dataset, or of its copy below DIR/datasets."""
    spec = suite.data
    rows: dict[str, list[tuple[str, str]]] = {}
    for task in sorted(suite.tasks):
        one = Source(
            hub=spec.hub,
            revision=spec.revision,
            config=(spec.config.format(task=task),),
            split=spec.split,
            input="{{input}}",
            target="{{target}}",
        )
        rows[task] = [(row["input"], row["target"]) for row in sources.rows(suite, one, spec.split, mirror)]
    return rows


def tokenise(
    tokenizer: Any, rows: Mapping[str, list[Row]], max_length: int, cut: bool = False
) -> dict[str, list[Item]]:
    """Items by task. A prompt that does not fit is cut on the left; a completion that does not fit is an error.

    With `cut` it ends where the room does, and then without EOS: half of the room is the prompt's if it needs that much.
    """
    items: dict[str, list[Item]] = {}
    shared: dict[int, int] = {}  # one object a token id: four fifths of what millions of tokens would take
    for task, group in rows.items():
        items[task] = []
        for part in (group[i : i + BATCH] for i in range(0, len(group), BATCH)):
            prompts = tokenizer([r.prompt for r in part])["input_ids"]
            completions = tokenizer([r.completion for r in part], add_special_tokens=False)["input_ids"]
            for row, prompt, completion in zip(part, prompts, completions, strict=True):
                target = [*completion, tokenizer.eos_token_id]
                if cut:
                    target = target[: max_length - min(len(prompt), max_length // 2)]
                room = max_length - len(target)
                if room < 1:
                    raise HarnessError(
                        f"row {row.id}: its completion has {len(target)} tokens, max_length is {max_length}"
                    )
                ids = tuple(shared.setdefault(i, i) for i in prompt[-room:] + target)
                items[task].append(Item(row.id, task, ids, len(target)))
    return items
