"""The labs of one run that are open at this moment - the root, and forks within it - and their common snapshot.

Only the innermost one stands in the engine; the weights and optimizers of those around it wait in host memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.checkpoint import Tensors
from harness.core import Core
from harness.durable import Point, Snapshots, fault
from harness.errors import HarnessError
from harness.journal import Journal
from harness.loop import Clock, Stage
from harness.trail import BASE


class FrozenClock(Clock):
    """The clock of a fork without a budget of its own: the parent's rate of this moment, after its warm-up before it begins.

    A warm-up begins at 0, where a fork would pay for steps that move nothing.
    """

    def __init__(self, parent: Clock) -> None:
        super().__init__(parent.schedule, parent.peak_lr)
        self.progress = parent.progress or parent.schedule.warmup

    def advance(self, flops: int, remaining: int) -> float:
        return self.rate(self.progress)


@dataclass
class Level:
    """One open lab: its core, the verb that opened it, and its tensors while another lab stands in the engine."""

    core: Core
    opened: int = -1
    held: dict[str, Tensors] = field(default_factory=dict)


class Session:
    """The stack of open labs. `point` is the durable point that a resumed run replays to."""

    def __init__(
        self, root: Core, journal: Journal, snapshots: Snapshots | None = None, point: Point | None = None
    ) -> None:
        self.journal, self.snapshots = journal, snapshots
        self.levels = [Level(root)]
        self.busy = False  # a verb is being computed
        self._resume = list(point.levels) if point else []
        self._stage = point.stage if point else None
        root.on_tick = self.tick
        if point is not None:
            self._saved = point.tensors
            root.load(self._resume[0]["core"])
            if len(self._resume) > 1:
                self.levels[0].held = _tensors(point.tensors, 0)
            if len(self._resume) == 1:
                root.load_tensors(_tensors(point.tensors, 0))
            root.remember(_tensors(point.tensors, 0), root.revised)
            if len(self._resume) == 1:
                root.resumed = self._stage

    def require_top(self, core: Core) -> None:
        if all(level.core is not core for level in self.levels):
            raise HarnessError("this fork has ended; look through its checkpoints from the lab around it")
        if self.levels[-1].core is not core:
            raise HarnessError("this lab has an open fork: use the fork's lab until its `with` ends")

    # --- forks

    def enter(self, child: Core, opened: int, start: str, replayed: bool) -> None:
        """Put a fork's lab into the engine; on replay only what the snapshot says of it, if it was open then."""
        parent = self.levels[-1]
        child.on_tick, child.outer = self.tick, parent.core
        self.levels.append(Level(child, opened))
        if replayed:
            self._reenter(child, opened)
            return
        parent.core.settle()
        parent.held = parent.core.tensors()
        _turn(parent.core, child)
        if start == "now":
            child.standing = parent.core.standing
            child.sampler.load(parent.core.sampler.state())
            child.remember(parent.held, parent.core.revised)
        else:
            child.restore(child.base if start == BASE else start, "restore")

    def _reenter(self, child: Core, opened: int) -> None:
        depth = len(self.levels) - 1
        if depth < len(self._resume) and self._resume[depth]["opened"] == opened:
            _turn(self.levels[depth - 1].core, child)
            child.load(self._resume[depth]["core"])
            child.remember(_tensors(self._saved, depth), child.revised)
            if depth == len(self._resume) - 1:
                child.load_tensors(_tensors(self._saved, depth))
                child.resumed = self._stage
            else:
                self.levels[depth].held = _tensors(self._saved, depth)

    def leave(self, fork: Core) -> None:
        """Take a fork's lab out of the engine, and what is open within it; its parent's weights and optimizer are back."""
        while any(level.core is fork for level in self.levels):
            self._leave_innermost()

    def _leave_innermost(self) -> None:
        child = self.levels.pop().core
        parent = self.levels[-1]
        if not parent.held:
            return  # replayed up to the run's end: the child never stood in the engine
        child.end()
        _turn(child, parent.core)
        parent.core.load_tensors(parent.held)
        parent.held = {}

    def drop(self, fork: Core) -> None:
        """The same on replay: nothing stands in the engine yet that would have to move."""
        while any(level.core is fork for level in self.levels):
            self.levels.pop()

    def unwind(self) -> None:
        """The run ended inside forks: the root's weights stand again."""
        while len(self.levels) > 1:
            self._leave_innermost()

    # --- snapshots

    def tick(self, stage: Stage | None, force: bool = False) -> None:
        """Take a snapshot if it is time. Between verbs `stage` is None."""
        fault("step" if stage else "between")
        if self.snapshots is None or self.journal.replaying or not (force or self.snapshots.due()):
            return
        top = self.levels[-1].core
        tensors: dict[str, Tensors] = {}
        for depth, level in enumerate(self.levels):
            groups = top.tensors() if level.core is top else level.held
            tensors |= {f"{group}.{depth}": values for group, values in groups.items()}
        tensors["gold"] = top.gold_tensors()
        state = {
            "levels": [{"opened": level.opened, "core": level.core.state()} for level in self.levels],
            "trail": top.trail.state(),
            "checkpoints": top.store.names(),
            "peak": top.store.peak,
            "stage": stage.state() if stage else None,
        }
        self.journal.sync()
        self.snapshots.write(self.journal.verbs, tensors, state, top.ledger.root, top.store)
        top.store.settle()


def _turn(leaving: Core, coming: Core) -> None:
    """One model is on the device at a time: where a fork is of another one, the one that stood there makes room first."""
    if coming.engine is not leaving.engine:
        leaving.engine.aside()
        coming.engine.back()


def _tensors(saved: dict[str, Tensors], depth: int) -> dict[str, Tensors]:
    return {name.partition(".")[0]: values for name, values in saved.items() if name.endswith(f".{depth}")}
