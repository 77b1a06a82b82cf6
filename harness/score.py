"""Final scoring: lm-eval over one checkpoint, in a process of its own, which is the first to read the test split.

`score(...)` starts `python -m harness.score JOB.json`; the child writes lm-eval's raw output, the items and a summary.
"""

from __future__ import annotations

import json
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
from harness.lmtasks import max_new_tokens, summarise, task_items, write_tasks
from harness.overlap import overlap
from harness.paths import file_digest, write_atomic
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


if __name__ == "__main__":
    try:
        main()
    except HarnessError as error:
        sys.exit(str(error))
