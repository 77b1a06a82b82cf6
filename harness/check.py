"""`harness check`: does a strategy keep what the lab's promises rest on? One line a check, in about half a minute.

The checks are invariants of trial runs (harness.trial) on a small suite and a tiny model made on the spot; see
harness.verdicts for what is compared with what. Two processes fork the trials; they differ in Python's hash seed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from harness import registry, source, toy, verdicts
from harness.errors import HarnessError
from harness.ledger import read
from harness.paths import asset
from harness.verdicts import Verdict

Trials = dict[str, dict[str, Any]]
Ask = Callable[..., dict[str, Any]]
TRIALS = ("watched", "twice", "seed", "fresh", "killed", "backwards", "alone")
FIRST = ("watched", "fresh")
HASH_SEEDS = (0, 12)  # sets of the toy suite's names come out in opposite orders
GRADING = ["lm_eval.filters", "lm_eval.api.instance", "lm_eval.api.metrics"]


def check(strategy: str, suite: str | None = None) -> list[Verdict]:
    """All verdicts on a strategy by name or file. Raises HarnessError for one that does not exist or is no Python."""
    for file in located(strategy)[1]:
        source.parsed(Path(file))
    made = toy.own() if suite is None else toy.of_suite(suite)
    with Workshop(made) as workshop:
        return workshop.check(strategy)


class Workshop:
    """Two processes that fork trials, and a model: what the checks of any number of strategies share."""

    def __init__(self, made: toy.Toy) -> None:
        self.toy = made
        self.folder = Path(tempfile.mkdtemp(prefix="harness-check-")).resolve()
        self.log = (self.folder / "log.txt").open("w")
        self.forks = [Forks(seed, self.log) for seed in HASH_SEEDS]
        self.checked = 0

    def __enter__(self) -> Workshop:
        for forks in self.forks:
            forks.answer()  # ready
        self.forks[0].ask({"make": str(self.folder / "model")})
        return self

    def __exit__(self, *_: object) -> None:
        for forks in self.forks:
            forks.process.kill()
            forks.process.wait()
        self.log.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def check(self, strategy: str, wanted: Collection[str] = TRIALS) -> list[Verdict]:
        """All verdicts on one strategy that these trials allow."""
        name, files = located(strategy)
        self.checked += 1
        bench = Bench(self, self.folder / str(self.checked), name, files)
        return list(verdicts.verdicts(bench.trials(wanted)))


def located(strategy: str) -> tuple[str, list[str]]:
    """The strategy with its files' whole paths, and all files that are its code; nothing of it is run here."""
    parts, files = [], []
    for part in strategy.split("+"):
        if part.endswith(".py"):
            if not Path(part).is_file():
                raise HarnessError(f"strategy file {part!r} does not exist")
            part = str(Path(part).resolve())
            files.append(part)
        elif part in registry.builtin():
            files.append(str(registry.builtin()[part]))
        elif part in registry.entry_points():
            spec = importlib.util.find_spec(registry.entry_points()[part].module)
            files += [spec.origin] if spec and spec.origin else []
        else:
            registry.find(part)  # raises, with the nearest name or file
        parts.append(part)
    return "+".join(parts), files


def runs(answer: dict[str, Any]) -> bool:
    return bool(answer["stage"] == "done")


class Forks:
    """One process of harness.trial. `seed` is Python's hash seed."""

    def __init__(self, seed: int, log: IO[str]) -> None:
        here = str(Path(__file__).resolve().parent.parent)
        env = {k: v for k, v in os.environ.items() if not k.startswith("HARNESS_")} | {
            "PYTHONHASHSEED": str(seed),
            "PYTHONSAFEPATH": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])),
            "HARNESS_DEVICE": "cpu",
            "HARNESS_THREADS": "1",
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "passive",
            "TOKENIZERS_PARALLELISM": "false",
        }
        command = [sys.executable, "-m", "harness.trial"]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, stderr=log, text=True, env=env)

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise HarnessError("check: the process of the trial runs died; see whether `import torch` works")
        found: dict[str, Any] = json.loads(line)
        return found


class Bench:
    """The trials of one strategy below one folder."""

    def __init__(self, workshop: Workshop, folder: Path, strategy: str, files: list[str]) -> None:
        self.folder, self.strategy = folder, strategy
        self.toy, self.forks, self.model = workshop.toy, workshop.forks, workshop.folder / "model"
        shared = asset("strategies") / "_numerics.py"
        self.code = [*files, *([str(shared)] if shared.exists() else [])]
        text = "".join(Path(f).read_text(encoding="utf-8", errors="replace") for f in files if Path(f).is_file())
        self.preload = GRADING if ".grade(" in text else []

    def trials(self, wanted: Collection[str] = TRIALS) -> Trials:
        """The answers to the trials that are wanted, by name. What does not run at all is tried once only."""
        found: Trials = {}

        def one(jobs: dict[str, Callable[[], dict[str, Any]]]) -> None:
            for name in [n for n in jobs if n in wanted]:
                found[name] = jobs[name]()
                if name in FIRST and not runs(found[name]):
                    return

        halves = [self.one_process(self.asker(0)), self.another_process(self.asker(1), found)]
        with ThreadPoolExecutor(len(halves)) as pool:
            list(pool.map(one, halves))
        return found

    def one_process(self, ask: Ask) -> dict[str, Callable[[], dict[str, Any]]]:
        return {
            "watched": lambda: ask("watched", self.toy, watch=True),
            "twice": lambda: ask("twice", self.toy, times=2),
            "seed": lambda: ask("seed", self.toy, seed=1),
        }

    def another_process(self, ask: Ask, found: Trials) -> dict[str, Callable[[], dict[str, Any]]]:
        return {
            "fresh": lambda: ask("elsewhere/fresh", self.toy, test="present"),
            "killed": lambda: self.killed(ask, found["fresh"]),
            "backwards": lambda: ask("backwards", self.toy.backwards()),
            "alone": lambda: ask("alone", self.toy.alone()),
        }

    def killed(self, ask: Ask, calm: dict[str, Any]) -> dict[str, Any]:
        """A run that is killed in the middle of trainings, between verbs and before scoring, and started again each time."""
        lines = read(Path(calm["records"][0]).with_name("ledger.jsonl"))
        steps = len({(e.verb, e.step) for e in lines if e.step})
        struck = 0
        for place in (f"step:{max(1, steps // 4)}", f"step:{max(1, steps // 3)}", "between:1", "verb:2", "score:1"):
            env = {"HARNESS_SNAPSHOT_SECONDS": "0", "HARNESS_FAULT": f"kill@{place}"}
            done = ask("killed", self.toy, env=env, test="present")
            if done["status"] != -9 or "stuck" in done:
                return done | {"struck": struck}
            struck += 1
        return ask("killed", self.toy, env={"HARNESS_SNAPSHOT_SECONDS": "0"}, test="present") | {"struck": struck}

    def asker(self, which: int) -> Ask:
        def ask(name: str, made: toy.Toy, **more: Any) -> dict[str, Any]:
            place = self.folder / name
            suite = place / "suite" / f"{made.spec['name']}.yaml"
            if not suite.exists():
                made.write(suite.parent)
            (place / "here").mkdir(exist_ok=True)
            job: dict[str, Any] = {"strategy": self.strategy, "files": self.code, "model": str(self.model)}
            job |= {"suite": str(suite), "runs": str(place / "runs"), "folder": str(place / "here")}
            job |= {"seed": 0, "times": 1, "watch": False, "test": "absent", "env": {}, "preload": self.preload}
            return self.forks[which].ask(job | more)

        return ask
