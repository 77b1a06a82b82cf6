"""A suite: one YAML that fixes all that two results must share - data, splits, template, optimizer, budget, scoring.

Unknown keys and wrong types fail with the file, the key's path and the nearest valid key.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import HarnessError, unknown
from harness.paths import asset, digest

Mode = Literal["full", "lora"]
MODES: tuple[Mode, ...] = ("full", "lora")
LORA_LR = 10  # an adapter's usual best learning rate is about ten times that of full fine-tuning


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(_Spec):
    """Rows: local JSONL files (`files` with {split}), or a hub dataset whose rows `ids` divides into splits."""

    files: str | None = None
    hub: str | None = None
    revision: str | None = None
    split: str = "test"
    config: str = "{task}"
    ids: str | None = None
    sha256: Mapping[str, str] = Field(default_factory=dict)
    licence: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.files is None) == (self.hub is None):
            raise ValueError("give either 'files' or 'hub'")
        if self.hub is not None and self.ids is None:
            raise ValueError("'hub' needs 'ids', the file that divides its rows into splits")
        if self.files is not None and "{split}" not in self.files:
            raise ValueError("files must hold {split}, which stands for train, validation and test")
        if strangers := sorted(set(self.sha256) - {"train", "validation", "test"}):
            raise ValueError(f"sha256 has no split {strangers[0]!r}; expected train, validation or test")
        return self


class Template(_Spec):
    """Jinja2 texts over a row's `input`, `target` and the task's `prefix`; the loss is on the completion and EOS."""

    prompt: str
    completion: str


class Task(_Spec):
    signal: Literal["loss", "exact_match"] = "exact_match"
    prefix: str = ""
    max_new_tokens: int | None = Field(default=None, gt=0)


class Schedule(_Spec):
    name: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(default=0.03, ge=0, lt=1)


class Optimizer(_Spec):
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = Field(default=1.0, gt=0)


class Lora(_Spec):
    """What `--mode lora` trains: adapters of rank `r`, scaled by alpha / r. Its best learning rate is another one."""

    r: int = Field(default=16, gt=0)
    alpha: float = Field(default=32.0, gt=0)
    lr: float | None = Field(default=None, gt=0)
    lr_grid: tuple[float, ...] = ()


class Train(_Spec):
    """`gradient_checkpointing` saves memory; what it computes again is hardware FLOPs and never billed."""

    epochs: float = Field(gt=0)
    effective_batch: int = Field(gt=0)
    max_length: int = Field(gt=0)
    lr: float = Field(gt=0)
    lr_grid: tuple[float, ...]
    schedule: Schedule = Schedule()
    optimizer: Optimizer = Optimizer()
    lora: Lora = Lora()
    gradient_checkpointing: bool = False

    def rates(self, mode: Mode) -> tuple[float, tuple[float, ...]]:
        """Learning rate and grid of a mode; where the suite names none for LoRA, ten times those of full fine-tuning."""
        if mode == "full":
            return self.lr, self.lr_grid
        lr = self.lora.lr or LORA_LR * self.lr
        grid = self.lora.lr_grid or tuple(x * lr / self.lr for x in self.lr_grid)
        return float(f"{lr:.9g}"), tuple(float(f"{x:.9g}") for x in grid)


class LookSpec(_Spec):
    """The harness's own looks: not billed, invisible to strategies, the same grid for all."""

    items: int = Field(default=64, gt=0, le=64)
    points: int = Field(default=10, gt=0)


class Scoring(_Spec):
    """lm-eval: `include` names a stock task file below lm_eval/tasks; without it the suite's own template is used."""

    include: str | None = None
    filter: str = "exact"
    max_new_tokens: int = Field(default=16, gt=0)
    until: tuple[str, ...] = ("\n",)


class Suite(_Spec):
    name: str
    title: str
    source: str
    data: Data
    template: Template
    tasks: Mapping[str, Task]
    train: Train
    look: LookSpec = LookSpec()
    scoring: Scoring = Scoring()
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
        if mode == "full":
            del values["train"]["lora"]
        return digest(values)

    @property
    def template_sha256(self) -> str:
        prefixes = {name: task.prefix for name, task in sorted(self.tasks.items())}
        return digest([self.template.model_dump(mode="json"), prefixes])


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
        field = getattr(model, "model_fields", {}).get(str(parent))
        annotation = field.annotation if field is not None else None
        model = Task if str(parent) == "tasks" else (annotation or model)
    names = getattr(model, "model_fields", {})
    near = get_close_matches(str(key), list(names), n=1, cutoff=0.5)
    return f"{where}: unknown key" + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}")
