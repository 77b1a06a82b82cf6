"""Rows of a suite's splits, rendered by its template and tokenised as the scorer will tokenise them.

Prompt and completion are tokenised apart and their ids joined, because at scoring time the model continues the ids of
the prompt alone. The test split is read by the scoring process only.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from harness.errors import HarnessError
from harness.paths import digest
from harness.suite import Suite

_JINJA = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)


@dataclass(frozen=True)
class Row:
    """One item as text. `id` is `task/index`, with `v:` in front for validation and `t:` for test."""

    id: str
    task: str
    input: str
    target: str
    prompt: str
    completion: str


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
    raw = _from_files(suite, split) if suite.data.files else _from_hub(suite, split, mirror)
    pinned = suite.data.sha256.get(split)
    found = content_digest(raw)
    if pinned and pinned != found:
        raise HarnessError(
            f"suite {suite.name}: the {split} split is not the data that the suite pins "
            f"(sha256 {found[:12]}, pinned {pinned[:12]})"
        )
    template = {key: _template(suite, key) for key in ("prompt", "completion")}
    prefix = {"train": "", "validation": "v:", "test": "t:"}[split]
    rows: dict[str, list[Row]] = {}
    for task in sorted(suite.tasks):
        _usable(suite, task, split, raw.get(task, []))
        rows[task] = []
        for i, (source, target) in enumerate(raw[task][:limit]):
            fields = {"input": source, "target": target, "prefix": suite.tasks[task].prefix}
            texts = {key: _render(suite, key, t, fields) for key, t in template.items()}
            rows[task].append(Row(f"{prefix}{task}/{i}", task, source, target, **texts))
    return rows


def _template(suite: Suite, key: str) -> jinja2.Template:
    try:
        return _JINJA.from_string(getattr(suite.template, key))
    except jinja2.TemplateError as error:
        raise HarnessError(f"suite {suite.name}: template.{key}: {error}") from None


def _render(suite: Suite, key: str, template: jinja2.Template, fields: Mapping[str, str]) -> str:
    try:
        return template.render(fields)
    except jinja2.TemplateError as error:
        raise HarnessError(f"suite {suite.name}: template.{key}: {error}; known: {', '.join(fields)}") from None


def content_digest(rows: Mapping[str, Iterable[tuple[str, str]]]) -> str:
    """sha256 of (task, input, target) of all rows: where they came from does not matter, what they say does."""
    return digest({task: [list(pair) for pair in pairs] for task, pairs in rows.items()})


def _usable(suite: Suite, task: str, split: str, rows: list[tuple[str, str]]) -> None:
    if not rows:
        raise HarnessError(f"suite {suite.name}: task {task!r} has an empty {split} split")
    if len(rows) > 1 and len(set(rows)) == 1:
        raise HarnessError(
            f"suite {suite.name}: the {split} split of task {task!r} is one row repeated {len(rows)} times"
        )


def check_disjoint(suite: Suite, train: Mapping[str, list[Row]], validation: Mapping[str, list[Row]]) -> None:
    """Refuse a task whose validation rows are all training rows: looking at it would measure memory."""
    for task, rows in validation.items():
        seen = {(r.input, r.target) for r in train.get(task, [])}
        if all((r.input, r.target) in seen for r in rows):
            raise HarnessError(f"suite {suite.name}: every validation row of task {task!r} is also a training row")


def _from_files(suite: Suite, split: str) -> dict[str, list[tuple[str, str]]]:
    path = suite.folder / str(suite.data.files).replace("{split}", split)
    rows: dict[str, list[tuple[str, str]]] = {}
    try:
        with path.open(encoding="utf-8") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    _add(rows, line, f"{path.name}:{number}")
    except OSError as error:
        raise HarnessError(f"suite {suite.name}: {split} data: {error.strerror}: {path.name}") from None
    strangers = sorted(set(rows) - set(suite.tasks))
    if strangers:
        raise HarnessError(f"suite {suite.name}: {path.name} has rows of task {strangers[0]!r}, which the suite lacks")
    return rows


def _add(rows: dict[str, list[tuple[str, str]]], line: str, where: str) -> None:
    try:
        row = json.loads(line)
        task, source, target = row["task"], row["input"], row["target"]
        if not all(isinstance(x, str) for x in (task, source, target)):
            raise TypeError
    except (ValueError, KeyError, TypeError):
        raise HarnessError(f"{where}: expected a JSON object with the strings 'task', 'input' and 'target'") from None
    rows.setdefault(task, []).append((source, target))


def _from_hub(suite: Suite, split: str, mirror: Path | None) -> dict[str, list[tuple[str, str]]]:
    """Rows of a hub dataset at the indices that the suite's id file names."""
    ids = json.loads((suite.folder / str(suite.data.ids)).read_text(encoding="utf-8"))
    tables = hub_rows(suite, mirror)
    strayed = [t for t, table in tables.items() if max(ids[t][split], default=-1) >= len(table)]
    if strayed:
        raise HarnessError(
            f"data {suite.data.hub!r}: task {strayed[0]!r} has {len(tables[strayed[0]])} rows, fewer than the id list names"
        )
    return {task: [table[i] for i in ids[task][split]] for task, table in tables.items()}


def hub_rows(suite: Suite, mirror: Path | None) -> dict[str, list[tuple[str, str]]]:
    """All rows by task of the suite's hub dataset, or of its copy below DIR/datasets."""
    import datasets

    datasets.disable_progress_bars()
    hub, spec = str(suite.data.hub), suite.data
    local = mirror / "datasets" / hub if mirror else None
    copied = local is not None and local.is_dir()
    rows: dict[str, list[tuple[str, str]]] = {}
    # The library's cache knows a folder by its name, not by what is in it: a mirror that changed would not be read again.
    with tempfile.TemporaryDirectory() if copied else nullcontext() as cache:
        for task in sorted(suite.tasks):
            try:
                table = datasets.load_dataset(
                    str(local) if copied else hub,
                    spec.config.format(task=task),
                    split=spec.split,
                    revision=None if copied else spec.revision,
                    cache_dir=cache,
                    keep_in_memory=copied,
                )
            except Exception as error:  # the library raises a dozen kinds for "not there"
                reason = " ".join(str(error).split())[:160]
                raise HarnessError(
                    f"data {hub!r}: not to be had ({reason}); --mirror DIR looks in DIR/datasets/{hub} first"
                ) from None
            rows[task] = [(row["input"], row["target"]) for row in table]
    return rows


def tokenise(tokenizer: Any, rows: Mapping[str, list[Row]], max_length: int) -> dict[str, list[Item]]:
    """Items by task. A prompt that does not fit is cut on the left; a completion that does not fit is an error."""
    eos = tokenizer.eos_token_id
    items: dict[str, list[Item]] = {}
    for task, group in rows.items():
        prompts = tokenizer([r.prompt for r in group])["input_ids"]
        completions = tokenizer([r.completion for r in group], add_special_tokens=False)["input_ids"]
        items[task] = []
        for row, prompt, completion in zip(group, prompts, completions, strict=True):
            target = [*completion, eos]
            room = max_length - len(target)
            if room < 1:
                raise HarnessError(f"row {row.id}: its completion has {len(target)} tokens, max_length is {max_length}")
            items[task].append(Item(row.id, task, tuple(prompt[-room:] + target), len(target)))
    return items
