"""What a pull request of results shows and proves: changed scores as a table, and one pocket cell run again.

    python pull_request.py summary BASE_ROWS.json HEAD_ROWS.json     Markdown, for the job's summary
    python pull_request.py rerun RECORD.json...                      one of them, drawn at random, is run again and compared

The rows are those of `harness site` (rows.json). Exit status of rerun: 1 where scores differ by more than seeds do.
"""

from __future__ import annotations

import json
import math
import random
import shlex
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from scipy.stats import t

ALL = "all tasks"
FEW = 3  # seeds
ALARM = 0.01  # the share of honest records that a comparison would call different
KEYS = ("board", "entry", "tuning_row")  # what no two rows share
NAMES = ("board", "strategy", "options", "learning_rate", "budget", "tuning_row")
SAME = ("runs", "score", "billed_flops")  # a record that was changed keeps its id


def summary(base: list[dict[str, Any]], head: list[dict[str, Any]]) -> str:
    """A line for each row whose score or runs changed, came or went."""
    before = {tuple(row[k] for k in KEYS): row for row in base}
    after = {tuple(row[k] for k in KEYS): row for row in head}
    lines = []
    named = {key: [row[k] for k in NAMES] for key, row in (before | after).items()}
    for key in sorted(named, key=lambda k: (str(named[k]), k)):
        old, new = before.get(key), after.get(key)
        if old and new and all(old[k] == new[k] for k in SAME):
            continue
        row = new or old
        assert row is not None
        cells = [
            row["board"],
            " ".join(filter(None, [row["strategy"], row["options"], f"lr {row['learning_rate']:g}"]))
            + (", tuning" if row["tuning_row"] else ""),
            f"{row['budget']:g}x",
            _score(old),
            _score(new),
            _points(old, new),
            _difference(new),
        ]
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    if not lines:
        return "No score changes.\n"
    head_line = "| board | strategy | budget | before, % | after, % | change | to proportional |"
    return "\n".join([head_line, "|---|---|---|---|---|---|---|", *lines]) + "\n"


def _score(row: dict[str, Any] | None) -> str:
    return f"{100 * row['score']:.1f} ({row['seeds']})" if row else "none"


def _points(old: dict[str, Any] | None, new: dict[str, Any] | None) -> str:
    return f"{100 * (new['score'] - old['score']):+.1f}" if old and new else "removed" if old else "new"


def _difference(row: dict[str, Any] | None) -> str:
    if row is None or row["difference"] is None:
        return ""
    ends = (
        ""
        if row["difference_low"] is None
        else f" [{100 * row['difference_low']:+.1f}, {100 * row['difference_high']:+.1f}]"
    )
    return f"{100 * row['difference']:+.1f}{ends}"


def _cell(text: str) -> str:
    """Text of a record, which may try to be markup."""
    plain = "".join(c if c.isalnum() or c in " .+-=,_/()[]%:" else "?" for c in text)
    return plain[:80]


def choose(paths: list[Path], rng: random.Random) -> Path | None:
    """One record of the embedded suite and model, of a run at 1x or less; refutations and references are no runs of a row.

    What trained on the mixture of a run that is not here cannot be run again.
    """
    small = []
    for path in paths:
        one = json.loads(path.read_text(encoding="utf-8"))
        i = one.get("identity")
        if i is None or (one["reports"].get("reused") and source(path, one["reports"]["reused"]) is None):
            continue
        if (i["suite"], i["model"]) == ("pocket", "pocket") and i["budget"]["multiple"] <= 1:
            small.append(path)
    return rng.choice(sorted(small)) if small else None


def source(path: Path, reused: dict[str, Any]) -> Path | None:
    """The record beside `path` whose mixture it took over."""
    return next(iter(sorted(path.parent.parent.glob(f"*/{reused['seed']}-{reused['id'][:8]}.json"))), None)


def seed_noise(path: Path) -> dict[str, tuple[float, int]]:
    """By task and for all of them: the standard deviation of scores over seeds and its degrees of freedom.

    Of the seeds of the record's own row where it has `FEW`, also when they came with it: whoever makes them up to lie far
    apart makes the row's interval as wide. Else pooled over the rows of its board.
    """
    from harness import record
    from harness.rows import entry

    rows: dict[str, list[dict[str, float]]] = defaultdict(list)
    for other in path.parent.parent.glob("*/*.json"):
        if json.loads(other.read_text(encoding="utf-8")).get("status") in ("finished", "budget"):
            one = record.read(other)
            rows[entry(one)].append(_scores({n: s.value for n, s in one.scores.items()}))
    own = rows[entry(record.read(path))]
    several = [own] if len(own) >= FEW else [row for row in rows.values() if len(row) > 1]
    free = sum(len(row) - 1 for row in several)
    squares: dict[str, float] = defaultdict(float)
    for row in several:
        for task in row[0]:
            squares[task] += (len(row) - 1) * statistics.variance([s[task] for s in row])
    return {task: (math.sqrt(total / free), free) for task, total in squares.items()}


def _scores(tasks: dict[str, float]) -> dict[str, float]:
    """Those of tasks, and their mean."""
    return tasks | {ALL: statistics.fmean(tasks.values())}


def rerun(path: Path, runs: Path, noise: dict[str, tuple[float, int]]) -> list[str]:
    """Runs the record's command and returns what differs more than `noise`, of seeds, explains."""
    from harness import record
    from harness.pages import command

    old = record.read(path)
    words = [sys.executable, "-m", *shlex.split(command(old)), "--runs", str(runs)]
    if old.reports.reused is not None:  # by the name of a run, which is not among these runs
        learned = source(path, old.reports.reused.model_dump())
        words = [
            w.removesuffix(old.reports.reused.id) + str(learned) if w.endswith(f"={old.reports.reused.id}") else w
            for w in words
        ]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return [f"the run failed with status {done.returncode}"]
    new = record.read(Path(done.stdout.strip().splitlines()[-1]))
    if new.id != old.id:
        return [f"the run has id {new.id}, the record {old.id}: other code, data or settings"]
    return differences(old, new, noise)


def differences(old: Any, new: Any, noise: dict[str, tuple[float, int]]) -> list[str]:
    """Scores, of a task or over all, that lie further apart than two seeds do; FLOPs that are not the same.

    Another processor adds in another order, and a training that began with another rounding ends elsewhere: the same
    seed moved a task by 12 points. So two runs may differ by what two seeds do (`noise`; where it is not known, by the
    standard error over items, and never by less than one item). Were scores normal over seeds, `ALARM` of honest records
    would be called different; a score that was made up is found only if it is far from what the strategy reaches.
    """
    if new.scores.keys() != old.scores.keys():
        return [f"scores of {', '.join(sorted(new.scores))}; of {', '.join(sorted(old.scores))} in the record"]
    found = []
    if abs(new.total_model_flops / max(1, old.total_model_flops) - 1) > 0.05:
        found.append(f"billed FLOPs {new.total_model_flops}, {old.total_model_flops} in the record")
    was, now = (_scores({n: s.value for n, s in one.scores.items()}) for one in (old, new))
    errors = {n: s.stderr for n, s in old.scores.items()}
    errors[ALL] = math.sqrt(sum(e**2 for e in errors.values())) / max(1, len(errors))
    for name in sorted(was):
        deviation, free = noise.get(name) or (errors[name], 10**6)
        deviation = max(deviation, 1 / old.scores[name].n if name in old.scores else 0.0)
        limit = t.ppf(1 - ALARM / (2 * len(was)), free) * math.sqrt(2) * deviation
        if abs(now[name] - was[name]) > limit + 1e-9:
            found.append(f"{name}: {now[name]:.3f}, {was[name]:.3f} in the record; two seeds may be {limit:.3f} apart")
    return found


def main(words: list[str]) -> int:
    """The two commands."""
    if words[:1] == ["summary"] and len(words) == 3:
        base, head = (json.loads(Path(p).read_text(encoding="utf-8")) if Path(p).is_file() else [] for p in words[1:])
        print(summary(base, head), end="")
        return 0
    if words[:1] == ["rerun"]:
        path = choose([Path(p) for p in words[1:]], random.SystemRandom())
        if path is None:
            print("No changed record of pocket x pocket to run again.")
            return 0
        found = rerun(path, Path("runs-again"), seed_noise(path))
        print(f"Ran {path} again: " + ("it came out differently." if found else "no further away than another seed."))
        print("".join(f"- {_cell(line)}\n" for line in found), end="")
        return int(bool(found))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
