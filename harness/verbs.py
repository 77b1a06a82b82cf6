"""How every verb runs: checked against the journal, computed, booked, journalled. `harness.lab` says what they do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from harness import ranks
from harness.api import HarnessError
from harness.core import Core
from harness.durable import fault
from harness.errors import BudgetExhausted, NonDeterministicStrategy
from harness.paths import digest
from harness.sampler import stream
from harness.session import Session

T = TypeVar("T")


class JournalledBudget:
    """Reads of the budget are journalled, so that a replay sees the values of that moment."""

    def __init__(self, lab: Verbs) -> None:
        self._lab = lab

    @property
    def total(self) -> int:
        return self._lab._core.ledger.cap

    @property
    def spent(self) -> int:
        return self._lab._verb("budget", [], lambda: self._lab._core.ledger.spent, int, int)

    @property
    def remaining(self) -> int:
        return self.total - self.spent


class Verbs:
    """What all verbs of a lab share."""

    def __init__(self, core: Core, session: Session, seed: int, fork: int = -1) -> None:
        self._core, self._session, self._seed, self._journal = core, session, seed, session.journal
        self._rng = stream(seed, "strategy", fork)
        self._samples: dict[tuple[str, ...], int] = {}
        self.seconds_inside = 0.0
        self.budget = JournalledBudget(self)

    @property
    def rng(self) -> np.random.Generator:
        self._not_busy("rng")
        return self._rng

    def _not_busy(self, name: str) -> None:
        """Callbacks are not run again on replay, so whatever counts or draws is not for them."""
        if self._session.busy:
            raise HarnessError(
                f"{name}: a callback calls no verbs of the lab; use what it is given (pool, batch, tokens)"
            )

    def _verb(
        self, name: str, args: Any, compute: Callable[[], T], encode: Callable[[T], Any], decode: Callable[[Any], T]
    ) -> T:
        """Answer from the journal if this verb is finished there, else compute, book and journal it; a snapshot may follow."""
        started = time.perf_counter()
        try:
            return self._answer(name, args, compute, encode, decode)
        finally:
            self.seconds_inside += time.perf_counter() - started

    def _answer(
        self, name: str, args: Any, compute: Callable[[], T], encode: Callable[[T], Any], decode: Callable[[Any], T]
    ) -> T:
        session = self._session
        self._not_busy(name)
        if name != "join":
            session.require_top(self._core)
        key = digest(args)[:16]
        ranks.same(f"verb {self._journal.verbs}", (name, key), NonDeterministicStrategy)
        line = self._journal.recall(name, key)
        if line is not None:
            self._raise_again(line["exhausted"])
            return decode(line["result"])
        core = self._core
        if core.resumed is not None and core.args != key:
            raise NonDeterministicStrategy(f"verb {self._journal.verbs} was a train that {name} does not continue")
        core.verb, core.args = self._journal.verbs, key
        fault("verb")
        session.busy = True
        try:
            result = compute()
        except BudgetExhausted as end:
            # Journalled too: a fork swallows its own end, so a replay must meet it at the same verb.
            depth = [account is end.account for account in core.ledger.chain()].index(True)
            self._journal.append(name, key, None, len(core.ledger.root.entries), exhausted=depth)
            raise
        finally:
            session.busy = False
            core.ledger.root.flush()
        fault("computed")
        found = encode(result)
        encoded = self._journal.check(name, key, ranks.first(found))
        if encoded is not found:
            result = decode(encoded)  # rank 0's, or the journal's: no rank can branch differently
        self._journal.append(name, key, encoded, len(core.ledger.root.entries))
        core.tick(None)
        return result

    def _write(self, name: str, args: Any, write: Callable[[], None]) -> None:
        """A verb that changes what is remembered of examples or of the method."""

        def compute() -> None:
            self._core.alter()
            write()

        self._verb(name, args, compute, lambda r: r, lambda r: None)

    def _raise_again(self, exhausted: int | None) -> None:
        """On replay: the end of the budget that this verb met, of this lab's account or one above it."""
        if exhausted is not None:
            account = list(self._core.ledger.chain())[exhausted]
            account.exhausted = True
            raise BudgetExhausted(account)
