"""lm-eval's side of a suite: the task files that it reads, and our items and scores from its samples.

A stock task keeps its filters and metrics and gets the suite's held-out rows; its prompt too, unless the suite's template
is what is trained on. A suite's own task gets its template.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness import stock
from harness.data import Row
from harness.errors import HarnessError
from harness.flops import Arch
from harness.paths import digest, write_atomic
from harness.suite import Suite


def max_new_tokens(suite: Suite) -> int:
    return max(task.max_new_tokens for task in suite.scored.values())


def without_room(suite: Suite, config: Mapping[str, Any]) -> str | None:
    """Why an engine that ends where the model's positions do cannot give the suite's longest answers; None: it can."""
    longest, room = max_new_tokens(suite), positions(config)
    if room is None or longest < room:
        return None
    return f"suite {suite.name} lets answers have {longest:,} tokens, the model has {room:,} positions"


def positions(config: Mapping[str, Any]) -> int | None:
    """How many tokens a model is made for, prompt and answer together; None where its configuration does not say."""
    found = config.get("max_position_embeddings") or config.get("n_positions")
    return None if found is None else int(found)


def write_tasks(suite: Suite, test: Mapping[str, list[Row]], raw: Path) -> dict[str, str]:
    """One lm-eval task file and one data file a task; returns lm-eval's task name -> ours."""
    import yaml

    names = {}
    (raw / "tasks").mkdir(exist_ok=True)
    (raw / "data").mkdir(exist_ok=True)
    for task, rows in test.items():
        data = raw / "data" / f"{task}.jsonl"
        write_atomic(data, "".join(json.dumps(_doc(r), ensure_ascii=False, default=str) + "\n" for r in rows))
        name = f"harness_{suite.name}_{task}"
        how = suite.scored[task]
        config: dict[str, Any] = {
            "task": name,
            "dataset_path": "json",
            "dataset_name": f"{suite.name}_{task}",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(raw / "cache")},
            "test_split": "test",
            "generation_kwargs": {
                "until": list(how.until),
                "max_gen_toks": how.max_new_tokens,
                "do_sample": False,
                "temperature": 0.0,
            },
        }
        if how.include:
            config = {"include": str(stock.path(suite.folder, how.include))} | config
        if how.source is not None:
            config |= OURS
        if not how.include:
            config |= {
                "output_type": "generate_until",
                "doc_to_text": "{{prompt}}",
                "doc_to_target": "{{target}}",
                "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
                "filter_list": [
                    {"name": "exact", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}
                ],
            }
        write_atomic(raw / "tasks" / f"{name}.yaml", yaml.safe_dump(config, sort_keys=False))
        names[name] = task
    return names


# What a stock task loses when its rows and prompt are the suite's: other splits, examples in the prompt, a description.
OURS = {
    "doc_to_text": "{{prompt}}",
    "description": "",
    "num_fewshot": 0,
    "training_split": None,
    "validation_split": None,
    "fewshot_split": None,
}


def _doc(row: Row) -> dict[str, Any]:
    """A row as lm-eval's task reads it: the data set's own fields, if the task has rows of its own, and the prompt."""
    return (
        {"id": row.id, "input": row.input, "target": row.target}
        | dict(row.fields or {})
        | {
            "id": row.id,
            "prompt": row.prompt,
        }
    )


def task_items(
    suite: Suite, task: str, rows: list[Row], samples: list[Any], tokenizer: Any, arch: Arch
) -> tuple[list[dict[str, Any]], int, int]:
    """Our items of one task in the order of its rows, the FLOPs of their generation, and the tokens.

    Refuses prompts that differ from the suite's template: then training and scoring would not share them.
    """
    by_id: dict[str, dict[str, Any]] = {}
    how = suite.scored[task]
    limit, flops, tokens = how.max_new_tokens, 0, 0
    known = {row.id: row for row in rows}
    for sample in samples:
        row_id = sample["doc"]["id"]
        prompt, response = sample["arguments"][0][0], sample["resps"][0][0]
        row = known[row_id]
        if prompt != row.prompt:
            raise HarnessError(f"item {row_id}: lm-eval's prompt differs from the suite's template")
        item = by_id.get(row_id)
        if item is None:
            n = len(tokenizer(response, add_special_tokens=False)["input_ids"])
            given = len(tokenizer(prompt)["input_ids"])
            flops += arch.generate(given, min(limit, n + 1))
            tokens += given + min(limit, n + 1)
            item = by_id[row_id] = {
                "id": row_id,
                "item_sha256": digest([row.input, row.target]),
                "prompt_sha256": digest(prompt),
                "target": row.target,
                "response": response,
                "truncated": n >= limit,
                "filtered": {},
                "correct": {},
            }
        filtered = sample["filtered_resps"]
        item["filtered"][sample["filter"]] = filtered[0] if isinstance(filtered, list) else filtered
        item["correct"][sample["filter"]] = _verdict(task, how.metric, sample)
    return [by_id[row.id] for row in rows], flops, tokens


def _verdict(task: str, metric: str, sample: Mapping[str, Any]) -> bool:
    """Whether the item is right under the task's metric, which must say 0 or 1 of each item."""
    if metric not in sample:
        raise HarnessError(f"scoring.metric {metric!r} is not one of task {task!r}'s")
    if sample[metric] not in (0, 1):
        raise HarnessError(f"scoring.metric {metric!r} of task {task!r} says {sample[metric]!r} of an item, not 0 or 1")
    return bool(sample[metric])


def summarise(items: list[dict[str, Any]], chosen: str, metric: str = "exact_match") -> dict[str, Any]:
    """The record's score of one task from its items: share correct under the chosen filter, and under every other."""
    n = len(items)
    means = {f: sum(i["correct"][f] for i in items) / n for f in sorted(items[0]["correct"])}
    if chosen not in means:
        raise HarnessError(f"scoring.filter {chosen!r} is not one of the task's filters: {', '.join(means)}")
    value = means[chosen]
    return {
        "metric": metric,
        "value": value,
        "stderr": math.sqrt(value * (1 - value) / max(1, n - 1)),
        "n": n,
        "truncated": sum(i["truncated"] for i in items),
        "filters": means,
    }


def others(results: Mapping[str, Any], suite: Suite, task: str) -> dict[str, float]:
    """What lm-eval's results say of a task beside the metric that is its score, under the chosen filter."""
    how = suite.scored[task]
    found = {}
    for key, value in results.get(f"harness_{suite.name}_{task}", {}).items():
        metric, _, filtered = key.partition(",")
        said = filtered == how.filter and metric != how.metric and not metric.endswith("_stderr")
        if said and isinstance(value, int | float) and math.isfinite(value):
            found[metric] = float(value)
    return found
