"""A row of a board and the section that it stands in. All that is shown of them is worked out here from their records.

Scores are fractions, FLOPs are model FLOPs. A row is an entry (strategy, hyperparameters, source, learning rate) at a budget.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from statistics import stdev
from typing import Any

from harness.compare import Difference
from harness.ledger import BILLED
from harness.paths import canonical, digest
from harness.profiles import Target, iqm, median_to_target
from harness.record import Record
from harness.refutation import Refutation
from harness.stats import Estimate, macro_standard_error, mean_interval, paired_difference, t_quantile

SEEDS, SEEDS_POCKET = 5, 10  # rules.md 7: fewer is provisional, and a run of the pocket suite is cheap


@dataclass(frozen=True)
class Row:
    """One entry at one budget. `rates`: the same entry's runs by which its learning rate was chosen. `defaults`: values of
    hyperparameters that runs of the strategy had which were given none.
    """

    runs: tuple[Record, ...]
    reference: tuple[Record, ...] = ()
    hints: tuple[str, ...] = ()
    rates: tuple[Record, ...] = ()
    tuning: bool = False
    estimate: Estimate | None = None
    against: Difference | None = None
    tie: int | None = None
    places: tuple[int, int] | None = None
    goal: Target | None = None
    unverified: int = 0
    local: int = 0
    disputes: tuple[Refutation, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> Record:
        return self.runs[0]

    @cached_property
    def key(self) -> str:
        """A name for it that no text of a record gets into."""
        return digest([r.id for r in self.runs])[:10]

    @property
    def strategy(self) -> str:
        return self.first.identity.strategy

    @property
    def multiple(self) -> float:
        return self.first.identity.budget.multiple

    @property
    def label(self) -> str:
        """The strategy, and whatever tells it from the other rows of its section."""
        return " ".join((self.strategy, *self.hints))

    @property
    def given(self) -> dict[str, Any]:
        """Hyperparameters given by hand in any of the runs; defaults are not repeated, as far as records tell them."""
        values = {**self.first.identity.passed, **hyperparameters(self.first)}
        names = sorted({n for r in self.runs for n in r.identity.passed if not self._default(n)})
        return {name: values.get(name) for name in names}

    @property
    def settings(self) -> str:
        """The same as text, every digit."""
        return ", ".join(f"{name}={value}" for name, value in self.given.items())

    def _default(self, name: str) -> bool:
        """Whether a hyperparameter, by the name that it was given under, has the value that it has without."""
        had = self.first.identity.hyperparameters
        full = [k for k in had if k == name or k.endswith(f".{name}")]
        return bool(full) and all(k in self.defaults and self.defaults[k] == had[k] for k in full)

    @cached_property
    def score(self) -> Estimate:
        """Over seeds and items where all items are at hand; else over seeds."""
        return self.estimate or mean_interval([r.macro for r in self.runs])

    @cached_property
    def iqm(self) -> float:
        """Interquartile mean over all scores of seeds x tasks: without the quarter that is best and the one that is worst."""
        return iqm([s.value for r in self.runs for s in r.scores.values()])

    @property
    def item_error(self) -> float:
        """Standard error over items of the first run's macro mean: all there is to say with one seed."""
        return macro_standard_error([s.stderr for s in self.first.scores.values()])

    @property
    def billed(self) -> float:
        """Mean billed FLOPs of a run."""
        return _mean(r.total_model_flops for r in self.runs)

    @property
    def spent(self) -> float:
        """Mean billed FLOPs as a multiple of the 1x budget."""
        return _mean(r.total_model_flops / one(r) for r in self.runs)

    @property
    def amortised(self) -> bool:
        """Whether what it trained on was learned, and paid for, by other runs."""
        return self.first.reports.reused is not None

    @property
    def first_use(self) -> float:
        """`spent`, with what those runs have paid for the learning."""
        return _mean(r.first_use_flops / one(r) for r in self.runs)

    @property
    def tuned(self) -> float:
        """Billed FLOPs of the runs that chose the learning rate, as a multiple of the 1x budget."""
        return sum(r.total_model_flops / one(r) for r in self.rates)

    @property
    def edge(self) -> bool:
        """Whether the chosen learning rate is the smallest or largest of those tried, so that a better one may lie beyond."""
        rates = {r.identity.lr for r in (*self.rates, *self.runs)}
        return len(rates) > 1 and self.first.identity.lr in (min(rates), max(rates))

    @property
    def discarded(self) -> float:
        """Mean share of the billed FLOPs that trained weights which were thrown away."""
        return _mean(phase(r, "discarded") / max(1, r.total_model_flops) for r in self.runs)

    @property
    def seconds(self) -> float:
        """Mean seconds of a run inside billed verbs."""
        return _mean(sum(r.ledger[p].seconds for p in BILLED if p in r.ledger) for r in self.runs)

    @property
    def devices(self) -> tuple[str, ...]:
        return tuple(sorted({r.environment.device for r in self.runs}))

    @cached_property
    def to_target(self) -> float | None:
        """Median billed FLOPs to the workload's target as a multiple of 1x, at first use; infinite if not reached, None
        without one.
        """
        if self.goal is None or not all(r.curves for r in self.runs):
            return None
        learned = [r.first_use_flops - r.total_model_flops for r in self.runs]
        return median_to_target([r.curves for r in self.runs], self.goal, learned) / one(self.first)

    @cached_property
    def difference(self) -> Estimate | None:
        """To the reference on shared seeds; over seeds and items where both have their items."""
        return self.against.estimate if self.against else paired_difference(by_seed(self.runs), by_seed(self.reference))

    @property
    def is_reference(self) -> bool:
        return self.runs == self.reference

    @property
    def needed(self) -> int:
        return SEEDS_POCKET if self.first.identity.suite == "pocket" else SEEDS

    @property
    def provisional(self) -> bool:
        """Whether seeds are missing from 0 on: of more, nobody may choose the best."""
        return not {r.identity.seed for r in self.runs} >= set(range(self.needed))

    @property
    def unofficial(self) -> int:
        """How many of the runs are unofficial."""
        return sum(not r.official for r in self.runs)

    def reproduces(self, d: Refutation) -> bool:
        """Whether a repetition ends no further from the record that it disputes than two seeds of the row do (at 1 %).

        Another processor adds in another order, so that no repetition there has the same answers. Of fewer than three
        seeds nothing is known, and nothing is excused.
        """
        disputed = self.disputed(d)
        if disputed is None or len(self.runs) < 3:
            return False
        flops = d.record.total_model_flops / max(1, disputed.total_model_flops)
        limit = float(t_quantile(len(self.runs) - 1, 0.01)) * math.sqrt(2) * stdev([r.macro for r in self.runs])
        return abs(flops - 1) <= 0.05 and abs(d.record.macro - disputed.macro) <= limit

    def disputed(self, d: Refutation) -> Record | None:
        """The run of the row that a repetition disputes."""
        return next((r for r in self.runs if r.id == d.refutes), None)

    def other_code(self, d: Refutation) -> bool:
        """Whether the strategy's source was another one: that tells of a mended or a broken file, not of this result."""
        disputed = self.disputed(d)
        return disputed is not None and disputed.identity.source_sha256 != d.record.identity.source_sha256

    def refutes(self, d: Refutation) -> bool:
        """Whether a repetition by the same code came out differently by more than seeds do."""
        return not self.other_code(d) and not self.reproduces(d)

    @property
    def refuted(self) -> int:
        """How many repetitions refute their run."""
        return sum(map(self.refutes, self.disputes))

    @property
    def ranked(self) -> bool:
        return not self.amortised and not self.tuning


@dataclass(frozen=True)
class Section:
    """One workload: runs whose scores may be compared. `budgets` has 1x first; `base` are the base model's scores."""

    anchor: str
    first: Record
    budgets: tuple[tuple[float, tuple[Row, ...]], ...]
    base: tuple[float, ...]
    goal: Target | None = None
    better: frozenset[tuple[str, str]] = field(default_factory=frozenset)  # keys of 1x rows: (better, worse)

    @property
    def rows(self) -> list[Row]:
        return [row for _, rows in self.budgets for row in rows]

    @property
    def title(self) -> str:
        i, limit = self.first.identity, self.first.reports.limit
        mode = {"full": "full fine-tuning", "lora": "LoRA"}[i.mode]
        return f"{i.suite} × {i.model}, {mode}" + (f", at most {limit} rows a task" if limit is not None else "")

    @property
    def tasks(self) -> list[str]:
        return sorted(self.first.scores)


def hyperparameters(r: Record) -> dict[str, Any]:
    """As they tell rows apart: a mixture of another run by that run's id, or as one learned with the run's own seed."""
    values, reused = r.identity.hyperparameters, r.reports.reused
    if reused is None:
        return values
    source = "of the same seed" if reused.seed == r.identity.seed else reused.id
    return {k: source if isinstance(v, Mapping) and v.get("run") == reused.id else v for k, v in values.items()}


def entry(r: Record, rate: bool = True) -> str:
    """What the runs of an entry at one budget share; without `rate` also its runs at other learning rates."""
    i, reused = r.identity, r.reports.reused
    learned = [reused.lr, reused.budget] if reused else []
    lr = [i.lr] if rate else []
    return canonical([i.strategy, i.source_sha256, hyperparameters(r), *lr, i.budget.multiple, *learned])


def by_seed(runs: Iterable[Record]) -> dict[int, float]:
    return {r.identity.seed: r.macro for r in runs}


def one(r: Record) -> float:
    """FLOPs of the 1x budget of a record's workload."""
    return r.identity.budget.flops / r.identity.budget.multiple


def phase(r: Record, name: str) -> int:
    return r.ledger[name].model_flops if name in r.ledger else 0


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)
