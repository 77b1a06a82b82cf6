"""Scores from elsewhere: a results file of lm-eval as a record type of its own, which claims nothing but these scores.

`results/<suite>/references/<name>.reference-<digest8>.json`. There is no ledger, no seed and no item behind it, so that it
is never ranked, enters no mean and no difference, and stands apart on the board: compute unknown.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import HarnessError, unknown
from harness.paths import digest, write_atomic
from harness.privacy import short, wrong_name
from harness.suite import Suite, available, load_suite

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}\.reference-[0-9a-f]{8}\.json")
URL = re.compile(r"https://[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+(?:/[\w./%#?=&~+@:-]*)?")
HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
LARGEST = 50_000_000  # bytes of a results file of lm-eval; with thousands of tasks it has a few
VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reported(_Part):
    """One task's score, a share of `n` of the task's `of` items. `task_hash`: lm-eval's, of documents and prompts."""

    lm_eval_task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    n: int
    of: int
    num_fewshot: int | None
    task_hash: str | None


class Reference(_Part):
    """The file's content. `name`: what was scored, as the one who brings it says; `sha256`: of lm-eval's file."""

    kind: Literal["reference"] = "reference"
    schema_version: int = VERSION
    suite: str
    name: str
    source: str
    model: str
    lm_eval_version: str
    date: str
    chat_template: bool
    sha256: str
    scores: dict[str, Reported]

    @property
    def macro(self) -> float:
        """Mean over the tasks that it has."""
        return sum(s.value for s in self.scores.values()) / len(self.scores)


@dataclass(frozen=True)
class Imported:
    """`missing`: tasks of the suite that the file has no score of; `left`: tasks of the file that the suite has not."""

    path: Path
    missing: list[str]
    left: list[str]


def bring(file: Path, suite_name: str, name: str, source: str, results: Path) -> Imported:
    """A results file of lm-eval into the results folder. Raises HarnessError."""
    if suite_name not in available():
        raise unknown("suite", suite_name, available())
    suite = load_suite(suite_name)
    made, left = read_lm_eval(file, suite, name, source)
    wrong = next(problems(made), None)
    if wrong is not None:
        raise HarnessError(f"{file}: {wrong[0]}; expected {wrong[1]}")
    path = results / suite.name / "references" / file_name(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(made.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False) + "\n")
    return Imported(path, sorted(set(suite.scored) - set(made.scores)), left)


def read_lm_eval(file: Path, suite: Suite, name: str, source: str) -> tuple[Reference, list[str]]:
    """The reference, and the tasks of the file that it leaves out. Raises HarnessError for what is no results file."""
    try:
        if file.stat().st_size > LARGEST:
            raise HarnessError(f"{file}: {file.stat().st_size:,} bytes; expected at most {LARGEST:,}")
        data = file.read_bytes()
        raw = json.loads(data)
        if not isinstance(raw, dict) or not isinstance(raw.get("results"), dict) or "n-samples" not in raw:
            raise HarnessError(f"{file}: no results file of lm-eval; expected its results_<time>.json")
        found = {task: lm for task in sorted(suite.scored) if (lm := _match(task, suite, raw["results"]))}
        left = sorted(set(raw["results"]) - set(found.values()))
        if not found:
            raise HarnessError(
                f"{file}: none of its tasks is of suite {suite.name!r}: it has {', '.join(left)[:120]}; "
                f"expected names like {sorted(suite.scored)[0]!r}"
            )
        made = Reference(
            suite=suite.name,
            name=name,
            source=source,
            model=_hub(raw.get("model_name")),
            lm_eval_version=str(raw.get("lm_eval_version") or "unknown"),
            date=datetime.fromtimestamp(float(raw["date"]), UTC).isoformat(timespec="seconds"),
            chat_template=raw.get("chat_template") is not None,
            sha256=hashlib.sha256(data).hexdigest(),
            scores={task: _score(raw, lm, task, suite) for task, lm in found.items()},
        )
    except OSError as error:
        raise HarnessError(f"{file}: {error.strerror}") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise HarnessError(f"{file}: no results file of lm-eval ({' '.join(repr(error).split())[:120]})") from None
    return made, left


def _match(task: str, suite: Suite, results: Mapping[str, Any]) -> str | None:
    """lm-eval's name of a scoring task: the harness's own, the same name, or the only one that ends in it."""
    for name in (f"harness_{suite.name}_{task}", task):
        if name in results:
            return name
    longer = [other for other in suite.scored if other.endswith(f"_{task}")]
    ends = [n for n in results if n.endswith(f"_{task}") and not any(n.endswith(f"_{other}") for other in longer)]
    if len(ends) > 1:
        raise HarnessError(f"task {task!r} may be any of {', '.join(sorted(ends))[:120]}; expected one")
    return ends[0] if ends else None


def _score(raw: Mapping[str, Any], lm: str, task: str, suite: Suite) -> Reported:
    how, result, size = suite.scored[task], raw["results"][lm], raw["n-samples"][lm]
    key = f"{how.metric},{how.filter}"
    if key not in result:
        has = ", ".join(k for k in result if "," in k and "_stderr" not in k)
        raise HarnessError(f"task {lm!r} has no {key!r}, the score of suite {suite.name}; it has {has[:120] or 'none'}")
    stderr, shots = result.get(f"{how.metric}_stderr,{how.filter}"), raw.get("n-shot", {}).get(lm)
    return Reported(
        lm_eval_task=lm,
        metric=how.metric,
        filter=how.filter,
        value=float(result[key]),
        stderr=float(stderr) if isinstance(stderr, int | float) and math.isfinite(stderr) else None,
        n=int(size["effective"]),
        of=int(size["original"]),
        num_fewshot=shots if isinstance(shots, int) else None,
        task_hash=raw.get("task_hashes", {}).get(lm),
    )


def _hub(name: Any) -> str:
    """An id of the hub; a folder of somebody's machine is nobody's business."""
    return name if isinstance(name, str) and HUB.fullmatch(name) else ""


def file_name(r: Reference) -> str:
    """The name as far as it is plain letters, and a digest of the whole."""
    words = re.sub(r"[^a-z0-9]+", "-", r.name.lower()).strip("-")[:64].strip("-")
    return f"{words or 'x'}.reference-{digest(r.model_dump(mode='json'))[:8]}.json"


def load(path: Path) -> Reference:
    """A reference from its file. Raises HarnessError."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        found = Reference.model_validate(raw)
    except (OSError, ValueError, ValidationError, RecursionError) as error:
        raise HarnessError(f"reference {str(path)!r}: {' '.join(str(error).split())[:160]}") from None
    if not found.scores or not all(math.isfinite(x) for s in found.scores.values() for x in (s.value, s.stderr or 0.0)):
        raise HarnessError(f"reference {str(path)!r}: no scores, or one that is not finite")
    return found


def problems(r: Reference) -> Iterator[tuple[str, str]]:
    """What no results file of lm-eval on a suite's tasks says: (what, what was expected)."""
    if r.schema_version != VERSION:
        yield f"schema_version {r.schema_version}", str(VERSION)
    for key in ("name", "model", "lm_eval_version"):
        value = getattr(r, key)
        if (value or key != "model") and (wrong := wrong_name(value)):
            yield f"{key}: {wrong}", "a plain name"
    if len(r.source) > 300 or not URL.fullmatch(r.source):
        yield f"source {short(r.source)}", "an https:// address where the run is described"
    if not re.fullmatch(r"[0-9a-f]{64}", r.sha256):
        yield f"sha256 {short(r.sha256)}", "64 hex digits"
    try:
        datetime.fromisoformat(r.date)
    except ValueError:
        yield f"date {short(r.date)}", "an ISO date"
    if r.suite not in available():
        yield f"suite {short(r.suite)}", "a suite of suites/"
        return
    scored = load_suite(r.suite).scored
    if not r.scores:
        yield "no scores", f"of {len(scored)} tasks at most"
    for task, s in r.scores.items():
        if task not in scored:
            yield f"task {short(task)}", f"one of the {len(scored)} tasks of suite {r.suite}"
            continue
        yield from _wrong_score(task, s, (scored[task].metric, scored[task].filter))


def _wrong_score(task: str, s: Reported, how: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """A share of n items, each right or wrong, and lm-eval's standard error of it."""
    where = f"scores.{task}"
    if (s.metric, s.filter) != how:
        yield (
            f"{where}: {short(s.metric)} under filter {short(s.filter)}",
            f"{how[0]} under {how[1]}, as the suite has it",
        )
    for text in (s.lm_eval_task, s.task_hash or "0"):
        if wrong := wrong_name(text):
            yield f"{where}: {wrong}", "a plain name"
    if not 0 < s.n <= s.of:
        yield f"{where}: {s.n} of {s.of} items", "1 to all of them"
        return
    right = s.value * s.n
    if not (math.isfinite(s.value) and 0 <= s.value <= 1 and abs(right - round(right)) < 1e-6):
        yield f"{where}.value {s.value}", f"a share of {s.n} items"
    elif s.stderr is not None and s.n > 1:
        want = math.sqrt(s.value * (1 - s.value) / (s.n - 1))
        if not abs(s.stderr - want) < 1e-6:
            yield f"{where}.stderr {s.stderr}", f"{want:.6f}, of this share of {s.n} items"
