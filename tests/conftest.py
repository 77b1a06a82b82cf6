"""A toy suite and tiny models, made on the spot: seconds, no network."""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HARNESS_DEVICE", "cpu")

import pytest
import yaml

from harness.paths import asset
from tests.forks import Forks

ROOT = Path(__file__).resolve().parent.parent


def write_rows(folder: Path, split: str, rows: list[tuple[str, str, str]]) -> None:
    lines = [json.dumps({"task": t, "input": i, "target": o}) for t, i, o in rows]
    (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")


def toy_rows(split: str, n: dict[str, int]) -> list[tuple[str, str, str]]:
    """Three tasks of short copies, reversals and sums; splits differ in their numbers."""
    base = {"train": 0, "validation": 1000, "test": 2000}[split]
    rows = []
    for task, count in n.items():
        for k in range(count):
            x = base + 7 * k + 13
            answer = {"copy": str(x), "flip": str(x)[::-1], "next": str(x + 1)}[task]
            rows.append((task, f"{task} {x}" + " cat dog" * (k % 4), answer))
    return rows


def make_suite(folder: Path, name: str = "toy", order: int = 1, **train) -> Path:
    """A suite file with local data below `folder`; `order=-1` writes every file backwards."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, n in {"train": (24, 16, 8), "validation": (6, 5, 4), "test": (5, 5, 5)}.items():
        write_rows(folder, split, toy_rows(split, dict(zip(("copy", "flip", "next"), n, strict=True))))
    tasks = {t: {"signal": "loss"} for t in ("copy", "flip", "next")[::order]}
    spec = {
        "name": name,
        "title": "Toy",
        "source": "made by the tests",
        "data": {"files": "{split}.jsonl"},
        "template": {"prompt": "Q: {{input}}\nA:", "completion": " {{target}}"},
        "tasks": tasks,
        "train": {"epochs": 4, "effective_batch": 4, "max_length": 64, "lr": 0.003, "lr_grid": [0.003]} | train,
        "look": {"items": 4, "points": 4},
        "scoring": {"max_new_tokens": 6},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def make_model(folder: Path, family: str = "qwen2") -> Path:
    """A random model of about 20,000 parameters with the pocket tokenizer."""
    import torch
    import transformers as tf

    tokenizer = tf.AutoTokenizer.from_pretrained(asset("suites") / "pocket" / "model")
    eos, vocab = tokenizer.eos_token_id, len(tokenizer)
    common = {"vocab_size": vocab, "eos_token_id": eos, "bos_token_id": None, "pad_token_id": eos}
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(0)
    if family == "gpt2":
        config = tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **common)
        model = tf.GPT2LMHeadModel(config)
    else:
        kind = {"qwen2": tf.Qwen2Config, "llama": tf.LlamaConfig}[family]
        config = kind(**sizes, **common, tie_word_embeddings=family == "qwen2")
        model = tf.AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_suite(tmp_path_factory.mktemp("suites"))


@pytest.fixture(scope="module")
def forks():
    server = Forks()
    yield server
    server.close()
