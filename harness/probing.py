"""The lab's verbs that ask the model something without training it: billed, journalled with their results."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from harness.api import Checkpoint, Distribution, Example, Generation, HarnessError
from harness.codec import arrays_from_json, arrays_to_json
from harness.grading import Grader
from harness.mixtures import Mixtures
from harness.paths import digest
from harness.probes import Handle, Probes
from harness.sampler import stream
from harness.table import Array


class Gradients:
    """Per-example gradients whose results are journalled; see `probes.Handle`."""

    def __init__(self, lab: Probing, handle: Handle) -> None:
        self._lab, self._handle = lab, handle

    def gram(self, other: Gradients | None = None, by: str | None = None) -> Array:
        if other is not None and getattr(other, "_lab", None) is not self._lab:
            raise HarnessError("gradients: gram compares with gradients of the same lab; ask for them here, at=...")
        theirs = other._handle if other is not None else None

        def mark() -> None:
            self._handle.paid.add(0)
            if theirs is not None:
                theirs.paid.add(0)

        args = ["gram", self._handle.key, theirs and theirs.key, by]
        return self._journalled(args, lambda: [self._handle.gram(theirs, by)], mark)[0]

    def rows(self, project: int | None = None) -> Array:
        def mark() -> None:
            self._handle.paid |= {0, project or 0}

        return self._journalled(["rows", self._handle.key, project], lambda: [self._handle.rows(project)], mark)[0]

    def mean(self, by: str = "task", project: int | None = None) -> dict[str, Array]:
        def mark() -> None:
            self._handle.paid |= {0, project or 0}

        tasks = sorted({item.task for item in self._handle.items})
        args = ["mean", self._handle.key, by, project]
        found = self._journalled(args, lambda: list(self._handle.mean(by, project).values()), mark)
        return dict(zip(tasks, found, strict=True))

    def _journalled(self, args: list[Any], compute: Any, mark: Any) -> list[Array]:
        def decode(raw: list[Any]) -> list[Array]:
            mark()
            return arrays_from_json(raw)

        found: list[Array] = self._lab._verb("gradients", args, compute, arrays_to_json, decode)
        return found


class Probing(Mixtures):
    """Looks beyond validation."""

    def logprobs(self, examples: Sequence[Example], *, at: Checkpoint | None = None) -> list[Array]:
        probes = Probes(self._core)
        args = [_named(examples), at and at.weights]
        return self._verb("logprobs", args, lambda: probes.logprobs(examples, at), arrays_to_json, arrays_from_json)

    def distributions(
        self,
        examples: Sequence[Example],
        *,
        top_k: int = 64,
        support: Sequence[Array] | Sequence[Distribution] | None = None,
        at: Checkpoint | None = None,
    ) -> list[Distribution]:
        probes = Probes(self._core)
        wanted = None if support is None else [s.ids if isinstance(s, Distribution) else np.asarray(s) for s in support]
        held = None if wanted is None else digest([w.tolist() for w in wanted])
        return self._verb(
            "distributions",
            [_named(examples), top_k, held, at and at.weights],
            lambda: probes.distributions(examples, top_k, wanted, at),
            lambda found: [arrays_to_json([d.ids, d.logp, d.tail]) for d in found],
            lambda raw: [Distribution(*arrays_from_json(three)) for three in raw],
        )

    def gradients(
        self,
        examples: Sequence[Example],
        *,
        modules: str | Sequence[str] = "last:3",
        normalize: bool = False,
        at: Checkpoint | None = None,
    ) -> Gradients:
        # The weights that stand now, by name: on replay only the journal knows them.
        names = self._verb(
            "gradients.of",
            [_named(examples), modules if isinstance(modules, str) else list(modules), normalize, at and at.weights],
            lambda: Probes(self._core).name(at),
            lambda name: name,
            lambda name: name,
        )
        items = self._core.data.items(examples)
        if not items:
            raise HarnessError("gradients: at least one example is needed")
        return Gradients(self, Handle(Probes(self._core), items, modules, normalize, names))

    def generate(
        self,
        examples: Sequence[Example],
        *,
        max_new_tokens: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        n: int = 1,
    ) -> list[Generation]:
        core = self._core

        def compute() -> list[Generation]:
            seed = int(stream(self._seed, "generate", core.verb).integers(2**62))
            items = core.data.items(examples)
            return Probes(core).generate(items, max_new_tokens, temperature, top_p, n, seed)

        return self._verb(
            "generate",
            [_named(examples), max_new_tokens, temperature, top_p, n],
            compute,
            lambda found: [list(g) for g in found],
            lambda raw: [Generation(*g) for g in raw],
        )

    @cached_property
    def _grader(self) -> Grader:
        return Grader(self._core.suite)

    def grade(self, example: Example, text: str) -> bool:
        """Whether the suite's scorer would take this text as the example's answer; free."""
        row = self._core.data.row(example.id)
        return self._grader.correct(row.task, row.input, row.target, text)


def _named(examples: Sequence[Example]) -> str:
    for example in examples:
        if not isinstance(example, Example):
            raise HarnessError(f"expected examples, found {type(example).__name__}")
    return digest([[e.id, e.version] for e in examples])[:16]
