"""`with lab.fork(...) as child:` - entering and leaving a lab within a lab, live and on replay."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from harness.core import Core
from harness.errors import BudgetExhausted, HarnessError
from harness.loop import Clock
from harness.sampler import Sampler
from harness.session import FrozenClock
from harness.trail import BASE

if TYPE_CHECKING:
    from harness.lab import RunLab


class Fork:
    """`with lab.fork(...) as child:`; a fork that has used up its own budget ends here, quietly."""

    def __init__(self, lab: RunLab, phase: str, start: str, flops: int | None, model: str | None) -> None:
        self._lab, self._phase, self._start, self._flops, self._model = lab, phase, start, flops, model

    def __enter__(self) -> RunLab:
        lab, session = self._lab, self._lab._session
        parent = lab._core
        replayed = session.journal.replaying
        clock = FrozenClock(parent.clock) if self._flops is None else Clock(parent.clock.schedule, parent.clock.peak_lr)
        engine, data, base, told = parent.engine, parent.data, parent.base, dict[str, str]()
        if self._model is not None:
            if parent.companion is None:
                raise HarnessError("fork: this lab has no other models")
            started = time.perf_counter()
            engine, data, told = parent.companion(self._model)
            lab.seconds_inside += time.perf_counter() - started  # it is loaded at the first fork
            base = f"{BASE}:{self._model}"
        child = Core(
            engine,
            data,
            parent.ledger.open(self._phase, self._flops),
            parent.store,
            Sampler(parent.sampler.seed, parent.sampler.sizes),
            clock,
            parent.trail,
            looking=False,
            base=base,
            watch=parent.watch,
            companion=parent.companion,
        )
        opened = session.journal.verbs

        def compute() -> int:
            if self._start not in (BASE, "now"):
                if self._start not in (base, parent.standing) and self._start not in parent.store:
                    raise HarnessError(f"fork: checkpoint {self._start} was released; use lab.checkpoint()")
                if parent.trail.origin(self._start) != base:
                    raise HarnessError(f"fork: checkpoint {self._start} is another model's")
            if told and not any(e["verb"] == "fork" and e["data"] == told for e in parent.trail.events):
                parent.note("fork", "of another model", told)  # its revision is nowhere else in the record
            session.enter(child, opened, self._start, replayed=False)
            return child.ledger.cap

        args = [self._phase, self._start, self._flops, self._model]
        # Journalled, since what is left on replay is not what was left then.
        child.ledger.cap = lab._verb("fork", args, compute, int, int)
        if replayed:
            session.enter(child, opened, self._start, replayed=True)
        self._child = type(lab)(child, session, lab._seed, opened)
        return self._child

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: object) -> bool:
        lab, session = self._lab, self._lab._session
        own = isinstance(error, BudgetExhausted) and error.account is self._child._core.ledger
        if error is not None and not own:
            return False
        lab.seconds_inside += self._child.seconds_inside
        replayed = session.journal.replaying
        child = self._child._core
        lab._verb("join", [], lambda: session.leave(child), lambda r: r, lambda r: None)
        if replayed:
            session.drop(child)
        return own
