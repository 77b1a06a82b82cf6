"""Grade the responses of a record again: the suite's own test rows, lm-eval's own filters and metric, no model."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from harness import stock
from harness.data import Row, content_digest, load_rows
from harness.errors import HarnessError
from harness.items import Items
from harness.paths import digest
from harness.privacy import short
from harness.provenance import suite_of
from harness.record import Record
from harness.suite import Suite


def regrade(record: Record, items: Items, mirror: Path | None = None) -> tuple[list[tuple[str, str]], str | None]:
    """What differs, and why nothing could be graded (None if it could): an unknown suite, or data that are not there."""
    suite = suite_of(record)
    if suite is None or record.identity.suite_sha256 != suite.sha256(record.identity.mode):
        return [], f"suite {short(record.identity.suite)} is not here in the version of the record"
    try:
        stock.check(suite)
        rows = load_rows(suite, "test", mirror, record.reports.limit)
    except HarnessError as error:
        return [], str(error)
    found = content_digest({t: [(r.input, r.target) for r in group] for t, group in rows.items()})
    if found != record.identity.data_sha256.get("test"):
        return [
            (f"identity.data_sha256.test {short(str(record.identity.data_sha256.get('test'))[:12])}", f"{found[:12]}")
        ], None
    problems: list[tuple[str, str]] = []
    usable = {t: group for t, group in rows.items() if t in items.rows and len(items.rows[t]) == len(group)}
    problems += [
        (f"items of {short(t)}", f"the {len(g)} rows of the test split") for t, g in rows.items() if t not in usable
    ]
    again = grades(suite, usable, {t: [str(i.get("response")) for i in items.rows[t]] for t in usable})
    for task, group in usable.items():
        problems += _compare(task, group, items.rows[task], again[task], record)
    return problems, None


def _compare(
    task: str, rows: list[Row], items: list[dict[str, Any]], again: list[dict[str, Any]], record: Record
) -> list[tuple[str, str]]:
    found = []
    lines = []
    for row, item, grade in zip(rows, items, again, strict=True):
        want = {
            "id": row.id,
            "item_sha256": digest([row.input, row.target]),
            "prompt_sha256": digest(row.prompt),
            "target": row.target,
            **grade,
        }
        for key, value in want.items():
            if item.get(key) != value:
                found.append(
                    (
                        f"item {short(row.id)}: {key} {short(str(item.get(key)))}",
                        f"{short(str(value))}, worked out again",
                    )
                )
        lines.append(json.dumps({**item, **want}, ensure_ascii=False, sort_keys=True) + "\n")
    if not found and task in record.scores:
        sha = hashlib.sha256("".join(lines).encode()).hexdigest()
        if sha != record.scores[task].items_sha256:
            found.append(
                (f"items of {short(task)}: sha256 {sha[:12]}", f"{record.scores[task].items_sha256[:12]}, as recorded")
            )
    return found[:5]


def grades(
    suite: Suite, rows: dict[str, list[Row]], responses: dict[str, list[str]]
) -> dict[str, list[dict[str, Any]]]:
    """`filtered` and `correct` of each response, through lm-eval's task of the suite."""
    import datasets
    from lm_eval.tasks import TaskManager, get_task_dict

    from harness.lmtasks import write_tasks

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        names = write_tasks(suite, rows, raw)
        manager = TaskManager(include_path=str(raw / "tasks"), include_defaults=False)
        made = get_task_dict(sorted(names), manager)
        return {
            names[name]: _grade(task, suite.scored[names[name]].metric, responses[names[name]])
            for name, task in made.items()
        }


def _grade(task: Any, metric: str, responses: list[str]) -> list[dict[str, Any]]:
    from lm_eval.api.instance import Instance

    task._instances = [
        Instance("generate_until", doc, ("", {}), 0, (task.config.task, k, 1), resps=[response])
        for k, (doc, response) in enumerate(zip(task.eval_docs, responses, strict=True))
    ]
    task.apply_filters()
    found = []
    for request in task._instances:
        correct = {
            name: bool(task.process_results(request.doc, [value])[metric])
            for name, value in request.filtered_resps.items()
        }
        found.append({"filtered": dict(request.filtered_resps), "correct": correct})
    return found
