"""What `throughput.py` runs on: models by name, rows of stated lengths, and one case of model x rows x mode.

Lengths are quantiles of real data in SmolLM2's tokens, so that nothing has to be fetched: `short` is BBH (27 tasks, 20 rows of
each; the answer and its end token), `long` is the chain of thought of GSM8K (500 rows). Token ids are random: throughput
does not depend on them. Every effective batch holds the same lengths, so that every step is the same work.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harness.data import Item
from harness.flops import Arch
from harness.models import resolve
from harness.paths import asset

AT = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
ROWS = {  # tokens of prompt and answer at these quantiles
    "short": ((14, 29, 46, 94, 165, 210, 434), (2, 2, 3, 4, 4, 4, 36)),
    "long": ((30, 43, 50, 64, 78, 94, 182), (31, 67, 87, 121, 160, 205, 455)),
}
GATED = {"rms_norm_eps": 1e-6, "tie_word_embeddings": True, "max_position_embeddings": 2048}


def _sizes(kind: str, layers: int, hidden: int, ffn: int, heads: int, kv: int, vocabulary: int) -> dict[str, Any]:
    sizes = {"num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": ffn}
    return {
        "kind": kind,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocabulary,
        **sizes,
        **GATED,
    }


RANDOM = {  # configurations whose weights are drawn where there are no others
    "tiny": _sizes("qwen2", 2, 32, 48, 4, 2, 1_024),
    "small-49k": _sizes("qwen2", 6, 256, 768, 4, 2, 49_152),
    "smollm2-135m": _sizes("llama", 30, 576, 1536, 9, 3, 49_152),
    "qwen2.5-0.5b": _sizes("qwen2", 24, 896, 4864, 14, 2, 151_936),
    "qwen2.5-1.5b": _sizes("qwen2", 28, 1536, 8960, 12, 2, 151_936),
}
MODELS = ("pocket", *RANDOM)


@dataclass(frozen=True)
class Case:
    """One line of the table. `batch`: examples of an effective batch; `batches`: how many different ones there are."""

    model: str
    rows: str
    mode: str
    folder: Path
    batch: int
    batches: int = 4
    weights: str = "random"
    rank: int = 16
    alpha: float = 32.0

    @property
    def config(self) -> dict[str, Any]:
        """The model's `config.json`."""
        found: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return found

    @property
    def sizes(self) -> Arch:
        """Of the model without adapters."""
        return Arch.from_config(self.config)

    @property
    def arch(self) -> Arch:
        """Sizes for the FLOPs count, with adapters under LoRA."""
        return self.sizes.lora(self.rank) if self.mode == "lora" else self.sizes

    def lengths(self) -> list[tuple[int, int]]:
        """(prompt, answer) tokens of each example of an effective batch; together no more than the model's positions."""
        middles = (np.arange(self.batch) + 0.5) / self.batch
        prompts, answers = (np.interp(middles, AT, q).round().astype(int).tolist() for q in ROWS[self.rows])
        random.Random(0).shuffle(answers)
        room = int(self.config["max_position_embeddings"])
        return [(min(p, room - a), a) for p, a in zip(prompts, answers, strict=True)]

    def effective_batches(self) -> list[list[Item]]:
        """The batches, in the order in which everybody takes them."""
        draw, vocabulary = random.Random(1), int(self.config["vocab_size"])

        def item(name: str, prompt: int, answer: int) -> Item:
            # No token 0: pocket's pad, which some collators would mask.
            return Item(name, "a", tuple(draw.randrange(1, vocabulary) for _ in range(prompt + answer)), answer)

        lengths = self.lengths()
        return [[item(f"a/{b}-{i}", p, a) for i, (p, a) in enumerate(lengths)] for b in range(self.batches)]

    def work(self) -> tuple[int, int, int]:
        """Of one effective batch: real tokens, supervised tokens, and model FLOPs of a training step."""
        items = self.effective_batches()[0]
        flops = sum(self.arch.train_step(i.tokens, i.supervised) for i in items)
        return sum(i.tokens for i in items), sum(i.supervised for i in items), flops


@contextmanager
def model_folder(name: str, mirror: Path | None) -> Iterator[tuple[Path, str]]:
    """A model's folder and where its weights are from: the wheel, the mirror, or (in a folder for the time being) a seed."""
    if name == "pocket":
        yield resolve("pocket").folder, "embedded"
        return
    if mirror is not None and name == "smollm2-135m":
        yield resolve(name, mirror).folder, "mirror"
        return
    with TemporaryDirectory() as there:
        _draw(Path(there), dict(RANDOM[name]))
        yield Path(there), "random"


def _draw(folder: Path, sizes: dict[str, Any]) -> None:
    """A random model of these sizes, with pocket's tokenizer: only its ids of padding and end are asked for."""
    import torch
    import transformers as tf

    tokenizer = tf.AutoTokenizer.from_pretrained(asset("suites") / "pocket" / "model")
    kind = {"qwen2": tf.Qwen2Config, "llama": tf.LlamaConfig}[sizes.pop("kind")]
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None, "pad_token_id": tokenizer.eos_token_id}
    torch.manual_seed(0)
    gpu = torch.cuda.is_available() and os.environ.get("HARNESS_DEVICE") != "cpu"
    with torch.device("cuda" if gpu else "cpu"):  # one core of a host draws a hundred million numbers a second
        model = tf.AutoModelForCausalLM.from_config(kind(**sizes, **ends), dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    del model
    if gpu:
        torch.cuda.empty_cache()  # the sides are other processes
