"""What the trial runs of `harness check` say: one verdict a check, and for a failure what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from harness import ledger

Trials = Mapping[str, dict[str, Any]]  # answers of harness.trial by name


@dataclass(frozen=True)
class Verdict:
    """`open`: an earlier failure stood in the way, so that this could not be tried."""

    name: str
    state: Literal["kept", "broken", "open"]
    advice: str = ""

    def __str__(self) -> str:
        mark = {"kept": "✓", "broken": "✗", "open": "–"}[self.state]
        return f"{mark} {self.name}" + (f": {self.advice}" if self.advice else "")


class Open(Exception):
    """There is nothing to judge by."""


def verdicts(trials: Trials) -> Iterator[Verdict]:
    """All checks, in the order of the page."""
    for name, check in CHECKS.items():
        try:
            advice = check(trials)
        except Open as why:
            yield Verdict(name, "open", f"not tried, {why}")
            continue
        struck = f" ({trial(trials, 'killed')['struck']} kills)" if check is killed else ""
        yield Verdict(name + struck, "broken" if advice else "kept", advice or "")


# --- what the trials left


def comparable(path: str) -> dict[str, Any]:
    """A record and its run's bookings without times and machine."""
    record = json.loads(Path(path).read_text(encoding="utf-8"))
    for row in record["ledger"].values():
        row.pop("seconds")
    for key in ("started", "ended", "environment", "official"):
        record.pop(key)
    for key in ("seconds_outside_verbs", "checkpoints_peak"):
        record["reports"].pop(key)
    lines = ledger.read(Path(path).with_name("ledger.jsonl"))
    record["bookings"] = [[e.verb, e.step, e.phase, e.model, e.hardware, e.tokens] for e in lines]
    return dict(record)


def difference(a: Any, b: Any, where: str = "") -> str | None:
    """The first place where two JSON values differ; what a person can act on comes before weights and scores."""
    if isinstance(a, dict) and isinstance(b, dict):
        order = ["bookings", "events", "mixture", "curves"]
        for key in sorted(a.keys() | b.keys(), key=lambda k: (order.index(k) if k in order else 9, str(k))):
            if found := difference(a.get(key), b.get(key), f"{where}.{key}".lstrip(".")):
                return found
        return None
    if isinstance(a, list) and isinstance(b, list):
        for k, (x, y) in enumerate(zip(a, b, strict=False)):
            if found := difference(x, y, f"{where}[{k}]"):
                return found
        return None if len(a) == len(b) else f"{where}: {len(a)} entries and {len(b)}"
    return None if a == b else f"{where}: {_short(a)} and {_short(b)}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else text[:37] + "..."


def trial(trials: Trials, name: str) -> dict[str, Any]:
    """An answer. Raises Open for a trial that was not made."""
    if name not in trials:
        raise Open("since the strategy does not run")
    return trials[name]


def answer(trials: Trials, name: str) -> dict[str, Any]:
    """A trial that ran to its end. Raises Open for one that did not."""
    found = trial(trials, name)
    if found["stage"] != "done":
        raise Open("since the strategy does not run")
    return found


def plain(trials: Trials, name: str, k: int = 0) -> dict[str, Any]:
    return comparable(answer(trials, name)["records"][k])


def failure(found: Mapping[str, Any]) -> str | None:
    """Why a trial did not end well."""
    if found["stage"] == "done":
        return None
    if "stuck" in found:
        return f"it does not end: {found['stuck']}; let a verb that spends end every loop, or return"
    if "error" in found:
        said = re.sub(r" \([^()]*/error\.txt\)$", "", str(found["error"]))
        if said.startswith("SystemExit"):
            said += "; return from run instead of ending the process"
        return f"{said} ({found['line']})" if found.get("line") else said
    return f"its process died (status {found.get('status')})"


def noted(key: str) -> Callable[[Trials], str | None]:
    """What the watch noted, and what the source says, of one check."""

    def check(trials: Trials) -> str | None:
        watched = trial(trials, "watched")
        said = [m for rows in watched.get("source", []) for m in rows.get(key, [])]
        said += watched.get("found", {}).get(key, [])
        if not said and (watched["stage"] != "done" if key not in SOURCE else "source" not in watched):
            raise Open("since the strategy does not run")
        return "; ".join(dict.fromkeys(said)) or None

    return check


SOURCE = ("documented", "imports", "private", "ends")


# --- the checks


def reached(trials: Trials) -> dict[str, Any]:
    """The watched trial, which has told how far it came. Raises Open where its process died before it could."""
    watched = trial(trials, "watched")
    if watched["stage"] == "?":
        raise Open("since its process died")
    return watched


def loads(trials: Trials) -> str | None:
    watched = reached(trials)
    return failure(watched) if watched["stage"] == "load" else None


def constructs(trials: Trials) -> str | None:
    watched = reached(trials)
    if watched["stage"] == "load":
        raise Open("since the file does not load")
    if watched["stage"] != "construct":
        return None
    return f"{failure(watched)}; every field has a default, a plain value such as a number, a text or a tuple"


def skip(trials: Trials) -> str | None:
    watched = reached(trials)
    if watched["stage"] in ("load", "construct"):
        raise Open("since the strategy cannot be made")
    if watched["stage"] == "skip" and "error" in watched:
        return f"{watched['error']}; skip(suite) returns None, or why this suite cannot host the method"
    return None


def runs(trials: Trials) -> str | None:
    """It spends what it may, or ends by itself after an answer."""
    watched = trial(trials, "watched")
    if watched["stage"] in ("load", "construct") or (watched["stage"] == "skip" and "error" in watched):
        raise Open("since the strategy cannot be made")
    if watched["stage"] == "skip":
        reason = next(r for r in watched["skips"].values() if r)
        return f"skip() refuses this suite ({reason}); give one that it takes with --suite FILE"
    for name in ("watched", "fresh", "twice"):
        if name in trials and (said := failure(trials[name])):
            return said
    done, found = trial(trials, "twice"), plain(trials, "twice")
    left, answered = done["cap"] - found["total_model_flops"], any(e["verb"] == "answer" for e in found["events"])
    trained = sum(found["ledger"][phase]["model_flops"] for phase in ("train", "discarded", "proxy"))
    if answered or left < done["step"] or done["cut"] or (found["status"] == "budget" and trained):
        return None
    if found["status"] == "budget":
        return "its first work does not fit the budget, so that nothing was trained; ask for less at a time"
    share = 100 * left / done["cap"]
    return f"it ended with {share:.0f} % of the budget left and no answer; train with REST, or name lab.answer() first"


def cap(trials: Trials) -> str | None:
    done, found = answer(trials, "twice"), plain(trials, "twice")
    spent = sum(row[3] for row in found["bookings"] if row[2] in ledger.BILLED)
    if spent > done["cap"] or spent != found["total_model_flops"]:
        return f"{spent:,} FLOPs are booked, {found['total_model_flops']:,} recorded, the cap is {done['cap']:,}"
    return None


def complete(trials: Trials) -> str | None:
    """All that the process computed during run(lab) is in the ledger; small sums of a strategy's own are not work."""
    watched = answer(trials, "watched")
    seen, booked = watched["flops"]["seen"], watched["flops"]["booked"]
    if before := watched["flops"].get("before", 0):
        return f"{before:,} FLOPs ran before run(lab); nothing is computed when a strategy is imported or made"
    if seen > booked + watched["forward"] // 2:
        return (
            f"{seen - booked:,} FLOPs ran outside the lab's verbs, of {seen:,}; ask the lab for what needs the model "
            "(validate, logprobs, distributions, gradients, generate, fork), and do small sums in numpy"
        )
    if seen < 0.99 * booked:
        return f"the ledger holds {booked:,} FLOPs, but only {seen:,} ran; leave torch's dispatch and the ledger alone"
    return None


def state(trials: Trials) -> str | None:
    if said := noted("state")(trials):
        return said
    found = difference(plain(trials, "twice", 0), plain(trials, "twice", 1))
    return found and f"two runs in one process differ at {found}; keep no state in modules, classes or fields"


def same(trials: Trials) -> str | None:
    first = plain(trials, "twice")
    found = difference(first, plain(trials, "fresh"))
    if found:
        return (
            f"another process gives {found}; draw from lab.rng only, sort what comes out of sets, and use no time, "
            "address, hash, path or environment"
        )
    found = difference(first, plain(trials, "watched"))
    return found and f"a watched run differs at {found}; a strategy does not look at who runs it"


def seed(trials: Trials) -> str | None:
    first = plain(trials, "twice")
    if said := failure(trial(trials, "seed")):
        return f"with seed 1: {said}"
    other = plain(trials, "seed")
    trained = any(found["ledger"]["train"]["model_flops"] for found in (first, other))
    if trained and first["reports"]["weights_sha256"] == other["reports"]["weights_sha256"]:
        return "seeds 0 and 1 give the same weights; let the lab draw the examples, and draw from lab.rng"
    return None


def alone(trials: Trials) -> str | None:
    answer(trials, "fresh")
    found = trial(trials, "alone")
    if found["stage"] == "skip" and "error" not in found:
        return None  # it says why
    said = failure(found)
    return said and f"on one task: {said}; run there, or let skip(suite) say why not"


def order(trials: Trials) -> str | None:
    first = plain(trials, "twice")
    if said := failure(trial(trials, "backwards")):
        return f"with the tasks in reverse order: {said}"
    found = difference(first, plain(trials, "backwards"))
    return found and f"with the suite's tasks in reverse order, {found}; go by names: sorted(lab.tasks)"


def killed(trials: Trials) -> str | None:
    first = plain(trials, "fresh")
    if said := failure(trial(trials, "killed")):
        return f"killed and started again: {said}; control state is local variables of run, callbacks keep nothing"
    found = difference(first, plain(trials, "killed"))
    return found and (
        f"killed {trial(trials, 'killed')['struck']} times it gives {found}; a finished train's callbacks are not run again: "
        "keep what they learn in .table or .state"
    )


CHECKS: dict[str, Callable[[Trials], str | None]] = {
    "one frozen dataclass with run or wrap": loads,
    "default-constructible": constructs,
    "documented": noted("documented"),
    "imports only what it may": noted("imports"),
    "asks only for what harness.api offers": noted("private"),
    "skip is honest": skip,
    "runs to its budget": runs,
    "lets the budget end it": noted("ends"),
    "stays under its cap": cap,
    "every FLOP is in the ledger": complete,
    "mixtures are proper": noted("mixtures"),
    "the lab changes by its verbs alone": noted("lab"),
    "callbacks keep nothing of their own": noted("callbacks"),
    "draws from the lab's generators": noted("random"),
    "leaves files and process alone": noted("outside"),
    "never touches the test split": noted("test"),
    "keeps no state between runs": state,
    "same seed, same record": same,
    "another seed, other weights": seed,
    "runs on one task, or says why not": alone,
    "the order of tasks does not matter": order,
    "killed anywhere, the same record": killed,
}
