"""lm-eval's side of a suite: the task files that it reads, and our items and scores from its samples.

A stock task keeps its prompt and filters and gets the suite's held-out rows; a suite's own task gets its template.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.data import Row
from harness.errors import HarnessError
from harness.flops import Arch
from harness.paths import digest, write_atomic
from harness.suite import Suite


def max_new_tokens(suite: Suite) -> int:
    return max(task.max_new_tokens or suite.scoring.max_new_tokens for task in suite.tasks.values())


def write_tasks(suite: Suite, test: Mapping[str, list[Row]], raw: Path) -> dict[str, str]:
    """One lm-eval task file and one data file a task; returns lm-eval's task name -> ours."""
    import lm_eval
    import yaml

    names = {}
    (raw / "tasks").mkdir(exist_ok=True)
    (raw / "data").mkdir(exist_ok=True)
    for task, rows in test.items():
        data = raw / "data" / f"{task}.jsonl"
        lines = [{"id": r.id, "input": r.input, "target": r.target, "prompt": r.prompt} for r in rows]
        write_atomic(data, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        name = f"harness_{suite.name}_{task}"
        until = list(suite.scoring.until)
        limit = suite.tasks[task].max_new_tokens or suite.scoring.max_new_tokens
        config: dict[str, Any] = {
            "task": name,
            "dataset_path": "json",
            "dataset_name": f"{suite.name}_{task}",
            "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(raw / "cache")},
            "test_split": "test",
            "generation_kwargs": {"until": until, "max_gen_toks": limit, "do_sample": False, "temperature": 0.0},
        }
        if suite.scoring.include:
            stock = Path(lm_eval.__file__).parent / "tasks" / suite.scoring.include.format(task=task)
            config = {"include": str(stock)} | config
        else:
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


def task_items(
    suite: Suite, task: str, rows: list[Row], samples: list[Any], tokenizer: Any, arch: Arch
) -> tuple[list[dict[str, Any]], int, int]:
    """Our items of one task in the order of its rows, the FLOPs of their generation, and the tokens.

    Refuses prompts that differ from the suite's template: then training and scoring would not share them.
    """
    by_id: dict[str, dict[str, Any]] = {}
    limit = suite.tasks[task].max_new_tokens or suite.scoring.max_new_tokens
    flops = tokens = 0
    prompts = {row.id: row.prompt for row in rows}
    for sample in samples:
        row_id = sample["doc"]["id"]
        prompt, response = sample["arguments"][0][0], sample["resps"][0][0]
        if prompt != prompts[row_id]:
            raise HarnessError(f"item {row_id}: lm-eval's prompt differs from the suite's template")
        item = by_id.get(row_id)
        if item is None:
            n = len(tokenizer(response, add_special_tokens=False)["input_ids"])
            given = len(tokenizer(prompt)["input_ids"])
            flops += arch.generate(given, min(limit, n + 1))
            tokens += given + min(limit, n + 1)
            doc = sample["doc"]
            item = by_id[row_id] = {
                "id": row_id,
                "item_sha256": digest([doc["input"], doc["target"]]),
                "prompt_sha256": digest(prompt),
                "target": doc["target"],
                "response": response,
                "truncated": n >= limit,
                "filtered": {},
                "correct": {},
            }
        item["filtered"][sample["filter"]] = sample["filtered_resps"][0]
        item["correct"][sample["filter"]] = bool(sample["exact_match"])
    return [by_id[row.id] for row in rows], flops, tokens


def summarise(items: list[dict[str, Any]], chosen: str) -> dict[str, Any]:
    """The record's score of one task from its items: share correct under the chosen filter, and under every other."""
    n = len(items)
    means = {f: sum(i["correct"][f] for i in items) / n for f in sorted(items[0]["correct"])}
    if chosen not in means:
        raise HarnessError(f"scoring.filter {chosen!r} is not one of the task's filters: {', '.join(means)}")
    value = means[chosen]
    return {
        "metric": "exact_match",
        "value": value,
        "stderr": math.sqrt(value * (1 - value) / max(1, n - 1)),
        "n": n,
        "truncated": sum(i["truncated"] for i in items),
        "filters": means,
    }
