"""What a pull request of results shows and proves: changed scores as a table, and one pocket cell run again.

    python pull_request.py summary BASE_ROWS.json HEAD_ROWS.json     Markdown, for the job's summary
    python pull_request.py rerun RECORD.json...                      one of them, drawn at random, is run again and compared

The rows are those of `harness site` (rows.json). Exit status of rerun: 1 where the answers differ.
"""

from __future__ import annotations

import json
import random
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

KEYS = ("board", "strategy", "options", "learning_rate", "budget")


def summary(base: list[dict[str, Any]], head: list[dict[str, Any]]) -> str:
    """A line for each row whose score or runs changed, came or went."""
    before = {tuple(row[k] for k in KEYS): row for row in base}
    after = {tuple(row[k] for k in KEYS): row for row in head}
    lines = []
    for key in sorted(before.keys() | after.keys(), key=str):
        old, new = before.get(key), after.get(key)
        if old and new and old["runs"] == new["runs"]:
            continue
        row = new or old
        assert row is not None
        cells = [
            row["board"],
            " ".join(filter(None, [row["strategy"], row["options"], f"lr {row['learning_rate']:g}"])),
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
    """One record of the embedded suite and model, of a run at 1x or less; refutations and references are no runs of a row."""
    small = []
    for path in paths:
        i = json.loads(path.read_text(encoding="utf-8")).get("identity")
        if i is None:
            continue
        if (i["suite"], i["model"]) == ("pocket", "pocket") and i["budget"]["multiple"] <= 1:
            small.append(path)
    return rng.choice(sorted(small)) if small else None


def rerun(path: Path, runs: Path) -> list[str]:
    """Runs the record's command and returns what differs: each task's score and the digest of its items."""
    from harness import record
    from harness.pages import command

    old = record.read(path)
    words = [sys.executable, "-m", *shlex.split(command(old)), "--runs", str(runs)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return [f"the run failed with status {done.returncode}"]
    new = record.read(Path(done.stdout.strip().splitlines()[-1]))
    if new.id != old.id:
        return [f"the run has id {new.id}, the record {old.id}: other code, data or settings"]
    return differences(old, new)


def differences(old: Any, new: Any) -> list[str]:
    """Tasks whose score moved by more than two standard errors of the difference, or FLOPs that are not the same.

    Other processors round otherwise, so that single answers may differ; scores that were made up differ by more.
    """
    found = []
    if abs(new.total_model_flops / max(1, old.total_model_flops) - 1) > 0.05:
        found.append(f"billed FLOPs {new.total_model_flops}, {old.total_model_flops} in the record")
    for task, was in sorted(old.scores.items()):
        now = new.scores.get(task)
        if now is None or abs(now.value - was.value) > 2 * (was.stderr**2 + now.stderr**2) ** 0.5 + 1e-9:
            found.append(f"{task}: {'none' if now is None else f'{now.value:.3f}'}, {was.value:.3f} in the record")
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
        found = rerun(path, Path("runs-again"))
        print(f"Ran {path} again: " + ("it came out the same." if not found else "it came out differently."))
        print("".join(f"- {_cell(line)}\n" for line in found), end="")
        return int(bool(found))
    print(__doc__, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
