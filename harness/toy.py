"""The small suite and the tiny random model that `harness check` makes for itself: three tasks, 48 training examples.

A `Toy` is a suite in memory, so that its other forms - tasks in reverse order, one task alone - are a line each. A suite
file of one's own is read into the same form, cut to a few rows a task.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from harness.data import Row, load_rows
from harness.errors import HarnessError
from harness.paths import asset
from harness.suite import load_suite

ROWS = {"train": (24, 16, 8), "validation": (6, 5, 4)}
FIRST = {"train": 0, "validation": 1000}
KEPT = {"train": 24, "validation": 6}  # rows a task of another suite
TEST = "test.jsonl"
SPEC: dict[str, Any] = {
    "name": "toy",
    "title": "Toy",
    "source": "made by harness check",
    "data": {"files": "{split}.jsonl"},
    "template": {"prompt": "Q: {{input}}\nA:", "completion": " {{target}}"},
    "tasks": {"copy": {"signal": "loss"}, "flip": {"signal": "loss"}, "next": {"signal": "loss"}},
    "train": {"epochs": 4, "effective_batch": 4, "max_length": 64, "lr": 0.003, "lr_grid": [0.003]},
    "look": {"items": 4, "points": 4},
    "scoring": {"max_new_tokens": 6},
}


@dataclass(frozen=True)
class Toy:
    """A suite's file, and its rows as (task, input, target) by split. The test split is a decoy: nobody is to read it."""

    spec: dict[str, Any]
    rows: dict[str, list[tuple[str, str, str]]]

    def backwards(self) -> Toy:
        """The same suite with its tasks written down in reverse order; rows within a task stay as they are."""
        tasks = list(self.spec["tasks"])[::-1]
        rows = {split: sorted(rows, key=lambda r: tasks.index(r[0])) for split, rows in self.rows.items()}
        return Toy(self.spec | {"tasks": {t: self.spec["tasks"][t] for t in tasks}}, rows)

    def alone(self) -> Toy:
        """The first task by itself."""
        task = min(self.spec["tasks"])
        rows = {split: [r for r in rows if r[0] == task] for split, rows in self.rows.items()}
        return replace(self, spec=self.spec | {"tasks": {task: self.spec["tasks"][task]}}, rows=rows)

    def write(self, folder: Path) -> Path:
        """The suite's file below `folder`, with its data beside it."""
        folder.mkdir(parents=True)
        for split, rows in self.rows.items():
            (folder / f"{split}.jsonl").write_text(_lines(rows), encoding="utf-8")
        (folder / TEST).write_text(_lines([(t, "decoy", "decoy") for t in self.spec["tasks"]]), encoding="utf-8")
        path = folder / f"{self.spec['name']}.yaml"
        path.write_text(yaml.safe_dump(self.spec, sort_keys=False), encoding="utf-8")
        return path


def _lines(rows: Iterable[tuple[str, str, str]]) -> str:
    return "".join(json.dumps({"task": t, "input": i, "target": o}, ensure_ascii=False) + "\n" for t, i, o in rows)


def own() -> Toy:
    """Three tasks of short copies, reversals and sums; the splits differ in their numbers."""
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for split, counts in ROWS.items():
        rows[split] = []
        for task, count in zip(SPEC["tasks"], counts, strict=True):
            for k in range(count):
                x = FIRST[split] + 7 * k + 13
                answer = {"copy": str(x), "flip": str(x)[::-1], "next": str(x + 1)}[task]
                rows[split].append((task, f"{task} {x}" + " cat dog" * (k % 4), answer))
    return Toy(SPEC, rows)


def of_suite(name: str) -> Toy:
    """The first rows of another suite. Raises HarnessError for one whose data lie on a hub."""
    suite = load_suite(name)
    if suite.data.files is None:
        raise HarnessError(f"check: suite {suite.name!r} has its data on a hub; give one with files of its own")
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for split, kept in KEPT.items():
        found: dict[str, list[Row]] = load_rows(suite, split)
        rows[split] = [(r.task, r.input, r.target) for group in found.values() for r in group[:kept]]
    spec = suite.model_dump(mode="json")
    spec["data"] = {"files": "{split}.jsonl"}
    return Toy(spec, rows)


def make_model(folder: Path) -> None:
    """A random Qwen2 of about 20,000 parameters with the embedded tokenizer."""
    import torch
    import transformers as tf

    tokenizer = tf.AutoTokenizer.from_pretrained(asset("suites") / "pocket" / "model")
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    config = tf.Qwen2Config(
        vocab_size=len(tokenizer),
        eos_token_id=end,
        pad_token_id=end,
        bos_token_id=None,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    kind: Any = tf.Qwen2ForCausalLM
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
