"""`harness score`: the suite's scores of run folders or checkpoint folders, one after another by the same engine.

Each gets a folder below RUNS/scores; a run's record is never touched. What was scored before is not scored again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from harness import models, stock
from harness.errors import HarnessError
from harness.paths import digest
from harness.rundir import locked
from harness.score import Service, checkpoint_digest
from harness.suite import load_suite


@dataclass(frozen=True)
class Target:
    """A checkpoint to score on a suite. `adapters`: a PEFT folder, whose base model it names itself."""

    name: str
    folder: Path
    suite: str
    limit: int | None
    adapters: bool


def targets(folders: Sequence[Path], suite: str | None, limit: int | None) -> list[Target]:
    """What each folder is. Raises HarnessError for one that is neither a run that has ended nor a checkpoint."""
    if limit is not None and limit < 2:
        raise HarnessError(f"limit {limit}: expected at least 2 rows a task")
    found = [_target(folder, suite, limit) for folder in folders]
    for target in found:
        stock.check(load_suite(target.suite))
    return found


def _target(folder: Path, suite: str | None, limit: int | None) -> Target:
    if not folder.is_dir():
        raise HarnessError(f"{str(folder)!r} is not a folder; expected a run's, or a checkpoint's")
    name = folder.resolve().name
    if (folder / "config.yaml").is_file():
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        if not (folder / "final").is_dir():
            raise HarnessError(f"run {name!r} has no final/: it has not come to its end")
        return Target(name, folder / "final", suite or config["suite"], limit or config["limit"], adapters=False)
    adapters = (folder / "adapter_config.json").is_file()
    if not adapters:
        models.resolve(str(folder))
    if suite is None:
        raise HarnessError(f"checkpoint {name!r}: on which suite? Name it by --suite")
    return Target(name, folder, suite, limit, adapters)


def score_all(
    found: Sequence[Target], service: Service, runs: Path, mirror: Path | None, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """The summary of each target in turn, with its `checkpoint` and the `path` of its scores.json."""
    for target in found:
        with _plain(target, mirror) as folder:
            suite = load_suite(target.suite).model_dump(mode="json")
            key = digest([checkpoint_digest(folder), suite, target.limit, service.backend])
            work = runs / "scores" / f"{target.name}-{key[:8]}"
            say(f"scoring {target.name} on {suite['name']}")
            with locked(work):
                summary = service.score(folder, target.suite, work, mirror=mirror, limit=target.limit)
        yield {"checkpoint": target.name, "path": str(work / "scores.json")} | summary


@contextmanager
def _plain(target: Target, mirror: Path | None) -> Iterator[Path]:
    """The target's folder; adapters are merged into their base model, in a folder that goes again."""
    if not target.adapters:
        yield target.folder
        return
    config = json.loads((target.folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = models.resolve(str(config.get("base_model_name_or_path")), mirror)
    with tempfile.TemporaryDirectory(prefix="harness-merged-") as made:
        merge(base, target.folder, Path(made))
        yield Path(made)


def merge(base: models.Model, adapters: Path, out: Path) -> None:
    """Write the base model with the adapters added to its matrices to `out`, in fp32, with the base's tokenizer."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    try:
        plain = AutoModelForCausalLM.from_pretrained(base.folder, dtype=torch.float32)
        PeftModel.from_pretrained(plain, str(adapters)).merge_and_unload().save_pretrained(out)
    except (ValueError, RuntimeError, OSError) as error:
        reason = " ".join(str(error).split())[:160]
        raise HarnessError(f"adapters {adapters.name!r} do not fit {base.source}: {reason}") from None
    models.tokenizer(base).save_pretrained(out)
