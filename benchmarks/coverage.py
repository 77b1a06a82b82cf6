"""How often the 95 % intervals of the board hold the true difference: simulated strategies, seeds and items.

    python benchmarks/coverage.py [--sims 2000] [--seeds 3,5,10] [--only NAME] [--strategies 10]

An item is answered rightly with probability Phi(skill + seed + item + item x strategy): Bernoulli answers, normal effects.
`seed` has a part that strategies share (data order) and one of their own, both also by task. The truth is the mean over
seeds *and* items, in closed form. Prints, per scenario and number of seeds, the share of intervals that hold it (`board`;
`paired t`: own differences over seeds alone; `percentile`: of the nested bootstrap) and their mean half widths in points;
`wrong`: how often any pair of equal rows is told apart (Holm, all pairs).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from harness.bootstrap import nested
from harness.compare import compare
from harness.panel import Panel, macro
from harness.stats import mean_interval

Array = NDArray[np.float64]
TASKS, ITEMS = 8, 100
SKILLS = np.linspace(-0.6, 1.2, TASKS)  # of the reference: tasks from 30 to 85 %


@dataclass(frozen=True)
class World:
    """Effects as standard deviations on the probit scale. `own` [S] is a strategy's seeds'; `gain` [S] its advantage.

    `collapse`: with this probability a seed of the last strategy loses half of its tasks altogether.
    """

    name: str
    own: tuple[float, ...]
    gain: tuple[float, ...]
    shared: float = 0.1
    by_task: float = 0.15
    item: float = 0.8
    item_own: float = 0.4
    collapse: float = 0.0

    def draw(self, rng: np.random.Generator, seeds: int) -> tuple[Panel, Array]:
        """A panel of S strategies and R seeds, and the true macro means [S]."""
        s, n = len(self.own), TASKS * ITEMS
        task = np.repeat(np.arange(TASKS), ITEMS)
        own = np.asarray(self.own)[:, None, None]
        z = rng.normal(size=(s, seeds, 1)) * own + rng.normal(size=(1, seeds, 1)) * self.shared
        z = z + rng.normal(size=(s, seeds, TASKS)) * self.by_task
        skill = np.asarray(self.gain)[:, None] + SKILLS
        z = np.repeat(z + skill[:, None], ITEMS, axis=2)
        z += rng.normal(size=n) * self.item + rng.normal(size=(s, 1, n)) * self.item_own
        variance = self.own_variance() + self.shared**2 + self.by_task**2 + self.item**2 + self.item_own**2
        truth = ndtr(skill / np.sqrt(1 + variance[:, None])).mean(1)
        if self.collapse:
            lost = rng.random(seeds) < self.collapse
            z[-1, lost, : n // 2] = -9
            truth[-1] -= self.collapse * ndtr(skill[-1] / np.sqrt(1 + variance[-1]))[: TASKS // 2].sum() / TASKS
        right = rng.random(z.shape) < ndtr(z)
        names = tuple(f"s{k:02}" for k in range(s))
        return Panel(names, tuple(range(seeds)), task, right.astype(np.float32), np.ones((s, seeds), bool)), truth

    def own_variance(self) -> Array:
        """[S]."""
        return np.asarray(self.own) ** 2


def worlds(strategies: int) -> list[World]:
    """The scenarios; strategy s00 is the reference."""
    s = strategies
    base = World("equal variances", (0.1,) * s, tuple(np.linspace(0, 0.3, s)))
    rng = np.random.default_rng(7)
    return [
        base,
        replace(base, name="null: all rows equal", gain=(0.0,) * s),
        replace(base, name="quiet seeds, items decide", own=(0.02,) * s, by_task=0.03, item_own=0.8),
        replace(base, name="noisy seeds", own=(0.3,) * s),
        replace(base, name="one row 3 x as noisy (its own coverage)", own=(*(0.1,) * (s - 1), 0.3)),
        replace(base, name="reference 3 x as noisy", own=(0.3, *(0.1,) * (s - 1))),
        replace(base, name="noise differs between all rows", own=tuple(0.1 * np.exp(rng.normal(0, 0.6, s)))),
        replace(base, name="collapse of one seed in ten (its own coverage)", collapse=0.1),
        replace(base, name="two rows", own=(0.1,) * 2, gain=(0.0, 0.1)),
        replace(
            base, name="three rows, one 3 x as noisy (its own coverage)", own=(0.1, 0.1, 0.3), gain=(0.0, 0.1, 0.1)
        ),
    ]


@dataclass
class Tally:
    """Hits and half widths [points], summed."""

    n: int = 0
    hits: int = 0
    width: float = 0.0

    def add(self, low: float, high: float, truth: float) -> None:
        """One interval."""
        self.n += 1
        self.hits += low <= truth <= high
        self.width += 50 * (high - low)

    def __str__(self) -> str:
        return f"{100 * self.hits / self.n:5.1f} ±{self.width / self.n:4.1f}"


def coverage(world: World, seeds: int, sims: int, replicates: int = 400) -> tuple[dict[str, Tally], float]:
    """Coverage by kind of interval, and the share of simulations in which equal rows were told apart."""
    rng = np.random.default_rng([2026, seeds])
    tallies = {name: Tally() for name in ("board", "paired t", "percentile")}
    wrong = 0
    own = "own coverage" in world.name
    for _ in range(sims):
        panel, truth = world.draw(rng, seeds)
        found = compare(panel, "s00", replicates)
        runs = macro(panel.correct, panel.weight)
        drawn = nested(panel.correct, panel.task, panel.weight, replicates)
        for k in [len(panel.names) - 1] if own else range(1, len(panel.names)):
            d, want = found.differences[panel.names[k]].estimate, truth[k] - truth[0]
            assert d.low is not None
            assert d.high is not None
            tallies["board"].add(d.low, d.high, want)
            t = mean_interval((runs[k] - runs[0]).tolist())
            assert t.low is not None
            assert t.high is not None
            tallies["paired t"].add(t.low, t.high, want)
            low, high = np.quantile(drawn[:, k] - drawn[:, 0], [0.025, 0.975])
            tallies["percentile"].add(float(low), float(high), want)
        wrong += any(truth[panel.names.index(a)] <= truth[panel.names.index(b)] for a, b in found.better)
    return tallies, wrong / sims


def main(show: Callable[[str], None] = print) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sims", type=int, default=2000)
    parser.add_argument("--seeds", default="3,5,10")
    parser.add_argument("--only", default="")
    parser.add_argument("--strategies", type=int, default=10)
    options = parser.parse_args()
    show("| scenario | seeds | board | paired t | percentile | wrong, % |")
    show("|---|---:|---:|---:|---:|---:|")
    for world in worlds(options.strategies):
        if options.only not in world.name:
            continue
        for seeds in map(int, options.seeds.split(",")):
            found, wrong = coverage(world, seeds, options.sims)
            cells = " | ".join(str(t) for t in found.values())
            show(f"| {world.name} | {seeds} | {cells} | {100 * wrong:.1f} |")


if __name__ == "__main__":
    main()
