"""One run, from a request to its record: resolve, train under the strategy, score in another process, write the record."""

from __future__ import annotations

import json
import math
import shutil
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from harness import RULES_VERSION, __version__, durable, environment, ranks, record
from harness.core import Core, Progress
from harness.errors import BudgetExhausted, HarnessError, RunFailed, disk_is_full, raised_at
from harness.journal import Journal
from harness.ledger import Entry, Ledger, billed, by_phase
from harness.paths import digest, file_digest, write_atomic
from harness.request import Plan
from harness.rundir import code, durable_point, finished, locked, settings
from harness.trail import Trail


def execute(
    plan: Plan,
    watch: Callable[[Progress], None] | None = None,
    say: Callable[[str], None] = lambda _: None,
    patience: float = 0.0,
) -> Path:
    """Do the run, unless another process has while this one waited for it, and return the path of its record.

    Raises RunFailed after writing a record that says so.

    `patience`: seconds to wait for the process that holds the run directory, an earlier attempt's on a lost machine.
    Of several ranks, rank 0 has the run's folder and its lock; the others end with the training.
    """
    ranks.same("the run", plan.id)
    if not ranks.main():
        if (done := finished(plan)) is not None:
            return done
        _Run(plan, None, lambda _: None, durable.agreed(None)).train()
        return plan.folder / "record.json"
    folder = plan.folder
    size = sum(p.stat().st_size for p in plan.model.folder.glob("*.safetensors"))
    plan.request.runs.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(plan.request.runs).free < 8 * size + 50_000_000:
        raise HarnessError(
            f"no free disk for a run in {str(plan.request.runs)!r}: about {8 * size / 1e6:.0f} MB are needed"
        )
    with locked(folder, patience):
        if (done := finished(plan)) is not None:
            return done
        point = durable_point(plan, say)
        (folder / "record.json").unlink(missing_ok=True)
        write_atomic(folder / "config.yaml", yaml.safe_dump(settings(plan), sort_keys=False))
        try:
            return _Run(plan, watch, say, durable.agreed(point), code(folder, point is not None)).go()
        except Exception as error:
            if disk_is_full(error):
                raise RunFailed(
                    f"the disk below {str(plan.request.runs)!r} is full; free some, and the same command goes on"
                ) from error
            raise


class _Run:
    """The phases of one run; what they share is here, what they do is below."""

    def __init__(
        self,
        plan: Plan,
        watch: Callable[[Progress], None] | None,
        say: Callable[[str], None],
        point: durable.Point | None,
        code: record.Git | None = None,
    ) -> None:
        self.plan, self.watch, self.say, self.point = plan, watch, say, point
        self.folder = plan.folder
        self.started = datetime.now(UTC)
        self.core: Core | None = None
        self.outside = 0.0
        self.score: dict[str, Any] = {"scores": {}, "overlap": {}, "scorer": None}
        self.base: dict[str, float] = {}
        self.weights: str | None = None
        self.ranks = ranks.count()
        self.code = code or environment.git()
        self.service: Any = None

    def go(self) -> Path:
        try:
            status = self.train()
            self.say("scoring the answer")
            self.score = self.scoring(self.folder / "final", self.folder)
            self.base = self.base_scores()
        except ranks.RankLost:
            raise  # as if this rank had been killed with the other
        except HarnessError as error:
            self.write("failed", str(error))
            raise
        finally:
            if self.service is not None:
                self.service.close()
        return self.write(status, None)

    def train(self) -> str:
        """`strategy.run(lab)` under the cap; leaves the answer's weights in final/."""
        from harness.lab import RunLab
        from harness.score import begin_ahead
        from harness.session import Session
        from harness.setup import build

        plan, point = self.plan, self.point
        if ranks.main():
            self.service = begin_ahead(plan.request.scorer, plan.request.vllm_python, self.say)
        book, lines = (self.folder / f"{name}.jsonl" if ranks.main() else None for name in ("ledger", "journal"))
        finished, again = (point.replay, point.expected) if point else ([], [])
        journal = Journal(lines, finished, again)
        ledger = Ledger(plan.identity.budget.flops, book, point.entries if point else ())
        self.core, engine = build(plan, ledger, self.watch, point)
        journal.exact = ranks.count() == 1 and engine.device.type == "cpu"
        journal.on = environment.arithmetic()
        session = Session(self.core, journal, durable.Snapshots(self.folder), point)
        lab = RunLab(self.core, session, plan.request.seed)
        began, status = time.perf_counter(), "finished"
        try:
            plan.strategy.run(lab)
        except BudgetExhausted:
            status = "budget"
        except ranks.RankLost:
            raise
        except HarnessError as error:
            error.args = (f"{plan.told}: {error}",)
            raise
        except Exception as error:
            if disk_is_full(error):
                raise
            if ranks.lost(error):
                raise ranks.RankLost(str(error)) from error
            (self.folder / "error.txt").write_text(traceback.format_exc())
            where = "; ".join(filter(None, (raised_at(error), f"see {self.folder.name}/error.txt")))
            raise RunFailed(f"{plan.told} failed: {type(error).__name__}: {error} ({where})") from error
        finally:
            self.outside = max(0.0, time.perf_counter() - began - lab.seconds_inside)
            journal.close()
            ledger.flush()
        session.unwind()
        core = self.core
        session.tick(None, force=True)
        durable.fault("score")
        if core.trail.answer is not None and core.trail.answer != core.standing:
            core.restore(core.trail.answer, "fresh")
        core.looks.observe(core.standing, core.verb, last=True)
        final = self.folder / "final"
        if ranks.main():
            shutil.rmtree(final, ignore_errors=True)
        engine.save_pretrained(final)
        if ranks.main():
            self.weights = digest({p.name: file_digest(p) for p in sorted(final.glob("*.safetensors"))})
        self.ranks = ranks.count()
        engine.release()
        ledger.close()
        ranks.leave()
        return status

    def scoring(self, folder: Path, work: Path) -> dict[str, Any]:
        from harness.score import score

        r = self.plan.request
        return score(folder, self.plan.suite_name, work, mirror=r.mirror, limit=r.limit, service=self.service)

    def base_scores(self) -> dict[str, float]:
        """The base model's scores, measured once per workload and kept beside the runs."""
        # What two backends say of the base is never mixed.
        other = "-vllm" if self.score["scorer"] == "vllm" else ""
        work = self.plan.request.runs / "base" / (self.plan.workload + other)
        with locked(work, math.inf):  # runs side by side: one scores, the others wait for it
            if not (work / "scores.json").exists():
                self.say("scoring the base model, once for this workload")
                self.scoring(self.plan.model.folder, work)
        saved = json.loads((work / "scores.json").read_text(encoding="utf-8"))
        if saved.get("backend_gate"):
            self.score["backend_gate"] |= {"base": saved["backend_gate"]}
        return {task: row["value"] for task, row in saved["scores"].items()}

    def write(self, status: str, error: str | None) -> Path:
        plan, core = self.plan, self.core
        entries: list[Entry] = list(core.ledger.root.entries) if core else []
        if "ledger" in self.score:
            s = self.score["ledger"]
            entries.append(Entry(-1, 0, "score", s["model_flops"], s["hardware_flops"], s["tokens"], s["seconds"]))
        trail = core.trail if core else Trail()
        kept = trail.path(trail.answer or core.standing) if core else {}
        table = by_phase(entries, kept)
        data = dict(plan.identity.data_sha256)
        if "test_sha256" in self.score:
            data["test"] = self.score["test_sha256"]
        env = environment.describe(plan.suite, plan.model, plan.revisions, self.code, self.ranks)
        made = record.Record(
            schema_version=record.SCHEMA_VERSION,
            rules_version=RULES_VERSION,
            harness_version=__version__,
            id=plan.id,
            workload=plan.workload,
            status=status,  # type: ignore[arg-type]
            official=False,
            started=self.started.isoformat(timespec="seconds"),
            ended=datetime.now(UTC).isoformat(timespec="seconds"),
            identity=plan.identity.model_copy(update={"data_sha256": data}),
            environment=env,
            ledger={phase: record.PhaseSum(**row) for phase, row in table.items()},
            total_model_flops=billed(table),
            mixture=[record.MixtureChange(**m) for m in trail.mixtures],
            curves=[record.CurvePoint(**c) for c in trail.curves],
            events=[record.Event(**e) for e in trail.events],
            scores={t: record.TaskScore(**s) for t, s in self.score["scores"].items()},
            reports=record.Reports(
                overlap=self.score["overlap"],
                backend_gate=self.score.get("backend_gate"),
                parity=self.score.get("parity"),
                seconds_outside_verbs=round(self.outside, 3),
                reused=plan.reused,
                limit=plan.request.limit,
                unverified=not plan.suite.verified,
                scorer=self.score["scorer"],
                backend=self.score.get("backend"),
                weights_sha256=self.weights,
                base_scores=self.base,
                checkpoints_peak=core.store.peak if core else 0,
                error=error,
            ),
        )
        path = self.folder / "record.json"
        durable.fault("record")
        record.write(made.model_copy(update={"official": not made.doubts}), path)
        if status != "failed":
            for name in ("checkpoints", "snapshot"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
        return path
