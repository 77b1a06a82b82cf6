"""One model's view of a suite's data: examples by name, their tokens, and the responses that a strategy rewrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.data import Item, Row, tokenise
from harness.errors import HarnessError
from harness.paths import digest
from harness.suite import Suite
from harness.values import Example, Split

VALIDATION = "v:"


@dataclass(frozen=True)
class Data:
    """Rows and tokenised items of training and validation by task, in the source's order; shared by all labs of a run.

    `versions` holds every response that was ever rewritten, by (id, version): which one is current is a core's affair,
    because it is rolled back with the weights.
    """

    suite: Suite
    train: Mapping[str, list[Item]]
    validation: Mapping[str, list[Item]]
    rows: Mapping[str, Mapping[str, list[Row]]]
    tokenizer: Any
    versions: dict[tuple[str, str], tuple[Item, str]] = field(default_factory=dict)

    def item(self, id_: str, version: str = "") -> Item:
        """The tokens of an example as it was, or of a version that `revise` made. Raises HarnessError if unknown."""
        if version:
            if (id_, version) not in self.versions:
                raise HarnessError(f"example {id_!r} has no version {version!r}; see Lab.rewrite")
            return self.versions[id_, version][0]
        split, task, index = self._place(id_)
        return (self.train if split == "train" else self.validation)[task][index]

    def example(self, id_: str, version: str = "") -> Example:
        split, task, _ = self._place(id_)
        row = self.row(id_)
        response = self.versions[id_, version][1] if version else row.completion
        return Example(id_, task, split, version, row.prompt, response, self.item(id_, version).tokens)

    def row(self, id_: str) -> Row:
        """An example's texts in the source."""
        split, task, index = self._place(id_)
        return self.rows[split][task][index]

    def items(self, examples: Sequence[Example]) -> list[Item]:
        """Tokens of these examples, each in its own version."""
        for example in examples:
            if not isinstance(example, Example):
                raise HarnessError(f"expected examples, found {type(example).__name__}")
        return [self.item(e.id, e.version) for e in examples]

    def revise(self, example: Example, response: str) -> str | None:
        """The version of this training example with another response; None if it is empty or does not fit.

        The original response is version "". Raises HarnessError for validation examples.
        """
        split, task, _ = self._place(example.id)
        if split != "train":
            raise HarnessError(f"rewrite: {example.id!r} is not a training example")
        row = self.row(example.id)
        if response == row.completion:
            return ""
        if not response.strip():
            return None
        revised = Row(row.id, task, row.input, row.target, row.prompt, response)
        try:
            (item,) = tokenise(self.tokenizer, {task: [revised]}, self.suite.train.max_length)[task]
        except HarnessError:
            return None
        # As much of the prompt as the example had: rewriting changes the response only.
        if item.tokens - item.supervised != self.item(row.id).tokens - self.item(row.id).supervised:
            return None
        version = digest(response)[:12]
        self.versions[row.id, version] = (item, response)
        return version

    def _place(self, id_: str) -> tuple[Split, str, int]:
        split: Split = "validation" if id_.startswith(VALIDATION) else "train"
        task, _, index = id_.removeprefix(VALIDATION).rpartition("/")
        group = (self.train if split == "train" else self.validation).get(task, [])
        if not index.isdecimal() or int(index) >= len(group):
            raise HarnessError(f"{id_!r} is not an example of this suite")
        return split, task, int(index)
