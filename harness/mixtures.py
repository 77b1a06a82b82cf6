"""The lab's free verbs on data: mixtures of tasks, examples by name; nothing here touches the model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from harness.api import Example, HarnessError, Mixture, Split, check_weights
from harness.codec import one_of
from harness.errors import unknown
from harness.paths import digest
from harness.sampler import mixture_digest, stream
from harness.verbs import Verbs


class Mixtures(Verbs):
    """What a lab can say about its data."""

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
            if example.split != "train":
                raise HarnessError(f"just(): {example.id!r} is not a training example")
        self._core.data.items(examples)
        return of_examples([e.id for e in examples], [e.task for e in examples], shuffled=False)

    def counts(self, numbers: Mapping[str, int], *, replacement: bool = False) -> Mixture:
        """A random subset with exactly so many examples of each task; each epoch is one shuffled pass over it."""
        self._not_busy("counts")
        self._known(numbers)
        ids: list[str] = []
        for task in sorted(numbers):
            n, size = numbers[task], self._core.info[task].n_train
            if not isinstance(n, int | np.integer) or n < 0 or (n > size and not replacement):
                raise HarnessError(f"counts: {n} examples of task {task!r}, which has {size}")
            count = self._samples["counts", task] = self._samples.get(("counts", task), 0) + 1
            draw = stream(self._seed, "counts", task, count)
            chosen = draw.integers(size, size=n) if replacement else draw.permutation(size)[:n]
            ids += [f"{task}/{i}" for i in sorted(chosen.tolist())]
        if not ids:
            raise HarnessError("counts: at least one example is needed")
        return of_examples(ids, [i.rpartition("/")[0] for i in ids], shuffled=True)

    def draw(self, mixture: Mixture, k: int = 1) -> list[Example]:
        """The next k effective batches that training on `mixture` would see; they are used up."""
        self._trainable(mixture)
        if k < 1:
            raise HarnessError(f"draw: k is {k}, expected at least 1")
        n = k * self._core.suite.train.effective_batch
        return self._examples("draw", [mixture_digest(mixture), k], lambda: self._core.sampler.draw(mixture, n))

    def sample(self, task: str, n: int, split: Split = "train") -> list[Example]:
        self._not_busy("sample")
        self._known([task])
        one_of("split", split, ("train", "validation"))
        items = (self._core.train if split == "train" else self._core.validation)[task]
        if not 0 < n <= len(items):
            raise HarnessError(f"sample: n is {n}, task {task!r} has {len(items)} {split} examples")
        count = self._samples[task, split] = self._samples.get((task, split), 0) + 1
        chosen = stream(self._seed, "sample", task, split, count).permutation(len(items))[:n]
        return self._examples("sample", [task, n, split], lambda: [items[i].id for i in sorted(chosen.tolist())])

    def rewrite(self, example: Example, response: str) -> Example | None:
        core = self._core

        def compute() -> str | None:
            core.alter()
            version = core.data.revise(example, response)
            if version is not None:
                core.revised.pop(example.id, None)
                if version:
                    core.revised[example.id] = version
            return version

        def decode(version: str | None) -> str | None:
            core.data.revise(example, response)  # what later verbs of the replay refer to
            return version

        args = [example.id, example.version, digest(response)]
        version = self._verb("rewrite", args, compute, lambda v: v, decode)
        return None if version is None else core.data.example(example.id, version)

    def _examples(self, verb: str, args: Sequence[object], compute: Callable[[], list[str]]) -> list[Example]:
        """A verb that names examples; on replay they are in the versions of that moment."""
        core = self._core

        def encode(found: list[Example]) -> dict[str, object]:
            return {"ids": [e.id for e in found], "versions": {e.id: e.version for e in found if e.version}}

        return self._verb(
            verb,
            args,
            lambda: [core.data.example(i, core.revised.get(i, "")) for i in compute()],
            encode,
            lambda raw: [core.data.example(i, raw["versions"].get(i, "")) for i in raw["ids"]],
        )

    def _sizes(self, tasks: Iterable[str] | None) -> dict[str, int]:
        if isinstance(tasks, str):
            raise HarnessError(f"tasks: expected a list of names, found the string {tasks!r}")
        names = sorted(self._core.info if tasks is None else set(tasks))
        self._known(names)
        if not names:
            raise HarnessError("a mixture needs at least one task")
        return {t: self._core.info[t].n_train for t in names}

    def _trainable(self, mixture: Mixture) -> None:
        """Refuse what no lab has made: a mixture built by hand, or changed after it was made."""
        check_weights(mixture.weights, self._core.info)
        total = sum(mixture.weights.values())
        if abs(total - 1) > 1e-6:
            raise HarnessError(f"mixture weights sum to {total:g}, expected 1; make it with lab.mixture(weights)")

    def _known(self, names: Iterable[str]) -> None:
        for name in names:
            if name not in self._core.info:
                raise unknown("task", str(name), self._core.info)


def of_examples(ids: Sequence[str], tasks: Sequence[str], shuffled: bool) -> Mixture:
    """Exactly these examples; tasks weigh by their number."""
    weights = {t: tasks.count(t) / len(tasks) for t in sorted(set(tasks))}
    return Mixture(weights, {}, sequence=tuple(ids), shuffled=shuffled)
