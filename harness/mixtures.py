"""The lab's free verbs on data: mixtures of tasks, examples by name; nothing here touches the model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from harness.api import Example, HarnessError, Mixture, Split, check_weights
from harness.codec import one_of
from harness.core import Core
from harness.data import Row
from harness.errors import unknown
from harness.sampler import stream


class Mixtures:
    """What a lab can say about its data."""

    def __init__(self, core: Core, rows: Mapping[str, Mapping[str, list[Row]]], seed: int) -> None:
        self._core, self._rows, self._seed = core, rows, seed
        self._samples: dict[tuple[str, str], int] = {}

    def proportional(self, tasks: Iterable[str] | None = None) -> Mixture:
        """Weights by number of examples: an epoch is one exact pass over them."""
        sizes = self._sizes(tasks)
        total = sum(sizes.values())
        return Mixture({t: n / total for t, n in sizes.items()}, sizes, by_size=True)

    def uniform(self, tasks: Iterable[str] | None = None) -> Mixture:
        return self.temperature(tasks, 0.0)

    def temperature(self, tasks: Iterable[str] | None = None, tau: float = 1.0) -> Mixture:
        """Weights proportional to n ** tau: 1 is proportional, 0 uniform."""
        if not (math.isfinite(tau) and tau >= 0):
            raise HarnessError(f"temperature: tau is {tau}, expected a finite number >= 0")
        return self.mixture({t: float(n) ** tau for t, n in self._sizes(tasks).items()})

    def only(self, task: str) -> Mixture:
        return self.proportional([task])

    def mixture(self, weights: Mapping[str, float]) -> Mixture:
        """Any weights, normalised to sum 1; an epoch is as long as the tasks with weight have examples."""
        checked = check_weights(weights, self._core.info)
        return Mixture(checked, self._sizes(checked))

    def just(self, examples: Sequence[Example]) -> Mixture:
        """Exactly these training examples, in this order."""
        if not examples:
            raise HarnessError("just(): at least one example is needed")
        for example in examples:
            if example.id not in self._core.by_id:
                raise HarnessError(f"just(): {example.id!r} is not a training example")
        tasks = [e.task for e in examples]
        weights = {t: tasks.count(t) / len(tasks) for t in sorted(set(tasks))}
        return Mixture(weights, {}, sequence=tuple(e.id for e in examples))

    def sample(self, task: str, n: int, split: Split = "train") -> list[Example]:
        self._known([task])
        one_of("split", split, ("train", "validation"))
        rows = self._rows[split][task]
        if not 0 < n <= len(rows):
            raise HarnessError(f"sample: n is {n}, task {task!r} has {len(rows)} {split} examples")
        count = self._samples[task, split] = self._samples.get((task, split), 0) + 1
        chosen = stream(self._seed, "sample", task, split, count).permutation(len(rows))[:n]
        items = (self._core.train if split == "train" else self._core.validation)[task]
        return [
            Example(rows[i].id, task, split, rows[i].prompt, rows[i].completion, items[i].tokens)
            for i in sorted(chosen.tolist())
        ]

    def _sizes(self, tasks: Iterable[str] | None) -> dict[str, int]:
        if isinstance(tasks, str):
            raise HarnessError(f"tasks: expected a list of names, found the string {tasks!r}")
        names = sorted(self._core.info if tasks is None else set(tasks))
        self._known(names)
        if not names:
            raise HarnessError("a mixture needs at least one task")
        return {t: self._core.info[t].n_train for t in names}

    def _known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._core.info:
                raise unknown("task", str(name), self._core.info)

    def _example(self, id_: str) -> Example:
        task, _, index = id_.rpartition("/")
        row = self._rows["train"][task][int(index)]
        return Example(id_, task, "train", row.prompt, row.completion, self._core.by_id[id_].tokens)
