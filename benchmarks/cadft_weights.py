"""Whom does CADFT weigh down, and what does it rewrite? `python benchmarks/cadft_weights.py pocket-poisoned --seeds 0-2`

Trains `cadft` on pocket, or on a variant that variants.py has written, under its real lab to the end of a budget, without
looks and scoring, and notes the weight of every visit of an example. Two tables, means over seeds: by task, the mean weight in
single passes over the data, how many rewritings there were and how many of them were the example's target again; and, on
pocket-poisoned, by pass over the poisoned task, the share of pairs of a right and a wrong answer in which the right one
weighs more (AUC; 0.5 is chance), by seed.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from scipy.stats import mannwhitneyu

from benchmarks import variants
from harness.errors import BudgetExhausted
from harness.paths import asset
from tests.labs import make_lab

POISONED = "larger"


@dataclass
class Seen:
    """Of one run: each visit's weight by example, and by task how many rewritings there were, and how many of the target."""

    weights: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    rewritten: Counter[str] = field(default_factory=Counter)
    same: Counter[str] = field(default_factory=Counter)

    def task(self, name: str, visit: int) -> float:
        """Mean weight of the task's examples at their visit of this number."""
        return float(
            np.mean([w[visit] for e, w in self.weights.items() if e.startswith(f"{name}/") and len(w) > visit])
        )


def trained(suite: Path, seed: int, lr: float, options: Mapping[str, str]) -> Seen:
    """One run, watched."""
    seen = Seen()
    with tempfile.TemporaryDirectory() as folder:
        request = {"strategy": "cadft", "options": options, "seed": seed, "lr": lr}
        lab, _, _, plan = make_lab(Path(folder), suite, Path("pocket"), **request)
        method = type(plan.strategy.parts[0])  # a strategy's file is loaded anew for each run, so the class is its own
        weigh, rewrite = method.weigh, lab.rewrite

        def noted(self: Any, batch: Any) -> Any:
            w_B = weigh(self, batch)
            for example, w in zip(batch.ids, w_B, strict=True):
                seen.weights[example].append(float(w))
            return w_B

        def counted(example: Any, response: str) -> Any:
            seen.rewritten[example.task] += 1
            seen.same[example.task] += lab.grade(example, response)
            return rewrite(example, response)

        method.weigh, lab.rewrite = noted, counted
        with suppress(BudgetExhausted):
            plan.strategy.run(lab)
    return seen


def by_task(runs: list[Seen], passes: list[int]) -> str:
    """Markdown: a row a task."""
    tasks = sorted({e.rpartition("/")[0] for e in runs[0].weights})
    heads = ["task", *(f"weight, pass {k}" for k in passes), "rewritten", "as the target"]
    lines = ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]
    for task in tasks:
        means = [f"{np.mean([run.task(task, k - 1) for run in runs]):.2f}" for k in passes]
        counts = [
            f"{np.mean([c[task] for c in found]):.1f}"
            for found in ([r.rewritten for r in runs], [r.same for r in runs])
        ]
        lines.append("| " + " | ".join([task, *means, *counts]) + " |")
    return "\n".join(lines)


def wrong_ids() -> set[str]:
    """Of the poisoned task's training examples: those with another target than in pocket."""
    clean = variants.pocket()
    pairs = zip(clean["train"], variants.poisoned(clean)["train"], strict=True)
    same = [a == b for a, b in pairs if a["task"] == POISONED]
    return {f"{POISONED}/{k}" for k, kept in enumerate(same) if not kept}


def by_pass(runs: list[Seen], last: int) -> str:
    """Markdown: a row a pass, AUC by seed and the mean weights of right and of wrong answers."""
    wrong = wrong_ids()
    lines = ["| pass | " + "AUC | " * len(runs) + "weight, right | weight, wrong |"]
    lines.append("| ---: |" + " ---: |" * (len(runs) + 2))
    for k in range(last):
        aucs, means = [], []
        for seen in runs:
            mine = {e: w for e, w in seen.weights.items() if e.startswith(f"{POISONED}/") and len(w) > k}
            bad, good = ([w[k] for e, w in mine.items() if (e in wrong) is is_bad] for is_bad in (True, False))
            aucs.append(f"{mannwhitneyu(good, bad).statistic / (len(good) * len(bad)):.2f}")
            means.append((np.mean(good), np.mean(bad)))
        lines.append("| " + " | ".join([f"{k + 1}", *aucs, *(f"{m:.2f}" for m in np.mean(means, axis=0))]) + " |")
    return "\n".join(lines)


def main(suite: str, seeds: list[int], lr: float, options: dict[str, str]) -> None:
    """Both tables."""
    path = asset("suites") / "pocket.yaml" if suite == "pocket" else variants.FOLDER / f"{suite}.yaml"
    runs = [trained(path, seed, lr, options) for seed in seeds]
    last = min(max(map(len, run.weights.values())) for run in runs)
    print(by_task(runs, [1, (last + 1) // 2, last]))
    if suite == "pocket-poisoned":
        print("\n" + by_pass(runs, last))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite")
    parser.add_argument("--seeds", default="0-2")
    parser.add_argument("--lr", type=float, default=4e-4, help="the study's: 4e-4, and 8e-4 for weights only")
    parser.add_argument("--weights-only", action="store_true", help="without delayed rewriting")
    args = parser.parse_args()
    first, _, final = args.seeds.partition("-")
    chosen = {"rewrite": "false"} if args.weights_only else {}
    main(args.suite, list(range(int(first), int(final or first) + 1)), args.lr, chosen)
