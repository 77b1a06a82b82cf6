"""Final scoring: lm-eval over one checkpoint, in a process of its own, which is the first to read the test split.

`score(...)` starts `python -m harness.score JOB.json`; the child writes lm-eval's raw output, the items and a summary.
A stock task keeps its prompt and filters and gets the suite's held-out rows; a suite's own task gets its template.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from harness.data import Row, content_digest, load_rows
from harness.errors import HarnessError, RunFailed
from harness.flops import Arch
from harness.overlap import overlap
from harness.paths import digest, file_digest, write_atomic
from harness.suite import Suite, load_suite


class Scorer:
    """A scoring process that waits for one job. Started before training ends, its imports cost the run no time."""

    def __init__(self) -> None:
        here = str(Path(__file__).resolve().parent.parent)
        # Safe path: a file of the user's folder called like a module must not stand in its way.
        env = os.environ | {
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
        }
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.score"],
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=env,
        )

    def run(self, job: Path, log: Path) -> int:
        """Do the job and return the exit status; all that the process printed is in `log`."""
        self._process.communicate(str(job).encode())
        self._log.seek(0)
        log.write_bytes(self._log.read())
        self._log.close()
        return self._process.returncode

    def close(self) -> None:
        """End a process that was not needed."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


def begin_ahead() -> Scorer | None:
    """A scorer whose imports run beside the training."""
    return Scorer()


def score(
    folder: Path,
    suite: str,
    work: Path,
    *,
    mirror: Path | None = None,
    limit: int | None = None,
    scorer: str = "hf",
    ahead: Scorer | None = None,
) -> dict[str, Any]:
    """Score a checkpoint folder into `work` (lm_eval/, items/, scores.json) and return the summary.

    Raises RunFailed with the child's last line; its whole output is `work`/lm_eval/log.txt. `ahead`: a process that
    was started earlier.
    """
    raw = work / "lm_eval"
    raw.mkdir(parents=True, exist_ok=True)
    (work / "scores.json").unlink(missing_ok=True)
    job = {
        "folder": str(folder.resolve()),
        "suite": suite,
        "work": str(work.resolve()),
        "mirror": str(mirror.resolve()) if mirror else None,
        "limit": limit,
        "scorer": scorer,
    }
    write_atomic(raw / "job.json", json.dumps(job, indent=1))
    status = (ahead or Scorer()).run(raw / "job.json", raw / "log.txt")
    if status or not (work / "scores.json").exists():
        lines = [x for x in (raw / "log.txt").read_text(errors="replace").splitlines() if x.strip()]
        raise RunFailed(f"scoring failed: {lines[-1][:200] if lines else f'exit {status}'} (see lm_eval/log.txt)")
    summary: dict[str, Any] = json.loads((work / "scores.json").read_text(encoding="utf-8"))
    return summary


# --- the child


def main() -> None:
    """Import first, then read the job's path from standard input; its end without one means there is no job."""
    import_module("lm_eval.models.huggingface")
    path = sys.stdin.read()
    if path:
        work_off(path)


def work_off(job_path: str) -> None:
    job = json.loads(Path(job_path).read_text(encoding="utf-8"))
    suite, work = load_suite(job["suite"]), Path(job["work"])
    mirror = Path(job["mirror"]) if job["mirror"] else None
    test = load_rows(suite, "test", mirror, job["limit"])
    training = [load_rows(suite, split, mirror, job["limit"]) for split in ("train", "validation")]
    started = time.perf_counter()
    samples, tokenizer = evaluate(Path(job["folder"]), suite, test, work / "lm_eval")
    seconds = time.perf_counter() - started
    arch = Arch.from_config(json.loads((Path(job["folder"]) / "config.json").read_text()))
    summary: dict[str, Any] = {"scores": {}, "ledger": {"model_flops": 0, "hardware_flops": 0, "tokens": 0}}
    for task in sorted(test):
        items, flops, tokens = task_items(suite, task, test[task], samples[task], tokenizer, arch)
        path = work / "items" / f"{task}.jsonl"
        path.parent.mkdir(exist_ok=True)
        write_atomic(path, "".join(json.dumps(i, ensure_ascii=False, sort_keys=True) + "\n" for i in items))
        summary["scores"][task] = summarise(items, suite.scoring.filter) | {"items_sha256": file_digest(path)}
        summary["ledger"]["model_flops"] += flops
        summary["ledger"]["hardware_flops"] += flops
        summary["ledger"]["tokens"] += tokens
    summary["ledger"]["seconds"] = round(seconds, 3)
    summary["overlap"] = overlap([r for rows in training for g in rows.values() for r in g], test)
    summary["test_sha256"] = content_digest({t: [(r.input, r.target) for r in rows] for t, rows in test.items()})
    summary["scorer"] = job["scorer"]
    write_atomic(work / "scores.json", json.dumps(summary, indent=1, sort_keys=True))


def evaluate(folder: Path, suite: Suite, test: Mapping[str, list[Row]], raw: Path) -> tuple[dict[str, list[Any]], Any]:
    """lm-eval's samples by task; its raw results are kept in `raw`."""
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(int(os.environ.get("HARNESS_THREADS") or torch.get_num_threads()))
    cuda = torch.cuda.is_available() and os.environ.get("HARNESS_DEVICE") != "cpu"
    small = sum(p.stat().st_size for p in folder.glob("*.safetensors")) < 64e6
    lm = HFLM(
        pretrained=str(folder),
        device="cuda" if cuda else "cpu",
        dtype="bfloat16" if cuda else "float32",
        batch_size=128 if small or cuda else 16,
        max_length=suite.train.max_length + max_new_tokens(suite),
    )
    names = write_tasks(suite, test, raw)
    manager = TaskManager(include_path=str(raw / "tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=lm, tasks=sorted(names), task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    assert found is not None  # only on other ranks than the first
    shutil.rmtree(raw / "cache", ignore_errors=True)
    samples = {names[name]: rows for name, rows in found.pop("samples").items()}
    kept = {
        key: found[key] for key in ("results", "configs", "versions", "n-samples", "higher_is_better") if key in found
    }
    write_atomic(raw / "results.json", json.dumps(kept, indent=1, default=str, sort_keys=True))
    return samples, lm.tokenizer


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


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        sys.exit(str(error))
