"""Can the pocket suite tell strategies apart? `python benchmarks/pocket_headroom.py --seeds 6 --jobs 2`.

For each seed, `proportional` is trained for the suite's epochs and looked at every half epoch by teacher-forced exact
match on all validation and test items; `uniform` and `temperature` (tau 0.5) are run on the same seeds. Printed, in points
of macro exact match: the lift from base to end; the out-of-sample gain of choosing each task's own best checkpoint on
one half of the validation items over the best single checkpoint, both measured on the other half; which tasks lose and
which still gain late; and the smallest difference between two strategies that 5 and 10 paired seeds would detect
(two-sided 5 %, power 80 %), for each pair and with the variance pooled over the pairs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ["HARNESS_THREADS"] = "1"

import numpy as np
from scipy import stats

LOOKS_PER_EPOCH = 2
RIVALS = ("uniform", "temperature")


def matches(engine: Any, groups: dict[str, list[Any]]) -> dict[str, list[bool]]:
    """Teacher-forced exact match of every item, by task."""
    return {task: [seen.match for seen in engine.evaluate(items)[0]] for task, items in groups.items()}


def one_seed(job: tuple[str, int]) -> dict[str, Any]:
    """All looks of one run: {seed, strategy, looks: [{validation: {task: [0/1]}, test: {task: [0/1]}}]}."""
    strategy, seed = job
    from harness.data import load_rows, tokenise
    from harness.journal import Journal
    from harness.lab import RunLab
    from harness.ledger import Ledger
    from harness.request import Request, prepare
    from harness.session import Session
    from harness.setup import build

    with tempfile.TemporaryDirectory() as folder:
        plan = prepare(Request(strategy="proportional", seed=seed, runs=Path(folder)))
        core, engine = build(plan, Ledger(plan.identity.budget.flops))
        lab = RunLab(core, Session(core, Journal(None)), seed)
        test = tokenise(engine.tokenizer, load_rows(plan.suite, "test"), plan.suite.train.max_length)
        mixture = {
            "proportional": lab.proportional(),
            "uniform": lab.uniform(),
            "temperature": lab.temperature(tau=0.5),
        }[strategy]
        looks = []
        for k in range(int(plan.suite.train.epochs) * LOOKS_PER_EPOCH + 1):
            if k:
                lab.train(mixture, f"{1 / LOOKS_PER_EPOCH} epoch", keep="none")
            if strategy == "proportional" or k == plan.suite.train.epochs * LOOKS_PER_EPOCH:
                looks.append({"validation": matches(engine, plan.validation), "test": matches(engine, test)})
    print(f"{strategy} seed {seed} done", flush=True)
    return {"strategy": strategy, "seed": seed, "looks": looks}


def curves(run: dict[str, Any], split: str) -> tuple[list[str], np.ndarray]:
    """(tasks, share of matches in points, (looks, tasks)) on a split; `test` and `validation` pooled as `both`."""
    tasks = sorted(run["looks"][0]["validation"])
    splits = ("validation", "test") if split == "both" else (split,)
    table = [
        [100 * np.mean(np.concatenate([look[s][task] for s in splits])) for task in tasks] for look in run["looks"]
    ]
    return tasks, np.array(table)


def halves(run: dict[str, Any]) -> float:
    """Out-of-sample gain (points of macro): per-task best against best single look, both ways round, averaged."""
    tasks = sorted(run["looks"][0]["validation"])
    found = []
    for first in (0, 1):
        pick, hold = (
            np.array([[100 * np.mean(look["validation"][t][h::2]) for t in tasks] for look in run["looks"]])
            for h in (first, 1 - first)
        )
        own = hold[pick.argmax(0), np.arange(len(tasks))].mean()
        found.append(own - hold[pick.mean(1).argmax()].mean())
    return float(np.mean(found))


def detectable(sd: float, n: int) -> float:
    """Smallest true difference that n paired seeds detect: (t_.975 + t_.8) sd / sqrt(n), with n - 1 degrees."""
    return float((stats.t.ppf(0.975, n - 1) + stats.t.ppf(0.8, n - 1)) * sd / np.sqrt(n))


def _found(sd: float) -> str:
    return f"detectable {detectable(sd, 5):.2f} at 5 seeds, {detectable(sd, 10):.2f} at 10"


def power(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Print and return what two strategies must differ by: test scores at the end of the same seeds, pair by pair."""
    ordered = sorted(runs, key=lambda r: r["seed"])
    by_name = {
        name: np.array([curves(r, "test")[1][-1].mean() for r in ordered if r["strategy"] == name])
        for name in ("proportional", *RIVALS)
    }
    spreads = {}
    for a, b in itertools.combinations(by_name, 2):
        gap = by_name[b] - by_name[a]
        spreads[f"{b} - {a}"] = sd = float(gap.std(ddof=1))
        print(f"{b} - {a} on test: {gap.mean():+.2f}, sd over seeds {sd:.2f}: {_found(sd)}")
    pooled = float(np.sqrt(np.mean(np.square(list(spreads.values())))))
    print(f"pooled over pairs: sd {pooled:.2f}: {_found(pooled)}")
    return {"scores": {k: v.tolist() for k, v in by_name.items()}, "sd": spreads, "pooled_sd": pooled}


def report(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Print the report and return its figures."""
    plain = sorted((r for r in runs if r["strategy"] == "proportional"), key=lambda r: r["seed"])
    tasks = curves(plain[0], "both")[0]
    mean = np.mean([curves(r, "both")[1] for r in plain], axis=0)
    smooth = np.array([mean[max(0, k - 1) : k + 2].mean(0) for k in range(len(mean))])
    end = mean[-3:].mean(0)
    lost, late = smooth.max(0) - end, end - mean[2 * len(mean) // 3 - 1 : 2 * len(mean) // 3 + 2].mean(0)
    base, middle = mean[0].mean(), mean[len(mean) // 2].mean()
    gains = [halves(r) for r in plain]
    print(f"\n{len(plain)} seeds; exact match in %, validation and test items together; looks every half epoch")
    print(f"{'task':12}" + "".join(f"{h:>9}" for h in ("base", "middle", "peak", "at", "end", "lost", "late")))
    for i, task in enumerate(tasks):
        at = smooth[:, i].argmax() / LOOKS_PER_EPOCH
        row = (mean[0, i], mean[len(mean) // 2, i], smooth[:, i].max(), at, end[i], lost[i], late[i])
        print(f"{task:12}" + "".join(f"{x:9.1f}" for x in row))
    print(f"macro: base {base:.1f}, middle {middle:.1f}, end {mean[-1].mean():.1f}: lift {mean[-1].mean() - base:.1f}")
    print(
        f"out-of-sample gain of per-task checkpoints: {np.mean(gains):.2f} (seeds: {', '.join(f'{g:.1f}' for g in gains)})"
    )
    print(f"tasks that lose >= 5 by the end: {sum(lost >= 5)}; that gain >= 3 in the last third: {sum(late >= 3)}")
    return {
        "seeds": len(plain),
        "macro": {"base": base, "middle": middle, "end": mean[-1].mean()},
        "gain": gains,
        "lost": dict(zip(tasks, lost.tolist(), strict=True)),
        "late": dict(zip(tasks, late.tolist(), strict=True)),
        "power": power(runs),
    }


def main() -> None:
    """Run the jobs in processes of one thread each, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    jobs = [(s, seed) for seed in seeds for s in ("proportional", *RIVALS)]
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        figures = report(pool.map(one_seed, jobs, chunksize=1))
    if args.out:
        args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
