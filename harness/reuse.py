"""`-o mixture=RUN_DIR`: the mixture that another run has learned, as plain weights, and what learning it had cost there.

A run that learns one mixture and trains on it to the end logs it as `weights` when it is known; what was billed until
then is the price. Only the same strategy, with the same hyperparameters on the same workload, takes it over.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness import RULES_VERSION, record
from harness.errors import HarnessError, unknown
from harness.paths import canonical
from harness.record import Event, Identity, Record, Reused
from harness.registry import Built
from harness.values import LearnedMixture

EVENT = "weights"  # the name under which strategies log what they have learned


def find(text: str, runs: Path, seed: int, like: str | None, plot: str) -> Record:
    """The record that `text` names: a run's folder, a record, the id of a run in `runs`, or a folder of runs or results.

    In the last case it is the run `like` there; None stands for an id that is not known. `plot`: the strategy that
    learns, whose runs an unknown name is compared with. Raises HarnessError.
    """
    path = Path(text)
    if not path.exists() and (runs / text).exists():
        path = runs / text
    if not text or not path.exists():
        raise (
            unknown("run", text, known)
            if (known := _ids(runs, plot))
            else HarnessError(f"no run or record at {text!r}")
        )
    if path.is_dir() and not _is_run(path):
        path = _among(path, text, seed, like)
    elif path.is_dir() and not (path / "record.json").exists():
        raise HarnessError(f"run {text!r} has not finished: it has no record.json yet")
    return record.read(path)


def _ids(runs: Path, plot: str) -> list[str]:
    """The runs of that strategy there that have ended well and learned a mixture."""
    found = []
    for path in runs.glob("*/record.json"):
        with suppress(HarnessError):
            source = record.read(path)
            _event(source)
            fits = source.status != "failed" and source.identity.strategy.split("+")[0] == plot
            found += [path.parent.name] if fits else []
    return found


def _is_run(folder: Path) -> bool:
    return any((folder / name).exists() for name in ("record.json", "config.yaml", "journal.jsonl"))


def _among(folder: Path, text: str, seed: int, like: str | None) -> Path:
    if like is None:
        raise HarnessError(f"{text!r} is a folder of runs; a plan reads no weights and cannot tell which: name the run")
    found = [folder / like, *sorted(folder.rglob(f"{seed}-{like[:8]}.json"))]
    for path in found:
        if (path / "record.json" if path == found[0] else path).is_file():
            return path
    raise HarnessError(f"folder {text!r} holds no finished run {like}, which is this one without its mixture")


def taken(
    source: Record, mine: Identity, strategy: Built, tasks: list[str], plot: str
) -> tuple[LearnedMixture, Reused]:
    """The mixture that `source` has learned, and the record's `reused`. `mine` and `strategy` are without a mixture.

    `plot` is the digest of the source of the strategy that learns, alone. Raises HarnessError, naming the run, for one
    whose mixture is not that of the same entry.
    """
    try:
        for reason in (*_unfit(source, mine, plot), *_otherwise(source, mine, strategy)):
            raise HarnessError(reason)
        event = _event(source)
        weights = _weights(event, tasks)
    except HarnessError as error:
        raise HarnessError(f"run {source.id}: {error}") from None
    i = source.identity
    cost = Reused(id=source.id, flops=event.billed_flops, seed=i.seed, lr=i.lr, budget=i.budget.multiple)
    return LearnedMixture(source.id, weights), cost


def same_workload(source: Record, mine: Identity, limit: int | None, workload: str | None) -> None:
    """Raises HarnessError where two runs are of different workloads; None stands for one that is not known."""
    theirs = source.identity
    for what in ("suite", "model", "mode"):
        if getattr(theirs, what) != getattr(mine, what):
            raise _other(source, f"its {what} is {getattr(theirs, what)!r}, this run's {getattr(mine, what)!r}")
    if source.reports.limit != limit:
        raise _other(source, f"its limit is {source.reports.limit}, this run's {limit}")
    if any(theirs.data_sha256.get(split) != sha for split, sha in mine.data_sha256.items()):
        raise _other(source, f"its suite {theirs.suite!r} holds other data than this run's")
    if theirs.suite_sha256 != mine.suite_sha256:
        raise _other(source, f"its suite {theirs.suite!r} has other settings than this run's")
    if workload not in (None, source.workload):
        raise _other(source, f"its model {theirs.model!r} is another revision than this run's")


def _other(source: Record, reason: str) -> HarnessError:
    return HarnessError(f"run {source.id} is of another workload: {reason}")


def _unfit(source: Record, mine: Identity, plot: str) -> Iterator[str]:
    """What makes it no source for anybody, or not for this strategy."""
    revision = source.environment.model_revision
    if source.status == "failed":
        yield "it failed; a mixture is taken from a run that has ended well"
    if source.rules_version != RULES_VERSION:
        yield f"its rules are version {source.rules_version}, these are {RULES_VERSION}; learn the mixture again"
    if source.id != record.run_id(source.identity, revision, source.reports.limit, source.rules_version):
        yield "its record is damaged: the id is not its identity's"
    if source.identity.strategy.split("+")[0] != mine.strategy.split("+")[0]:
        yield f"its strategy is {source.identity.strategy!r}, expected {mine.strategy.split('+')[0]!r}"
    # Under another lens the digest is of both files: what it says of the plot cannot be told.
    known = {mine.strategy.split("+")[0]: plot, mine.strategy: mine.source_sha256}
    if known.get(source.identity.strategy, source.identity.source_sha256) != source.identity.source_sha256:
        yield f"the source of {source.identity.strategy} was another then; learn the mixture again"


def _otherwise(source: Record, mine: Identity, strategy: Built) -> Iterator[str]:
    """Hyperparameters of the plot that it learned with, where they are not this run's."""
    name, prefixed = mine.strategy.split("+")[0], "+" in source.identity.strategy
    theirs = source.identity.hyperparameters
    if prefixed:
        theirs = {k.removeprefix(f"{name}."): v for k, v in theirs.items() if k.startswith(f"{name}.")}
    ours = dataclasses.asdict(strategy.parts[0])
    for key in sorted({*theirs, *ours}):
        if key not in theirs or key not in ours:
            yield f"it is of another version of {name}, {'with' if key in theirs else 'without'} the option {key}"
        elif isinstance(theirs[key], Mapping) and "run" in theirs[key]:
            yield f"it has learned nothing, it took the mixture of run {theirs[key]['run']}; take that run's"
        elif canonical(theirs[key]) != canonical(ours[key]):
            yield f"it has {key}={_shown(theirs[key])}, this run {key}={_shown(ours[key])}; give both the same options"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else canonical(value)


def _event(source: Record) -> Event:
    found = [e for e in source.events if e.verb == "log" and e.note == EVENT]
    if len(found) != 1:
        what = f"{len(found)} mixtures one after another" if found else "no mixture"
        raise HarnessError(f"it has learned {what}; expected one")
    if found[0].billed_flops == 0:
        raise HarnessError("its mixture has cost nothing, so there is nothing to take over")
    return found[0]


def _weights(event: Event, tasks: list[str]) -> dict[str, float]:
    """Checked: the tasks are this run's, the numbers are weights."""
    found = event.data.get("weights") if isinstance(event.data, dict) else None
    if not isinstance(found, dict) or not all(_is_weight(x) for x in found.values()):
        raise HarnessError("its record is damaged: the learned mixture is not a weight a task")
    if sorted(found) != tasks:
        first = sorted({*found} ^ {*tasks})[0]
        raise HarnessError(f"its mixture {'has' if first in found else 'lacks'} the task {first!r}, unlike this suite")
    if abs(sum(found.values()) - 1) > 1e-4:
        raise HarnessError(f"its record is damaged: the weights sum to {sum(found.values()):g}")
    return {task: float(found[task]) for task in tasks}


def _is_weight(x: Any) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) and x >= 0
