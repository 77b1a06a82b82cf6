"""The scoring process: lm-eval over checkpoints, one job after another; the first process to read the test split.

`python -m harness.scorer BACKEND FD` imports its backend, reads one job's path a line from standard input, and says what
becomes of it in JSON lines on the file descriptor FD. A task that is scored is kept in lm_eval/done/ and never scored again
for the same weights, rows and backend: a job that was interrupted goes on with the tasks that are missing.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import gate, parity
from harness.backends import BACKENDS, Backend, CannotStart, OtherModel, one_line, versions
from harness.data import Row, content_digest, load_rows, seen
from harness.durable import fault
from harness.errors import HarnessError
from harness.flops import Arch
from harness.lmtasks import others, summarise, task_items, write_tasks
from harness.overlap import overlap
from harness.paths import digest, file_digest, write_atomic
from harness.suite import Suite, load_suite

Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What to score. `weights`: digest of the checkpoint's files. `gate`: the other backend's passages, or where ours go."""

    folder: Path
    weights: str
    suite: str
    work: Path
    mirror: Path | None
    limit: int | None
    kind: str
    gate: Path | None

    @classmethod
    def read(cls, path: Path) -> Job:
        raw = json.loads(path.read_text(encoding="utf-8"))
        paths = {key: Path(raw[key]) if raw[key] else None for key in ("folder", "work", "mirror", "gate")}
        return cls(**{**raw, **paths})

    @property
    def raw(self) -> Path:
        return self.work / "lm_eval"


@dataclass(frozen=True)
class Content:
    """The test rows of a suite, and what is said of them once, however many checkpoints are scored on them."""

    suite: Suite
    test: dict[str, list[Row]]
    overlap: dict[str, Any]
    sha256: str


def main(name: str, replies: int) -> None:
    """Import first, then do the jobs; the end of standard input ends the process."""
    os.set_inheritable(replies, False)
    backend, broken = BACKENDS[name](), None
    try:
        backend.begin()
    except Exception as error:
        traceback.print_exc()
        broken = one_line(error)

    def tell(what: dict[str, Any]) -> None:
        os.write(replies, (json.dumps(what) + "\n").encode())

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    contents: dict[str, Content] = {}
    for line in sys.stdin:
        try:
            if broken is not None:
                raise CannotStart(broken)
            job = Job.read(Path(line.strip()))
            {"score": _Scoring, "gate": _Passages}[job.kind](job, backend, tell, contents).go()
            tell({"end": "done"})
        except OtherModel:
            tell({"end": "other"})
        except CannotStart as error:
            tell({"end": "unstarted", "why": str(error)})
        except Exception as error:
            traceback.print_exc()
            tell({"end": "failed", "why": str(error) if isinstance(error, HarnessError) else one_line(error)})


def _end_with(parent: int) -> None:
    """A killed run must not leave a process that scores on, or an engine that holds a GPU."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class _Work:
    """What both kinds of jobs need: rows, the backend's model, lm-eval."""

    def __init__(self, job: Job, backend: Backend, tell: Tell, contents: dict[str, Content]) -> None:
        self.job, self.backend, self.tell = job, backend, tell
        self.suite = load_suite(job.suite)
        self.content = self._content(contents)
        self.settings = backend.settings(job.folder, self.suite)
        self.arch = Arch.from_config(json.loads((job.folder / "config.json").read_text()))
        self._lm: Any = None
        self.results: dict[str, Any] = {}  # lm-eval's, of what was evaluated last

    def _content(self, known: dict[str, Content]) -> Content:
        job, suite = self.job, self.suite
        key = digest([suite.model_dump(mode="json"), str(suite.folder), str(job.mirror), job.limit])
        if key not in known:
            test = load_rows(suite, "test", job.mirror, job.limit)
            found = overlap(seen(suite, job.mirror, job.limit), test)
            sha256 = content_digest({t: [(r.input, r.target) for r in rows] for t, rows in test.items()})
            known[key] = Content(suite, test, found, sha256)
        return known[key]

    def key(self, rows: Mapping[str, list[Row]]) -> str:
        """Digest of all that the scores of these rows depend on."""
        job, texts = self.job, {t: [[r.id, r.prompt, r.target] for r in group] for t, group in rows.items()}
        suite = self.suite.model_dump(mode="json")
        return digest([job.weights, suite, texts, self.backend.name, versions(), self.settings])

    def evaluate(self, rows: Mapping[str, list[Row]], raw: Path, recording: bool) -> dict[str, list[dict[str, Any]]]:
        """Items by task; the model is loaded when it is first needed."""
        if self._lm is None:
            self._lm = self.backend.load(self.job.folder, self.suite, recording)
            self.tell({"at": "started"})
        self._lm.recording = recording
        samples, self.results = run_lm_eval(self._lm, self.suite, rows, raw)
        found = {}
        for task in sorted(rows):
            found[task], *cost = task_items(self.suite, task, rows[task], samples[task], self._lm.tokenizer, self.arch)
            self.cost(task, *cost)
        return found

    def cost(self, task: str, flops: int, tokens: int) -> None:
        """What the generation of one task's answers took."""

    def passages(self) -> dict[str, gate.Passage]:
        """The gate's items through this backend."""
        chosen = gate.choose(self.content.test)
        raw = self.job.raw / "gate" / self.backend.name
        raw.mkdir(parents=True, exist_ok=True)
        items = self.evaluate(chosen, raw, recording=True)
        tokenizer, fed = self._lm.tokenizer, self._lm.fed
        prompts = {row.id: row.prompt for rows in chosen.values() for row in rows}
        found = {}
        for item in (i for group in items.values() for i in group):
            answer = tokenizer(item["response"], add_special_tokens=False)["input_ids"]
            prompt = tuple(fed[prompts[item["id"]]])
            found[item["id"]] = gate.Passage(prompt, tuple(answer), item["response"], item["correct"])
        return found


class _Passages(_Work):
    """The other side of the gate: passages into the file `job.gate`."""

    def go(self) -> None:
        assert self.job.gate is not None
        key = self.key(gate.choose(self.content.test))
        if _known(self.job.gate, key) is None:
            found = {name: vars(passage) for name, passage in self.passages().items()}
            write_atomic(self.job.gate, json.dumps({"key": key, "packages": versions(), "passages": found}))
        self._lm = None
        self.backend.drop()


class _Scoring(_Work):
    """All tasks of the suite, those that are kept excepted, into items/ and scores.json."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.costs: dict[str, tuple[int, int]] = {}
        self.share = max(1, parity.ITEMS // len(self.content.test))
        self.done = self.job.raw / "done"
        self.done.mkdir(parents=True, exist_ok=True)
        (self.job.work / "items").mkdir(exist_ok=True)

    def go(self) -> None:
        test = self.content.test
        gated = self.through_gate() if self.job.gate is not None else None
        kept = {task: found for task, rows in test.items() if (found := self.kept(task, rows)) is not None}
        if self.backend.together and len(kept) < len(test):
            kept = {}
        for path in (*self.done.iterdir(), *(self.job.work / "items").iterdir()):
            if path.stem not in kept:
                path.unlink()
        if not kept:
            (self.job.raw / "results.json").unlink(missing_ok=True)
        missing = {task: rows for task, rows in test.items() if task not in kept}
        groups = [missing] if self.backend.together else [{t: rows} for t, rows in sorted(missing.items())]
        for group in groups:
            if group:
                kept |= self.score(group)
        self.write(kept, gated)
        self._lm = None
        self.backend.drop()

    def kept(self, task: str, rows: list[Row]) -> dict[str, Any] | None:
        """What is known of a task that was scored before."""
        found = _known(self.done / f"{task}.json", self.key({task: rows}))
        items = self.job.work / "items" / f"{task}.jsonl"
        if found is None or not items.is_file() or file_digest(items) != found["score"]["items_sha256"]:
            return None
        return found

    def cost(self, task: str, flops: int, tokens: int) -> None:
        self.costs[task] = (flops, tokens)

    def score(self, group: Mapping[str, list[Row]]) -> dict[str, dict[str, Any]]:
        """Score these tasks and keep them."""
        self.tell({"at": ", ".join(sorted(group)) if len(group) == 1 else f"{len(group)} tasks"})
        started, found = time.perf_counter(), {}
        for task, items in self.evaluate(group, self.job.raw, recording=False).items():
            path = self.job.work / "items" / f"{task}.jsonl"
            write_atomic(path, "".join(json.dumps(i, ensure_ascii=False, sort_keys=True) + "\n" for i in items))
            how = self.suite.scored[task]
            score = summarise(items, how.filter, how.metric) | {"items_sha256": file_digest(path)}
            score["metrics"] = others(self.results, self.suite, task)
            pair = parity.report(self._lm.tok_encode, self._lm.tokenizer, {task: group[task]}, self.share)
            flops, tokens = self.costs[task]
            seconds = (time.perf_counter() - started) / len(group)
            found[task] = {"score": score, "parity": pair, "flops": flops, "tokens": tokens, "seconds": seconds}
        for task in found:
            found[task]["key"] = self.key({task: group[task]})
            write_atomic(self.done / f"{task}.json", json.dumps(found[task], indent=1, sort_keys=True))
            fault("scored")
        return found

    def through_gate(self) -> dict[str, Any]:
        """What the gate says of these weights; asked once."""
        assert self.job.gate is not None
        other = json.loads(self.job.gate.read_text(encoding="utf-8"))
        path, key = self.job.raw / "gate.json", self.key(gate.choose(self.content.test)) + other["key"]
        known = _known(path, key)
        if known is None:
            self.tell({"at": "the backend gate"})
            theirs = {name: _passage(raw) for name, raw in other["passages"].items()}
            known = {"key": key, "report": gate.report(self.passages(), theirs) | {"other": other["packages"]}}
            write_atomic(path, json.dumps(known, indent=1))
        report: dict[str, Any] = known["report"]
        return report

    def write(self, kept: Mapping[str, dict[str, Any]], gated: dict[str, Any] | None) -> None:
        tasks = sorted(kept)
        flops = sum(kept[t]["flops"] for t in tasks)
        ledger = {"model_flops": flops, "hardware_flops": flops, "tokens": sum(kept[t]["tokens"] for t in tasks)}
        summary: dict[str, Any] = {
            "scores": {t: kept[t]["score"] for t in tasks},
            "ledger": ledger | {"seconds": round(sum(kept[t]["seconds"] for t in tasks), 3)},
            "overlap": self.content.overlap,
            "parity": parity.merged(kept[t]["parity"] for t in tasks),
            "test_sha256": self.content.sha256,
            "scorer": self.backend.name,
            "backend": {"packages": versions(), "settings": self.settings},
            "backend_gate": gated,
            "engine": {"start_seconds": round(self.backend.seconds, 3), "reused": self.backend.reused},
        }
        write_atomic(self.job.work / "scores.json", json.dumps(summary, indent=1, sort_keys=True))


def _known(path: Path, key: str) -> dict[str, Any] | None:
    """A file of ours, if it is whole and of this key."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if found.get("key") == key else None


def _passage(raw: Mapping[str, Any]) -> gate.Passage:
    return gate.Passage(tuple(raw["prompt"]), tuple(raw["answer"]), raw["text"], raw["correct"])


def run_lm_eval(
    lm: Any, suite: Suite, rows: Mapping[str, list[Row]], raw: Path
) -> tuple[dict[str, list[Any]], dict[str, Any]]:
    """lm-eval's samples by task, and its results, which are kept in `raw` beside those of tasks that are already there."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    names = write_tasks(suite, rows, raw)
    manager = TaskManager(include_path=str(raw / "tasks"), include_defaults=False)
    # After every evaluation it would describe the machine, by `pip list` and a dozen other programs: 2.7 s of a CPU for
    # what is not kept. With vLLM every task is an evaluation.
    evaluator.add_env_info = lambda _: None
    found = evaluator.simple_evaluate(
        model=lm, tasks=sorted(names), task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    assert found is not None  # only on other ranks than the first
    shutil.rmtree(raw / "cache", ignore_errors=True)
    samples = {names[name]: group for name, group in found.pop("samples").items()}
    path = raw / "results.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    for key in ("results", "configs", "versions", "n-samples", "higher_is_better"):
        if key in found:
            results[key] = results.get(key, {}) | found[key]
    write_atomic(path, json.dumps(results, indent=1, default=str, sort_keys=True))
    return samples, found["results"]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
