"""Whether a record is of the code and the suite that it names: digests against what is committed here."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from harness import RULES_VERSION, registry
from harness.errors import HarnessError
from harness.paths import asset, digest
from harness.privacy import short
from harness.record import Record, TaskScore
from harness.spec import ScoringTask
from harness.suite import Suite, available, load_suite

Found = Iterator[tuple[str, str]]


def check(r: Record, submitted: bool) -> Found:
    """Source, suite, template and pinned data. Of a submitted record, strategy and suite must be ones that others have."""
    yield from _source(r, submitted)
    suite = suite_of(r)
    if suite is None:
        if submitted:
            yield f"identity.suite {short(r.identity.suite)}", "a suite of suites/"
        return
    if r.rules_version == RULES_VERSION:
        yield from _suite(r, suite)


def suite_of(r: Record) -> Suite | None:
    """The built-in suite that a record names."""
    return load_suite(r.identity.suite) if r.identity.suite in available() else None


def _suite(r: Record, suite: Suite) -> Found:
    i = r.identity
    if i.suite_sha256 != suite.sha256(i.mode):
        yield (
            f"identity.suite_sha256 {short(i.suite_sha256[:12])}",
            (f"{suite.sha256(i.mode)[:12]}, of suites/{suite.name}.yaml"),
        )
        return
    if r.environment.template_sha256 != suite.template_sha256:
        yield f"environment.template_sha256 {short(r.environment.template_sha256[:12])}", suite.template_sha256[:12]
    for split, pinned in suite.data.sha256.items():
        if r.reports.limit is None and i.data_sha256.get(split, pinned) != pinned:
            yield (
                f"identity.data_sha256.{split} {short(i.data_sha256[split][:12])}",
                f"{pinned[:12]}, as the suite pins it",
            )
    if not suite.verified and not r.reports.unverified:
        yield "reports.unverified: false", f"true: nobody has verified suite {suite.name} on its real rows"
    strangers = sorted(set(r.scores) - set(suite.scored)) + sorted({p.task for p in r.curves} - set(suite.tasks))
    if strangers:
        yield f"task {short(strangers[0])}", f"one of the {len(suite.scored)} tasks of suite {suite.name}"
    missing = sorted(set(suite.scored) - set(r.scores)) if r.status != "failed" else []
    if missing:
        yield f"scores without task {short(missing[0])}", f"all {len(suite.scored)} tasks of suite {suite.name}"
    for task in sorted(set(r.scores) & set(suite.scored)):
        yield from _scored(task, r.scores[task], suite.scored[task])


def _scored(task: str, s: TaskScore, how: ScoringTask) -> Found:
    if s.filters.get(how.filter) != s.value:
        yield (
            f"scores.{short(task)}.value {s.value}",
            f"{s.filters.get(how.filter)}, of the suite's filter {how.filter}",
        )
    if s.metric != how.metric:
        yield f"scores.{short(task)}.metric {short(s.metric)}", f"{how.metric}, the suite's"


def _source(r: Record, submitted: bool) -> Found:
    i, names = r.identity, tuple(r.identity.strategy.split("+"))
    strange = [name for name in names if name not in registry.builtin() and name not in registry.entry_points()]
    if strange:
        if submitted:
            yield f"identity.strategy {short(strange[0])}", "a strategy of strategies/ or of an installed package"
        return
    if r.environment.git.dirty and not submitted:
        return  # of a file that may be in no commit: nobody else can say what it was
    known = _sources(r, names)
    if known and i.source_sha256 not in known:
        want, where = next(iter(known.items()))
        yield f"identity.source_sha256 {short(i.source_sha256[:12])}", f"{want[:12]}, of {where}"


def _sources(r: Record, names: tuple[str, ...]) -> dict[str, str]:
    """Digests that the record's source may have, and where they are from; none for a plug-in that is broken."""
    git, found = r.environment.git, {}
    if any(name not in registry.builtin() for name in names):
        parts = _plugins(names)
        return {} if parts is None else {_digest(parts): "the installed plug-in"}
    at = _committed(git.commit, names) if git.commit is not None else None
    if at is not None:
        found[_digest(at)] = f"strategies/ at commit {str(git.commit)[:12]}"
    if at is None or git.dirty:
        found.setdefault(_digest(_here(names)), "strategies/ as it is here")
    return found


def _digest(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else digest(list(parts))


@cache
def _here(names: tuple[str, ...]) -> tuple[str, ...]:
    shared = asset("strategies") / "_numerics.py"
    numerics = shared.read_bytes() if shared.exists() else b""
    return tuple(registry.source_digest(registry.builtin()[name].read_bytes(), numerics) for name in names)


@cache
def _plugins(names: tuple[str, ...]) -> list[str] | None:
    try:
        return [registry.find(name).source_sha256 for name in names]
    except HarnessError:
        return None  # a broken plug-in is its owner's to mend


@cache
def _committed(commit: str, names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Digests of strategies at a commit; None where this clone does not have it."""
    if not commit or _show(commit, "harness/__init__.py") is None:
        return None
    numerics = _show(commit, "strategies/_numerics.py") or b""
    sources = [_show(commit, f"strategies/{name}.py") for name in names]
    return tuple(registry.source_digest(source, numerics) if source is not None else "" for source in sources)


@cache
def _show(commit: str, path: str) -> bytes | None:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "show", f"{commit}:./{path}"], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
