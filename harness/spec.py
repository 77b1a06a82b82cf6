"""The parts of a suite that say where rows come from and how they are scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

SPLITS = ("train", "validation", "test")


class Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(Spec):
    """Rows of one data set, of the hub or local, and what they say in a suite's terms.

    `input`, `target` and `task` are Jinja2 texts over a row's fields and its `config`; `where` is a Jinja2 expression:
    rows for which it is false are left out, as are rows of tasks that the suite does not name. `split` is the data set's
    split for each of ours, or for all; it may end in a slice such as [:1000]. `files` are the files to read where the
    data set's own card does not say ({config} and {split} stand for those; `archive.zip::member` reads inside a zip).
    """

    hub: str | None = None
    revision: str | None = None
    files: str | None = None
    config: tuple[str, ...] = ()
    split: str | Mapping[str, str] = "train"
    task: str = ""
    where: str | None = None
    input: str
    target: str

    @model_validator(mode="before")
    @classmethod
    def _one_config(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("config"), str):
            return {**values, "config": (values["config"],)}
        return values

    @model_validator(mode="after")
    def _somewhere(self) -> Source:
        if self.hub is None and self.files is None:
            raise ValueError("give 'hub', 'files' or both")
        return self

    def reads(self, split: str) -> str | None:
        """The data set's split that a split of ours is made of."""
        return self.split if isinstance(self.split, str) else self.split.get(split)


class Divide(Spec):
    """Shares of a split that several of ours are made of; the rest is train.

    Which row goes where depends on a hash of `by` (Jinja2; the input where it is empty) and on nothing else: rows that
    agree in it stay together, and neither order nor number of the others moves a row.
    """

    by: str = ""
    validation: float = Field(default=0.0, ge=0, lt=1)
    test: float = Field(default=0.0, ge=0, lt=1)


class Data(Spec):
    """Rows: local files (`files` with {split}), a hub dataset that `ids` divides, or `sources` that pool several.

    `rows`: at most so many of a task in a split, those of the smallest hashes.
    """

    files: str | None = None
    hub: str | None = None
    revision: str | None = None
    split: str = "test"
    config: str = "{task}"
    ids: str | None = None
    sha256: Mapping[str, str] = Field(default_factory=dict)
    licence: str = ""
    sources: tuple[Source, ...] = ()
    divide: Divide | None = None
    rows: Mapping[str, int] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if [self.files is not None, self.hub is not None, bool(self.sources)].count(True) != 1:
            raise ValueError("give either 'files' or 'hub' or 'sources'")
        if self.hub is not None and self.ids is None:
            raise ValueError("'hub' needs 'ids', the file that divides its rows into splits")
        if self.files is not None and "{split}" not in self.files:
            raise ValueError("files must hold {split}, which stands for train, validation and test")
        for key in ("sha256", "rows"):
            if strangers := sorted(set(getattr(self, key)) - set(SPLITS)):
                raise ValueError(f"{key} has no split {strangers[0]!r}; expected train, validation or test")
        return self


class Scored(Source):
    """A scoring task with rows of its own. `each`: one task for every name, which stands for {each} in the texts.

    The suite's prompt is rendered over `input`, in which `description` is that of the file that `include` names.
    """

    split: str | Mapping[str, str] = "test"
    include: str | None = None
    filter: str | None = None
    metric: str | None = None
    max_new_tokens: int | None = Field(default=None, gt=0)
    until: tuple[str, ...] | None = None
    rows: int | None = Field(default=None, gt=0)
    each: tuple[str, ...] = ()

    def expand(self, name: str) -> dict[str, Scored]:
        """The tasks that this stands for, by name."""
        if not self.each:
            return {name: self}
        filled = {}
        for one in self.each:
            raw = {k: _replaced(v, "{each}", one) for k, v in self.model_dump(exclude={"each"}).items()}
            filled[f"{name}_{one}"] = Scored.model_validate(raw)
        return filled


def _replaced(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    return tuple(_replaced(v, old, new) for v in value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class ScoringTask:
    """How one task is scored, with every default filled in; `source` where its rows are not the suite's test rows."""

    include: str | None
    filter: str
    metric: str
    max_new_tokens: int
    until: tuple[str, ...]
    source: Scored | None = None


class Scoring(Spec):
    """lm-eval: `include` names a task file beside the suite or below lm_eval/tasks; without it, the suite's template.

    `metric` is the score: 0 or 1 an item. `tasks`: what is scored where that is not the training tasks. `extra`: the
    extra of this package that the scorer's libraries come with.
    """

    include: str | None = None
    filter: str = "exact"
    max_new_tokens: int = Field(default=16, gt=0)
    until: tuple[str, ...] = ("\n",)
    metric: str = "exact_match"
    tasks: Mapping[str, Scored] = Field(default_factory=dict)
    extra: str | None = None
