"""`harness run --tracker NAME`: what the live view shows, step by step, to an experiment tracker through accelerate.

TensorBoard's files lie in the run's folder; trackio and wandb keep a run of their own, named by the run's id. Steps are the
ledger's lines, so that a run that was interrupted goes on where it was. A tracker that fails never fails the run.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness.core import Progress
from harness.errors import HarnessError, unknown

TRACKERS = ("tensorboard", "trackio", "wandb")
PROJECT = "sft-harness"


def require(name: str) -> None:
    """Raises HarnessError for a tracker that does not exist or is not installed."""
    if name not in TRACKERS:
        raise unknown("tracker", name, TRACKERS)
    if importlib.util.find_spec(name) is None:
        raise HarnessError(
            f"tracker {name!r}: its package is not installed; pip install {name}, or leave --tracker out"
        )


def values(state: Progress, memory: int) -> dict[str, float]:
    """Scalars of one training step; in a fork below the name of its phase."""
    plain = {
        "loss": state.loss,
        "lr": state.lr,
        "tokens_per_s": state.tokens / max(state.seconds, 1e-9),
        "billed_share": state.billed / state.cap,
        "memory_bytes": float(memory),
    }
    plain |= {f"loss/{task}": loss for task, loss in state.tasks.items()}
    plain |= {f"mixture/{task}": weight for task, weight in state.mixture.items()}
    return plain if state.phase == "train" else {f"{state.phase}/{key}": value for key, value in plain.items()}


class Tracker:
    """One tracker of one run, begun at the first step: until then accelerate does not know the device."""

    def __init__(
        self, name: str, folder: Path, run: str, config: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        require(name)
        self.name, self.folder, self.run, self.config, self.say = name, folder, run, dict(config), say
        self._open: Any = None
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._open is not None:
            self._safely(self._open.finish)

    def log(self, state: Progress, memory: int) -> None:
        """One training step has been taken."""
        if self._open is None:
            self._safely(self._begin)
        if self._open is not None:
            self._safely(lambda: self._open.log(values(state, memory), step=state.line))

    def _begin(self) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        made = LOGGER_TYPE_TO_CLASS[self.name]
        if made.requires_logging_directory:
            self.folder.mkdir(parents=True, exist_ok=True)
            tracker = made("tensorboard", logging_dir=str(self.folder))
        else:
            identity = {"id": self.run} if self.name == "wandb" else {}
            tracker = made(PROJECT, name=self.run, config=self.config, resume="allow", **identity)
        if hasattr(tracker, "start"):
            tracker.start()
        self._open = tracker

    def _safely(self, use: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            use()
        except Exception as error:
            self._broken = True
            self.say(f"tracker {self.name} is left out from here on: {type(error).__name__}: {error}")
