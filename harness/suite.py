"""A suite: one YAML that fixes all that two results must share - data, splits, template, optimizer, budget, scoring.

Unknown keys and wrong types fail with the file, the key's path and the nearest valid key.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from harness.errors import HarnessError, unknown
from harness.paths import asset, digest
from harness.spec import SPLITS, Data, Scoring, ScoringTask, Source, Spec

Mode = Literal["full", "lora"]
MODES: tuple[Mode, ...] = ("full", "lora")
# Keys that older suites do not have: they are in a digest only where a suite uses them.
ADDED = {
    "data": ("sources", "divide", "rows"),
    "scoring": ("metric", "tasks", "extra"),
    "train": ("cut", "bf16_moments"),
}
LORA_LR = 10  # an adapter's usual best learning rate is about ten times that of full fine-tuning


class Template(Spec):
    """Jinja2 texts over a row's `input`, `target` and the task's `prefix`; the loss is on the completion and EOS."""

    prompt: str
    completion: str


class Task(Spec):
    signal: Literal["loss", "exact_match", "generate"] = "exact_match"
    prefix: str = ""
    max_new_tokens: int | None = Field(default=None, gt=0)


class Schedule(Spec):
    name: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(default=0.03, ge=0, lt=1)


class Optimizer(Spec):
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = Field(default=1.0, gt=0)


class Lora(Spec):
    """What `--mode lora` trains: adapters of rank `r`, scaled by alpha / r. Its best learning rate is another one."""

    r: int = Field(default=16, gt=0)
    alpha: float = Field(default=32.0, gt=0)
    lr: float | None = Field(default=None, gt=0)
    lr_grid: tuple[float, ...] = ()


class Train(Spec):
    """`gradient_checkpointing` saves memory; what it computes again is hardware FLOPs and never billed.

    `bf16_moments` keeps AdamW's state in 4 bytes a parameter in place of 8, rounded at random; it moves results.
    `cut`: a completion that does not fit ends where the room does, without EOS, as in most papers; else it is an error.
    """

    epochs: float = Field(gt=0)
    effective_batch: int = Field(gt=0)
    max_length: int = Field(gt=0)
    lr: float = Field(gt=0)
    lr_grid: tuple[float, ...]
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    lora: Lora = Lora()
    gradient_checkpointing: bool = False
    bf16_moments: bool = False
    cut: bool = False

    def rates(self, mode: Mode) -> tuple[float, tuple[float, ...]]:
        """Learning rate and grid of a mode; where the suite names none for LoRA, ten times those of full fine-tuning."""
        if mode == "full":
            return self.lr, self.lr_grid
        lr = self.lora.lr or LORA_LR * self.lr
        grid = self.lora.lr_grid or tuple(x * lr / self.lr for x in self.lr_grid)
        return float(f"{lr:.9g}"), tuple(float(f"{x:.9g}") for x in grid)


class LookSpec(Spec):
    """The harness's own looks: not billed, invisible to strategies, the same grid for all."""

    items: int = Field(default=64, gt=0, le=64)
    points: int = Field(default=10, gt=0)


class Suite(Spec):
    name: str
    title: str
    source: str
    data: Data
    template: Template
    tasks: Mapping[str, Task]
    train: Train
    look: LookSpec = LookSpec()
    scoring: Scoring = Scoring()
    rows: str = Field(default="", exclude=True)  # how many there are to train on, for people; no part of the digest
    folder: Path = Field(default=Path(), exclude=True)

    @model_validator(mode="after")
    def _has_tasks(self) -> Suite:
        if not self.tasks:
            raise ValueError("tasks: at least one is needed")
        return self

    def sha256(self, mode: Mode) -> str:
        """Digest of every value that can move a result in this mode (not of the file's spelling, nor of where it lies).

        Recomputed activations move none; the adapters are LoRA's alone.
        """
        values = self.model_dump(mode="json")
        del values["train"]["gradient_checkpointing"]
        for part, keys in ADDED.items():
            for key in keys:
                if not values[part][key] or values[part][key] == "exact_match":
                    del values[part][key]
        if mode == "full":
            del values["train"]["lora"]
        return digest(values)

    @property
    def template_sha256(self) -> str:
        prefixes = {name: task.prefix for name, task in sorted(self.tasks.items())}
        return digest([self.template.model_dump(mode="json"), prefixes])

    @property
    def scored(self) -> dict[str, ScoringTask]:
        """The scoring tasks by name: those of `scoring.tasks`, else the training tasks themselves."""
        s = self.scoring
        if not s.tasks:
            return {
                name: ScoringTask(
                    s.include.format(task=name) if s.include else None,
                    s.filter,
                    s.metric,
                    task.max_new_tokens or s.max_new_tokens,
                    s.until,
                )
                for name, task in self.tasks.items()
            }
        return {
            name: ScoringTask(
                one.include or s.include,
                one.filter or s.filter,
                one.metric or s.metric,
                one.max_new_tokens or s.max_new_tokens,
                one.until or s.until,
                one,
            )
            for key, spec in s.tasks.items()
            for name, one in spec.expand(key).items()
        }

    @property
    def hubs(self) -> dict[str, str | None]:
        """Every data set of the hub that the suite reads, with its pinned revision."""
        sources: list[Source] = [*self.data.sources, *self.scoring.tasks.values()]
        found = {s.hub: s.revision for s in sources if s.hub}
        return {self.data.hub: self.data.revision} | found if self.data.hub else found

    @property
    def metrics(self) -> str:
        """What is scored, in words: each metric with the scoring tasks that it is of."""
        named: dict[str, list[str]] = {}
        for task, how in self.scored.items():
            named.setdefault(how.metric, []).append(task)
        if not self.scoring.tasks:
            return ", ".join(f"{metric}" for metric in named)
        return "; ".join(f"{metric} of {_listed(tasks)}" for metric, tasks in named.items())

    @property
    def verified(self) -> bool:
        """Whether somebody has seen the real rows: local files are theirs, those of the hub are pinned by digest."""
        return not self.hubs or set(self.data.sha256) == set(SPLITS)


def _listed(names: list[str], most: int = 6) -> str:
    """The names, or where they are many, how many there are of each beginning."""
    if len(names) <= most:
        return ", ".join(names)
    families: dict[str, int] = {}
    for name in names:
        family = name.partition("_")[0]
        families[family] = families.get(family, 0) + 1
    return ", ".join(f"{family} ({n})" for family, n in families.items())


def available() -> dict[str, Path]:
    """Built-in suites by name."""
    return {p.stem: p for p in sorted(asset("suites").glob("*.yaml"))}


def load_suite(name: str) -> Suite:
    """A built-in suite by name, or a YAML file by path. Raises HarnessError with file and key."""
    builtin = available()
    path = Path(name) if name.endswith((".yaml", ".yml")) else builtin.get(name)
    if path is None:
        raise unknown("suite", name, builtin)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HarnessError(f"suite file {name!r} does not exist") from None
    except OSError as error:
        raise HarnessError(f"suite file {name!r}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise HarnessError(f"suite file {path.name}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise HarnessError(f"suite file {path.name}: expected a mapping of keys")
    try:
        return Suite.model_validate({**raw, "folder": path.resolve().parent})
    except ValidationError as error:
        raise HarnessError(f"suite file {path.name}: {_first(error, raw)}") from None


def _first(error: ValidationError, raw: dict[str, Any]) -> str:
    """The first problem as one line: key path, what was expected, what was found, the nearest valid key."""
    problems = error.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    where = ".".join(str(part) for part in problem["loc"]) or "file"
    if problem["type"] != "extra_forbidden":
        found = problem.get("input")
        shown = "" if isinstance(found, dict) else f", found {found!r}"
        return f"{where}: {problem['msg']}{shown}"
    *parents, key = problem["loc"]
    model: Any = Suite
    for parent in parents:
        field = model.model_fields.get(str(parent))
        model = (_model(field.annotation) if field is not None else None) or model
    names = model.model_fields
    near = get_close_matches(str(key), list(names), n=1, cutoff=0.5)
    return f"{where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}")


def _model(annotation: Any) -> Any:
    """The part of a suite that an annotation such as Mapping[str, Task] is about; None for plain values."""
    if hasattr(annotation, "model_fields"):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model(arg))), None)
