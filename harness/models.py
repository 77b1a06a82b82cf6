"""Model names and where their files come from: the wheel, a folder, a mirror, or the hub; no weights are loaded here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import hub
from harness.errors import HarnessError, unknown
from harness.paths import asset, digest, file_digest

HUB = {
    "qwen2.5": "Qwen/Qwen2.5-0.5B",
    "qwen2.5-1.5b": "Qwen/Qwen2.5-1.5B",
    "qwen2.5-3b": "Qwen/Qwen2.5-3B",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B",
    "llama-3.2-1b": "meta-llama/Llama-3.2-1B",
    "llama-3.2-3b": "meta-llama/Llama-3.2-3B",
    "smollm2-135m": "HuggingFaceTB/SmolLM2-135M-Instruct",
}
FILES = ["*.safetensors", "*.json", "*.txt", "tokenizer.model"]


@dataclass(frozen=True)
class Model:
    """A model's files: `name` as rows show it, `source` (hub id, `embedded` or the folder's name), its revision."""

    name: str
    source: str
    folder: Path
    revision: str

    @property
    def config(self) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return loaded


def names() -> list[str]:
    return ["pocket", *HUB]


def resolve(name: str, mirror: Path | None = None, weights: bool = True) -> Model:
    """A short name, a hub id (either with @REVISION) or a folder. Raises HarnessError with what to do when it is not there.

    Without `weights` they are neither fetched nor read: config and tokenizer are enough, and the revision says less.
    """
    if name == "pocket":
        return _local("pocket", "embedded", asset("suites") / "pocket" / "model", weights)
    if Path(name).is_dir():
        return _local(Path(name).resolve().name, Path(name).resolve().name, Path(name), weights)
    name, _, revision = name.partition("@")
    source = HUB.get(name, name)
    if "/" not in source or name.startswith((".", "/", "~")):
        raise unknown("model", name, names())
    if there := hub.mirrored("models", source, mirror):
        return _local(name, source, there, weights)
    return _from_hub(name, source, weights, revision or None, mirror)


def _local(name: str, source: str, folder: Path, weights: bool) -> Model:
    """A folder in the transformers format; its revision is the digest of weights, config and tokenizer."""
    if not (folder / "config.json").is_file() or (weights and not list(folder.glob("*.safetensors"))):
        raise HarnessError(f"model {name!r}: its folder has no config.json with *.safetensors beside it")
    kinds = {".json", ".model"} | ({".safetensors"} if weights else set())
    parts = {p.name: file_digest(p) for p in sorted(folder.iterdir()) if p.suffix in kinds}
    parts.pop("recipe.json", None)
    return Model(name.replace("/", "--"), source, folder, "sha256:" + digest(parts)[:32])


def _from_hub(name: str, source: str, weights: bool, revision: str | None, mirror: Path | None) -> Model:
    try:
        folder = hub.folder("models", source, FILES if weights else FILES[1:], mirror, revision)
    except HarnessError as error:
        raise HarnessError(f"{error}; --model pocket needs no hub") from None
    return Model(name.replace("/", "--"), source, folder, folder.name)


def tokenizer(model: Model) -> Any:
    """The model's tokenizer. Raises HarnessError if it has no end-of-sequence token to train on."""
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(model.folder)
    if loaded.eos_token_id is None:
        raise HarnessError(f"model {model.name!r}: its tokenizer has no end-of-sequence token")
    return loaded
