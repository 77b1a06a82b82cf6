"""What is true of every record that a run has written: one function a part, each yields what is not so.

Nothing here looks for known tricks. Each line says a relation between two places of a record, or between it and its items,
that an honest run cannot break; whoever changes one place must find and change every other.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import yaml

from harness import RULES_VERSION
from harness.ledger import BESIDE, BILLED
from harness.privacy import leak, short, strings, wrong_name, wrong_text
from harness.record import SCHEMA_VERSION, Record, run_id, workload_id

Found = Iterator[tuple[str, str]]  # what was found, what was expected
SHA = re.compile(r"[0-9a-f]{64}")
EVENTS = 1_500_000  # bytes: what strategies may log, and the harness's own notes


def record(r: Record) -> Found:
    """Every check that needs the record alone."""
    for part in (names, identity, provenance, ledger, trails, scores, reports):
        yield from part(r)


def names(r: Record) -> Found:
    """Strings: names are plain, free text holds nothing private, nothing hidden, no markup."""
    raw = r.model_dump(mode="json")
    i = raw["identity"]
    free: dict[str, Any] = {
        "events": [{"note": e["note"], "data": e["data"]} for e in raw["events"]],
        "reports.error": raw["reports"].pop("error"),
        "identity.hyperparameters": list(i["hyperparameters"].values()),
        "identity.passed": list(i["passed"].values()),
        "reports.backend_gate": raw["reports"].pop("backend_gate"),
        "reports.backend": raw["reports"].pop("backend"),
        "reports.parity": raw["reports"].pop("parity"),
    }
    for event in raw["events"]:
        del event["note"], event["data"]
    i["hyperparameters"], i["passed"] = list(i["hyperparameters"]), list(i["passed"])
    for where, text, _ in strings(free):
        if wrong := wrong_text(text):
            yield f"{where}: {wrong}", "plain text without names of machines"
    for where, text, key in strings(raw):
        if text and (wrong := wrong_name(text)):
            yield f"{where}{': the key ' if key else ': '}{wrong}", "a plain name"
    # What free text may say, no device or version has to.
    for where, text, _ in strings({"environment": {k: raw["environment"][k] for k in ("device", "python")}}):
        if wrong := leak(text):
            yield f"{where}: {wrong}", "no name of a machine"


def identity(r: Record) -> Found:
    """Hashes of the identity, ranges of its numbers, digests that are digests."""
    i = r.identity
    want = run_id(i, r.environment.model_revision, r.reports.limit, r.rules_version)
    if r.id != want:
        yield f"id {short(r.id)}", f"{want}, the hash of identity, model revision, limit and rules version"
    want = workload_id(i, r.environment.model_revision, r.reports.limit)
    if r.workload != want:
        yield f"workload {short(r.workload)}", f"{want}, the hash of suite, data, model, mode and limit"
    if i.seed < 0:
        yield f"identity.seed {i.seed}", "at least 0"
    for name, value in (("lr", i.lr), ("budget.multiple", i.budget.multiple), ("budget.flops", i.budget.flops)):
        if not (math.isfinite(value) and value > 0):
            yield f"identity.{name} {value}", "a positive number"
    digests = {"source_sha256": i.source_sha256, "suite_sha256": i.suite_sha256}
    digests |= {f"data_sha256.{split}": value for split, value in i.data_sha256.items()}
    for name, text in digests.items():
        if not SHA.fullmatch(text):
            yield f"identity.{name} {short(text)}", "64 hex digits"
    splits = {"train", "validation"} | ({"test"} if r.scores else set())
    if set(i.data_sha256) != splits:
        yield f"identity.data_sha256 of {', '.join(sorted(map(short, i.data_sha256)))}", ", ".join(sorted(splits))
    if len(set(i.data_sha256.values())) < len(i.data_sha256):
        yield "two splits with one digest in identity.data_sha256", "splits with different rows"
    for name, given in i.passed.items():
        full = [k for k in i.hyperparameters if k == name or k.endswith(f".{name}")]
        if not full:
            yield f"identity.passed.{short(name)}", "one of the hyperparameters"
        elif not any(_same(given, i.hyperparameters[k]) for k in full):
            yield (
                f"identity.passed.{short(name)} {short(str(given))}",
                f"{i.hyperparameters[full[0]]!r}, as the run had it",
            )


def _same(given: Any, had: Any) -> bool:
    """Whether a hyperparameter is what the text given by hand says; a mixture of another run is given by that run's id."""
    if isinstance(had, Mapping) and "run" in had:
        return bool(given == had["run"])
    try:
        read = yaml.safe_load(given) if isinstance(given, str) else given
    except yaml.YAMLError:
        read = given
    if isinstance(read, str) and isinstance(had, int | float):  # YAML 1.1 reads 1e-3 as text
        try:
            read = float(read)
        except ValueError:
            return False
    return bool(given == had or read == had or str(given) == str(had))


def provenance(r: Record) -> Found:
    """Versions, times, commit, and what makes a record official."""
    for name, version, newest in (
        ("schema_version", r.schema_version, SCHEMA_VERSION),
        ("rules_version", r.rules_version, RULES_VERSION),
    ):
        if not 1 <= version <= newest:
            yield f"{name} {version}", f"1 to {newest}"
    times = {}
    for name in ("started", "ended"):
        try:
            times[name] = datetime.fromisoformat(getattr(r, name))
            times[name].astimezone(UTC)
            if times[name].tzinfo is None:
                raise ValueError
        except (ValueError, OverflowError):
            yield f"{name} {short(getattr(r, name))}", "a time in ISO 8601 with its offset"
            times.pop(name, None)
    if len(times) == 2 and times["ended"] < times["started"]:
        yield f"ended {r.ended}", f"not before started {r.started}"
    if "ended" in times and times["ended"] > datetime.now(UTC) + timedelta(days=1):
        yield f"ended {r.ended}", "a time that has been"
    git, e = r.environment.git, r.environment
    if git.commit is not None and not re.fullmatch(r"[0-9a-f]{40}", git.commit):
        yield f"environment.git.commit {short(git.commit)}", "40 hex digits"
    if r.official and r.doubts:
        yield "official: true", "a finished run without --limit of a clean commit, whose scorer passed its gates"
    if e.threads < 1:
        yield f"environment.threads {e.threads}", "at least 1"
    if not SHA.fullmatch(e.template_sha256):
        yield f"environment.template_sha256 {short(e.template_sha256)}", "64 hex digits"


def ledger(r: Record) -> Found:
    """Phases, sums, the cap. Nothing is negative and nothing is free."""
    if set(r.ledger) != {*BILLED, *BESIDE}:
        odd = sorted(set(r.ledger) ^ {*BILLED, *BESIDE})
        yield f"ledger: phase {short(odd[0])} is unknown or missing", "the nine phases of the rules"
    for phase, row in sorted(r.ledger.items()):
        for name, value in row.model_dump().items():
            if not (math.isfinite(value) and value >= 0):
                yield f"ledger.{short(phase)}.{name} {value}", "at least 0"
        if row.model_flops > 0 and row.tokens == 0 and phase != "gradients":
            yield f"ledger.{short(phase)}: {row.model_flops} FLOPs on 0 tokens", "tokens where there are FLOPs"
        if row.model_flops == 0 and (row.tokens or row.hardware_flops):
            yield f"ledger.{short(phase)}: {row.tokens} tokens for 0 FLOPs", "FLOPs where there are tokens"
    total = sum(row.model_flops for phase, row in r.ledger.items() if phase in BILLED)
    if r.total_model_flops != total:
        yield f"total_model_flops {r.total_model_flops}", f"{total}, the sum of the billed phases"
    if r.total_model_flops > r.identity.budget.flops:
        yield f"total_model_flops {r.total_model_flops}", f"at most the budget, {r.identity.budget.flops}"


def trails(r: Record) -> Found:
    """Mixture, curves and events: in the order of what was billed, within it, and the curves end where the bill does."""
    total = r.total_model_flops
    for name, points in (("mixture", r.mixture), ("curves", r.curves), ("events", r.events)):
        at = [p.billed_flops for p in points]
        if any(b < a for a, b in itertools.pairwise(at)):
            yield f"{name}: billed_flops go backwards", "the order in which it happened"
        if at and not (min(at) >= 0 and max(at) <= total):
            yield f"{name}: billed_flops {max(at) if max(at) > total else min(at)}", f"between 0 and the total, {total}"
    tasks = {p.task for p in r.curves}
    for spent, seen in _looks(r).items():
        if any(seen.count(t) != seen.count(min(tasks)) for t in tasks):
            yield f"curves at {spent} FLOPs: not every task once a look", f"all of {len(tasks)} tasks"
    if r.curves and r.status != "failed" and r.curves[-1].billed_flops != total:
        yield (
            f"curves end at {r.curves[-1].billed_flops} FLOPs",
            f"at the total, {total}: the last look is at the answer",
        )
    if not r.curves and r.status != "failed":
        yield "no curves", "the harness's own looks"
    for p in r.curves:
        if not 0 <= p.exact_match <= 1 or (p.loss is not None and not (math.isfinite(p.loss) and p.loss >= 0)):
            yield f"curves: loss {p.loss}, exact_match {p.exact_match}", "a loss of at least 0 and a share"
    for m in r.mixture:
        if not all(math.isfinite(w) and w >= 0 for w in m.weights.values()) or abs(sum(m.weights.values()) - 1) > 1e-4:
            yield f"mixture at {m.billed_flops} FLOPs: weights sum to {sum(m.weights.values()):g}", "1, none negative"
        if tasks and not set(m.weights) <= tasks:
            yield f"mixture: task {short(min(set(m.weights) - tasks))}", "a task of the curves"
    size = len(json.dumps([e.model_dump(mode="json") for e in r.events]))
    if size > EVENTS:
        yield f"events of {size:,} bytes", f"at most {EVENTS:,}"


def _looks(r: Record) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for p in r.curves:
        found.setdefault(p.billed_flops, []).append(p.task)
    return found


def scores(r: Record) -> Found:
    """Each score by itself: a share of n items, its standard error, its filters."""
    if bool(r.scores) == (r.status == "failed"):
        yield f"status {r.status} with {len(r.scores)} scores", "scores of every run that did not fail, and of no other"
    for task, s in sorted(r.scores.items()):
        where = f"scores.{short(task)}"
        if s.n < 1:
            yield f"{where}.n {s.n}", "at least 1"
            continue
        for name, value in {"value": s.value, **{f"filters.{k}": v for k, v in s.filters.items()}}.items():
            if not (0 <= value <= 1 and abs(value * s.n - round(value * s.n)) < 1e-6):
                yield f"{where}.{name} {value}", f"a whole number of {s.n} items"
        if s.value not in s.filters.values():
            yield f"{where}.value {s.value}", f"the value of one of its filters: {_listed(s.filters)}"
        want = math.sqrt(max(0.0, s.value * (1 - s.value)) / max(1, s.n - 1))
        if not math.isclose(s.stderr, want, abs_tol=1e-9):
            yield f"{where}.stderr {s.stderr}", f"{want:.6g}, of {s.value} on {s.n} items"
        if not 0 <= s.truncated <= s.n:
            yield f"{where}.truncated {s.truncated}", f"0 to {s.n}"
        for name, value in s.metrics.items():
            if not math.isfinite(value):
                yield f"{where}.metrics.{short(name)} {value}", "a finite number"
        if not SHA.fullmatch(s.items_sha256):
            yield f"{where}.items_sha256 {short(s.items_sha256)}", "64 hex digits"


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{short(k)} {v}" for k, v in sorted(values.items()))


def reports(r: Record) -> Found:
    """Overlap, base scores and the rest of the reports: of the same tasks and items as the scores."""
    p = r.reports
    if r.status != "failed":
        for name, keys in (("base_scores", set(p.base_scores)), ("overlap", set(p.overlap))):
            if keys != set(r.scores):
                yield f"reports.{name}: task {short(min(keys ^ set(r.scores)))} is extra or missing", "the scored tasks"
        if p.weights_sha256 is None or not SHA.fullmatch(p.weights_sha256):
            yield f"reports.weights_sha256 {short(str(p.weights_sha256))}", "64 hex digits"
        if p.error is not None:
            yield "reports.error of a run that did not fail", "none"
    for task, value in p.base_scores.items():
        if not 0 <= value <= 1:
            yield f"reports.base_scores.{short(task)} {value}", "a share"
    for task, row in p.overlap.items():
        n = r.scores[task].n if task in r.scores else -1
        if not (isinstance(row, dict) and set(row) == {"n", "exact", "rare_13_gram"}):
            yield f"reports.overlap.{short(task)}", "n, exact and rare_13_gram"
        elif not all(type(v) is int for v in row.values()) or row["n"] != n or not _within(row, n):
            yield f"reports.overlap.{short(task)} {row}", f"counts of the {n} items"
    yield from _reused(r)
    if not (math.isfinite(p.seconds_outside_verbs) and p.seconds_outside_verbs >= 0):
        yield f"reports.seconds_outside_verbs {p.seconds_outside_verbs}", "at least 0"
    if p.checkpoints_peak < 0:
        yield f"reports.checkpoints_peak {p.checkpoints_peak}", "at least 0"
    if p.limit is not None and p.limit < 2:
        yield f"reports.limit {p.limit}", "at least 2"


def _reused(r: Record) -> Found:
    """A mixture that another run has learned is named twice: as a hyperparameter, and with what it had cost."""
    named = {str(v["run"]) for v in r.identity.hyperparameters.values() if isinstance(v, Mapping) and "run" in v}
    said = {r.reports.reused.id} if r.reports.reused else set()
    if named != said:
        yield (
            f"reports.reused of {', '.join(map(short, said)) or 'no run'}",
            (f"{', '.join(map(short, sorted(named))) or 'none'}, whose mixture the hyperparameters hold"),
        )
    elif r.reports.reused and r.reports.reused.flops <= 0:
        yield f"reports.reused.flops {r.reports.reused.flops}", "what learning the mixture had cost"


def _within(row: Mapping[str, int], n: int) -> bool:
    return 0 <= row["exact"] <= n and 0 <= row["rare_13_gram"] <= n
