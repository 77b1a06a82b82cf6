"""One strategy watched while it runs: what it changes, when, and what it computes, against what the lab says of it.

Nothing here knows how one cheats. Each check recomputes: the lab is the same after strategy code as before it, the counter
saw what the ledger holds, a callback is the same after a call, the process ends as it began.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from harness import prints, source
from harness.core import Core
from harness.errors import BudgetExhausted, NoRoom
from harness.fences import Fences
from harness.lab import RunLab
from harness.ledger import Ledger
from harness.probes import Probes
from harness.values import Mixture
from harness.verbs import Verbs

IDLE_VERBS = 2000  # in a row that book nothing
IDLE_SECONDS = 10.0  # of processor time in which nothing is booked
EACH = 3  # findings kept of a check
CALLBACKS = ("objective", "example_weights", "select")


class Watch:
    """Findings of one process by check. `whole` adds what costs time; patience is always kept."""

    def __init__(self, files: set[str], whole: bool, give_up: Callable[[str], None]) -> None:
        self.whole, self.give_up = whole, give_up
        self.found: dict[str, list[str]] = {}
        self.flops: dict[str, int] = {}
        self.fences = Fences(files, self.note)
        if whole:
            self.fences.raise_()

    def note(self, check: str, message: str) -> None:
        kept = self.found.setdefault(check, [])
        if message not in kept and len(kept) < EACH:
            kept.append(message)

    @contextmanager
    def before(self) -> Iterator[None]:
        """What is computed while a strategy is imported and made, before there is a lab."""
        with FlopCounterMode(display=False) as counter:
            try:
                yield
            finally:
                self.flops["before"] = counter.get_total_flops()

    def run(self, strategy: Any, lab: RunLab) -> None:
        """`strategy.run(lab)`, watched."""
        eyes = Eyes(self, strategy, lab).open() if self.whole else nullcontext()
        # The counter in every trial: under it some kernels are chosen differently, and trials are to be equal.
        with self._patience(lab), eyes, FlopCounterMode(display=False) as counter:
            try:
                strategy.run(lab)
            finally:
                booked = sum(e.hardware for e in lab._core.ledger.root.entries)
                self.flops |= {"seen": counter.get_total_flops(), "booked": booked}

    @contextmanager
    def _patience(self, lab: RunLab) -> Iterator[None]:
        """Give up on a run that spends nothing any more: many verbs in a row, or long processor time."""
        idle, verb, add = 0, Verbs._verb, Ledger.add

        def counted(self_: Verbs, *args: Any) -> Any:
            nonlocal idle
            idle += not self_._journal.replaying
            if idle > IDLE_VERBS:
                self.give_up(f"{IDLE_VERBS:,} verbs in a row ({args[0]}, ...) spent nothing")
            return verb(self_, *args)

        def added(self_: Ledger, entry: Any) -> None:
            nonlocal idle
            idle = 0
            signal.setitimer(signal.ITIMER_PROF, IDLE_SECONDS)
            add(self_, entry)

        Verbs._verb, Ledger.add = counted, added  # type: ignore[method-assign,assignment]
        late = f"{IDLE_SECONDS:.0f} seconds of processor time went by and nothing was spent"
        signal.signal(signal.SIGPROF, lambda *_: self.give_up(late))
        signal.setitimer(signal.ITIMER_PROF, IDLE_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            Verbs._verb, Ledger.add = verb, add  # type: ignore[method-assign]


class Eyes:
    """The instruments of one whole watch: around every verb and every callback."""

    def __init__(self, watch: Watch, strategy: Any, lab: RunLab) -> None:
        self.watch, self.strategy, self.lab = watch, strategy, lab
        self.session = lab._session
        self.ended = self.cut = False
        self.left: dict[str, Any] = {}
        self.random: dict[str, Any] = {}

    @contextmanager
    def open(self) -> Iterator[None]:
        verb, train, draw = Verbs._verb, RunLab.train, RunLab.draw
        require, take_step = Probes.require, Core.take_step
        eyes = self
        process, own = prints.of_process(), self._own()

        def verb_(self: Verbs, name: str, *rest: Any) -> Any:
            eyes.before(name)
            try:
                return verb(self, name, *rest)
            except BudgetExhausted:
                eyes.ended = True
                raise
            finally:
                eyes.after()

        def train_(self: RunLab, mixture: Mixture, *args: Any, **named: Any) -> Any:
            eyes.mixture(self, mixture)
            for key in CALLBACKS:
                if callable(named.get(key)):
                    named[key] = eyes.callback(key, named[key], self)
            eyes.cut = False
            return train(self, mixture, *args, **named)

        def draw_(self: RunLab, mixture: Mixture, *args: Any, **named: Any) -> Any:
            eyes.mixture(self, mixture)
            return draw(self, mixture, *args, **named)

        def require_(self: Probes, flops: int) -> None:
            try:
                require(self, flops)
            except NoRoom:
                eyes.cut = True
                raise

        def take_step_(self: Core, *args: Any, **named: Any) -> Any:
            if eyes.cut:
                eyes.watch.note("ends", f"a selector caught the end of the budget and went on; {source.LET}")
            return take_step(self, *args, **named)

        Verbs._verb, RunLab.train, RunLab.draw = verb_, train_, draw_  # type: ignore[method-assign,assignment]
        Probes.require, Core.take_step = require_, take_step_  # type: ignore[method-assign]
        modules = prints.of_modules()
        self.after()
        try:
            yield
            if self.ended:
                self.watch.note("ends", f"it caught the end of the budget and returned; {source.LET}")
        except BudgetExhausted:
            if not self.ended:
                self.watch.note(
                    "ends", "it raises BudgetExhausted itself; return instead: the lab says when the budget ends"
                )
            raise
        finally:
            self.same(prints.of_lab(self.session), "after the last verb", self.left)
            self._end(process, own, modules)
            Verbs._verb, RunLab.train, RunLab.draw = verb, train, draw  # type: ignore[method-assign]
            Probes.require, Core.take_step = require, take_step  # type: ignore[method-assign]

    # --- verbs

    def before(self, name: str) -> None:
        """Between two verbs only the strategy's code has run: it changed nothing of the lab."""
        if self.ended and name != "join":
            self.watch.note("ends", f"it asked for {name} after the end of the budget; {source.LET}")
        self.ended = False
        self.same(prints.of_lab(self.session), f"before {name}", self.left)
        self._random()

    def after(self) -> None:
        self.left, self.random = prints.of_lab(self.session), prints.of_generators()

    def same(self, now: Mapping[str, Any], when: str, then: Mapping[str, Any]) -> None:
        if what := prints.changed(then, now):
            self.watch.note(
                "lab", f"{what[0]} was changed {when}, not by a verb; change it through the lab's verbs only"
            )

    def _random(self) -> None:
        now = prints.of_generators()
        for name in prints.changed(self.random, now):
            self.watch.note(
                "random", f"it draws from {name}'s global generator; draw from lab.rng, or a callback's .rng"
            )
        self.random = now

    def mixture(self, lab: RunLab, mixture: Any) -> None:
        """A mixture as the lab makes them: finite weights >= 0 that sum to 1, over examples that there are."""
        weights, info = getattr(mixture, "weights", {}), lab._core.info
        values = [float(w) for w in weights.values()]
        proper = all(math.isfinite(w) and w >= 0 for w in values) and abs(sum(values) - 1) < 1e-6
        sizes = all(t in info and 0 < n <= info[t].n_train for t, n in getattr(mixture, "sizes", {}).items())
        if not (isinstance(mixture, Mixture) and proper and sizes):
            shown = ", ".join(f"{t} {w:g}" for t, w in list(weights.items())[:4])
            self.watch.note("mixtures", f"a mixture weighs {shown}; make it with lab.mixture({{task: weight >= 0}})")

    # --- callbacks

    def callback(self, key: str, function: Callable[..., Any], lab: RunLab) -> Callable[..., Any]:
        """The same callback; what it leaves behind is noted."""

        def called(*args: Any) -> Any:
            before, core = self._around(function, lab), lab._core
            spent = core.ledger.root.spent
            try:
                return function(*args)
            finally:
                self._compare(key, before, self._around(function, lab))
                if key != "select" and core.ledger.root.spent != spent:
                    self.watch.note("lab", f"{key} booked work; only a selector's looks do")

        try:
            return functools.wraps(function)(called)
        except AttributeError:
            return called

    def _around(self, function: Callable[..., Any], lab: RunLab) -> dict[str, Any]:
        core = lab._core
        held: dict[str, Any] = {f"lab:{k}": v for k, v in prints.of_engine(core.engine).items()}
        held |= {"lab:sampler": repr(core.sampler.state()), "lab:clock": core.clock.progress}
        held |= {f"random:{k}": v for k, v in prints.of_generators().items()}
        held["random:lab.rng"] = repr(lab._rng.bit_generator.state)
        held["memory:itself"] = prints.of_object(function)
        return held | {f"memory:{k}": v for k, v in self._own().items()}

    def _compare(self, key: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
        for name in prints.changed(before, after):
            kind, _, what = name.partition(":")
            if kind == "lab":
                self.watch.note(
                    "lab", f"{key} changed the {what} of the run; a callback returns numbers and changes nothing"
                )
            elif kind == "random":
                self.watch.note("random", f"{key} draws from {what}; a callback draws from the .rng that it is given")
            else:
                message = f"{key} changed {what}; a callback keeps what it must in .table or .state, nothing of its own"
                self.watch.note("callbacks", message)

    # --- itself and the process

    def _own(self) -> dict[str, Any]:
        """The strategy, its classes and their modules' names."""
        parts = getattr(self.strategy, "parts", (self.strategy,))
        held: dict[str, Any] = {}
        for part in parts:
            cls, module = type(part), sys.modules[type(part).__module__]
            held["a field of the strategy"] = prints.of_object(part)
            held[f"class {cls.__name__}"] = prints.of_object(cls)
            own = {k: v for k, v in vars(module).items() if not k.startswith("__")}
            held |= {f"{k} of the module": prints.of_object(v) for k, v in own.items()}
        return held

    def _end(self, process: Mapping[str, Any], own: Mapping[str, Any], modules: Mapping[str, Any]) -> None:
        for name in prints.changed(own, self._own()):
            self.watch.note("state", f"{name} is another one after a run; keep it in local variables of run")
        for name in prints.changed(process, prints.of_process()):
            self.watch.note("outside", f"{name} was changed; a strategy leaves its process as it is")
        after = prints.of_modules()
        for name in modules:
            if what := prints.changed(modules[name], after.get(name, {})):
                self.watch.note("lab", f"{name}.{what[0]} was replaced; a strategy changes no other module")


@dataclasses.dataclass(frozen=True)
class Watched:
    """A strategy as a plan holds it, run under a watch."""

    strategy: Any
    watch: Watch

    def run(self, lab: Any) -> None:
        self.watch.run(self.strategy, lab)
