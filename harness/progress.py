"""What a person sees on stderr while a run goes on: billed share, ETA, tokens/s, memory, loss and weight by task."""

from __future__ import annotations

import os
import resource
import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live as Screen
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

from harness.core import Progress as State

SMOOTH = 0.9  # of a task's loss from one step that holds it to the next
WORST = 3
WIDTH = 28


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


def memory() -> int:
    """Bytes at the peak: of the GPU's allocator where one is in use, else of this process."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


class Live:
    """A live bar on a terminal, above it loss and weight of each task; elsewhere one line for each tenth of the budget."""

    def __init__(self, title: str) -> None:
        self.console = Console(stderr=True)
        self.bar = Bar(
            BarColumn(),
            TextColumn("{task.percentage:>5.1f} % of budget"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.bar.add_task(title, total=1.0)
        self.numbers = title
        self.title, self.begun = title, (0.0, -1.0)
        self.tokens, self.training, self.tenth = 0, 0.0, 0
        self.phase = "train"
        self.losses: dict[str, float] = {}
        self.weights: dict[str, float] = {}
        self.screen = Screen(get_renderable=self.render, console=self.console, transient=True, refresh_per_second=4)

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self.screen.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.console.is_terminal:
            self.screen.stop()

    def say(self, line: str) -> None:
        self.console.print(f"harness: {line}", highlight=False, markup=False, soft_wrap=True)

    def watch(self, state: State) -> None:
        """One training step has been taken."""
        self.tokens += state.tokens
        self.training += state.seconds
        self.weights = dict(state.mixture)
        if state.phase != self.phase:  # another model: a proxy's losses say nothing of the run's own
            self.phase, self.losses = state.phase, {}
        title = self.title if state.phase == "train" else f"{self.title} ({state.phase})"
        for task, loss in state.tasks.items():  # a step holds few examples of a task
            self.losses[task] = loss + SMOOTH * (self.losses.get(task, loss) - loss)
        share, speed, taken = state.billed / state.cap, self.tokens / max(self.training, 1e-9), memory() / 1e9
        since, before = self.begun = self.begun if self.begun[1] >= 0 else (time.monotonic(), share)
        self.bar.update(self.task, completed=share)
        self.numbers = f"{title}  loss {state.loss:.3f}  {speed:,.0f} tokens/s  {taken:.1f} GB"
        if not self.console.is_terminal and int(share * 10) > self.tenth:
            self.tenth = int(share * 10)
            # Only what this process has done says how fast it is: a run that goes on begins with a share.
            left = (time.monotonic() - since) * (1 - share) / (share - before) if share > before else None
            self.say(
                f"{title}: {share:.0%} of budget, loss {state.loss:.3f}, {speed:,.0f} tokens/s, "
                f"ETA {'unknown' if left is None else f'{left:,.0f} s'}, {taken:.1f} GB; {self.worst()}"
            )

    def worst(self) -> str:
        """The tasks of the mixture with the highest losses, smoothed."""
        active = {t: loss for t, loss in self.losses.items() if self.weights.get(t, 0.0) > 0.0}
        shown = sorted(active.items(), key=lambda pair: (-pair[1], pair[0]))[:WORST]
        return f"{len(active)} task{'s' * (len(active) != 1)}: " + ", ".join(
            f"{task} {loss:.2f}" for task, loss in shown
        )

    def render(self) -> RenderableType:
        """Tasks in as many columns as there is room for, the last step's numbers, then the bar.

        Beside the bar the numbers would leave no room for the times on a terminal of 80 columns.
        """
        rows = [
            Text.assemble(
                f"{task[:WIDTH]:{WIDTH}}",
                (f"{loss:8.3f}", "bold" if self.weights.get(task, 0.0) else "dim"),
                (f"{self.weights.get(task, 0.0):7.1%}", "dim"),
            )
            for task, loss in sorted(self.losses.items())
        ]
        heading = Text("loss and weight by task", style="dim")
        below = (Text(self.numbers), self.bar)
        return Group(heading, Columns(rows, padding=(0, 3)), *below) if rows else Group(*below)
