"""What a person sees on stderr while a run goes on: billed share of the budget, ETA, loss, tokens/s."""

from __future__ import annotations

import os
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.core import Progress as State


def quiet() -> None:
    """Keep the libraries' bars and advice off the terminal and their idle threads off the cores; before any import."""
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Threads that spin while they wait made a step 50 times slower beside one other busy process on two cores.
        "OMP_WAIT_POLICY": "passive",
    }.items():
        os.environ.setdefault(name, value)


class Live:
    """A live bar on a terminal; elsewhere one line for each tenth of the budget."""

    def __init__(self, title: str) -> None:
        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>5.1f} % of budget"),
            TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]:,.0f} tokens/s"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
            transient=True,
        )
        self.task = self.bar.add_task(title, total=1.0, loss=float("nan"), speed=0.0)
        self.title, self.started = title, time.monotonic()
        self.tokens, self.training, self.tenth = 0, 0.0, 0

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.bar.stop()

    def say(self, line: str) -> None:
        self.console.print(f"harness: {line}", highlight=False, markup=False, soft_wrap=True)

    def watch(self, state: State) -> None:
        """One training step has been taken."""
        self.tokens += state.tokens
        self.training += state.seconds
        share, speed = state.billed / state.cap, self.tokens / self.training
        self.bar.update(self.task, completed=share, loss=state.loss, speed=speed)
        if not self.console.is_terminal and int(share * 10) > self.tenth:
            self.tenth = int(share * 10)
            eta = (time.monotonic() - self.started) / share * (1 - share)
            self.say(
                f"{self.title}: {share:.0%} of budget, loss {state.loss:.3f}, {speed:,.0f} tokens/s, ETA {eta:,.0f} s"
            )
