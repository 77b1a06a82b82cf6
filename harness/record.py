"""The record of one run, `record.json`: its schema, and reading and writing it. Metrics of rows are never stored here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, FiniteFloat, NonNegativeInt, PositiveInt, ValidationError

from harness.errors import HarnessError
from harness.paths import digest, write_atomic

SCHEMA_VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BudgetSpec(_Part):
    multiple: float
    flops: int


class Identity(_Part):
    """What makes two runs the same run. `passed` are the hyperparameters given by hand, a subset of all."""

    strategy: str
    model: str
    suite: str
    mode: Literal["full", "lora"]
    seed: int
    lr: float
    budget: BudgetSpec
    hyperparameters: dict[str, Any]
    passed: dict[str, Any]
    source_sha256: str
    suite_sha256: str
    data_sha256: dict[str, str]


class Git(_Part):
    commit: str | None
    dirty: bool | None


class Environment(_Part):
    git: Git
    packages: dict[str, str]
    python: str
    device: str
    threads: int
    ranks: PositiveInt | None = None  # processes that trained together, if several
    model_revision: str
    data_revisions: dict[str, str | None]
    template_sha256: str


class PhaseSum(_Part):
    model_flops: int
    hardware_flops: int
    tokens: int
    seconds: float


class MixtureChange(_Part):
    billed_flops: int
    weights: dict[str, float]


class CurvePoint(_Part):
    billed_flops: int
    task: str
    loss: float | None
    exact_match: float


class Event(_Part):
    billed_flops: int
    verb: str
    note: str
    data: Any = None


class TaskScore(_Part):
    metric: str
    value: float
    stderr: float
    n: int
    truncated: int
    filters: dict[str, float]
    metrics: dict[str, float] = {}
    items_sha256: str


class Reused(_Part):
    """The run whose learned mixture this one trained on, and the model FLOPs that it was billed until the mixture was known."""

    id: str
    flops: NonNegativeInt
    seed: int
    lr: FiniteFloat
    budget: FiniteFloat


class Reports(_Part):
    overlap: dict[str, Any]
    backend_gate: dict[str, Any] | None = None
    seconds_outside_verbs: float
    reused: Reused | None = None
    limit: int | None
    unverified: bool = False  # nobody has run this suite on the real rows of its data sets yet
    parity: dict[str, Any] | None = None
    scorer: str | None
    backend: dict[str, Any] | None = None
    weights_sha256: str | None
    base_scores: dict[str, float]
    checkpoints_peak: int
    error: str | None = None


class Record(_Part):
    """`record.json`. The run's id is the hash of `identity`, model revision, limit and rules version."""

    schema_version: int
    rules_version: int
    harness_version: str
    id: str
    workload: str
    status: Literal["finished", "budget", "failed"]
    official: bool
    started: str
    ended: str
    identity: Identity
    environment: Environment
    ledger: dict[str, PhaseSum]
    total_model_flops: int
    mixture: list[MixtureChange]
    curves: list[CurvePoint]
    events: list[Event]
    scores: dict[str, TaskScore]
    reports: Reports

    @property
    def first_use_flops(self) -> int:
        """All billed FLOPs, with what another run has paid for the mixture that this one took over."""
        return self.total_model_flops + (self.reports.reused.flops if self.reports.reused else 0)

    @property
    def doubts(self) -> list[str]:
        """Why the record may not call itself official; nothing, if it may."""
        git, limit = self.environment.git, self.reports.limit
        found = ["the run failed"] if self.status == "failed" else []
        found += ["the harness is of no clean commit"] if git.dirty is not False or not git.commit else []
        found += [f"at most {limit} rows a task"] if limit is not None else []
        gates = [self.reports.backend_gate, self.reports.parity]
        gates += [g["base"] for g in gates if g and isinstance(g.get("base"), Mapping)]
        return found + [str(g.get("why")) for g in gates if g is not None and g.get("passed") is not True]

    @property
    def macro(self) -> float:
        """Unweighted mean of the task scores."""
        return sum(s.value for s in self.scores.values()) / len(self.scores)

    @property
    def macro_base(self) -> float | None:
        base = self.reports.base_scores
        return sum(base.values()) / len(base) if base else None


def run_id(identity: Identity, model_revision: str, limit: int | None, rules_version: int) -> str:
    """16 hex digits. The test split is not in it, since it is first read after the run; suites pin its digest."""
    what = identity.model_dump(exclude={"passed"})
    what["data_sha256"] = {k: v for k, v in identity.data_sha256.items() if k != "test"}
    what["budget"] = identity.budget.multiple
    return digest([what, model_revision, limit, rules_version])[:16]


def workload_id(identity: Identity, model_revision: str, limit: int | None) -> str:
    """Suite x model x mode, with the data that were really there."""
    data = {k: v for k, v in identity.data_sha256.items() if k != "test"}
    return digest([identity.suite_sha256, data, model_revision, identity.mode, limit])[:16]


def write(record: Record, path: Path) -> None:
    """Whole or not at all; the last file that a run writes."""
    write_atomic(path, json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n")


def upgrade(raw: dict[str, Any]) -> dict[str, Any]:
    """A record of any schema version so far in the form of the newest, its own version kept. Raises HarnessError.

    tests/schema/ holds a record of every version; a new version comes with what turns the old into it.
    """
    version = raw.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and not 1 <= version <= SCHEMA_VERSION:
        raise HarnessError(f"schema version {version}: this harness reads up to {SCHEMA_VERSION}")
    return raw


def read(path: Path) -> Record:
    """A record from `record.json` or the folder that holds it. Raises HarnessError naming the key that is wrong."""
    file = path / "record.json" if path.is_dir() else path
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        begun = isinstance(error, FileNotFoundError) and (path / "config.yaml").is_file()
        why = "the run has not ended; its command goes on" if begun else error.strerror
        raise HarnessError(f"no record at {str(path)!r}: {why}") from None
    except UnicodeDecodeError:
        raise HarnessError(f"record {str(file)!r}: not UTF-8 text") from None
    except (ValueError, RecursionError) as error:
        raise HarnessError(f"record {str(file)!r}: not JSON: {' '.join(str(error).split())}") from None
    try:
        return Record.model_validate(upgrade(raw) if isinstance(raw, dict) else raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(x) for x in first["loc"]) or "file"
        raise HarnessError(f"record {str(file)!r}: {where}: {first['msg']}") from None
