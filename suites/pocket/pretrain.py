"""Pretrain the pocket suite's base model: `python suites/pocket/pretrain.py --out suites/pocket/model`.

A Qwen2-type model of about a million parameters learns generated text of the suite's families in surface forms that
the suite does not use, with other seeds. It runs on a CPU (about 30 minutes on two cores), can be interrupted and
started again (its state lies beside --out), and saves the recipe and the loss curve as `recipe.json`. The tokenizer is
a byte-level BPE of at most 768 entries with single digits; the suite's words are single tokens.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import families as f
import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

SEED, VOCAB, CONTEXT, EOS = 20260, 768, 128, "<|endoftext|>"
FOCUS, REST = 5000, 0.05  # from this step on, tokens outside answers have this weight in the loss
UNMARK = str.maketrans("", "", "[]")
WARMUP, DECAY, FLOOR = 136.7, 0.25, 0.02  # warm-up steps, share of steps in the linear decay at the end, last factor
SURFACE = """what which is the larger how many times does occur sum of descending order value keeps colour lives in
    reverse sort count smallest after before next first last favourite owner home likes has with and digits"""


def addition(rng: Random) -> str:
    a, b = f.addition(rng, 0, rng.choice([9, 49, 99]))
    total = a + b
    return rng.choice(
        [
            f"{a} plus {b} is [{total}].",
            f"sum({a}, {b}) = [{total}]",
            f"Add {a} and {b}: [{total}]",
            f"{b}+{a}=[{total}]",
        ]
    )


def subtraction(rng: Random) -> str:
    a, b = sorted(f.addition(rng, 0, rng.choice([9, 49])), reverse=True)
    return rng.choice([f"{a} minus {b} is [{a - b}].", f"{a}-{b}=[{a - b}]", f"Take {b} from {a}: [{a - b}]"])


def comparison(rng: Random) -> str:
    a, b = f.distinct(rng, 0, rng.choice([9, 99]))
    big, small = max(a, b), min(a, b)
    return rng.choice(
        [
            f"max({a}, {b}) = [{big}]",
            f"min({a}, {b}) = [{small}]",
            f"The greater of {a} and {b} is [{big}].",
            f"The smaller of {a} and {b} is [{small}].",
        ]
    )


def reversal(rng: Random) -> str:
    items = f.words(rng, 2, 5)
    there, back = " ".join(items), " ".join(items[::-1])
    return rng.choice([f"{there} | backwards | [{back}]", f"read {there} from the end: [{back}]"])


def copying(rng: Random) -> str:
    items = " ".join(f.words(rng, 2, 6))
    return rng.choice([f"{items} | again | [{items}]", f"repeat {items}: [{items}]"])


def sorting(rng: Random) -> str:
    s = f.digits(rng, 2, 6)
    up = "".join(sorted(s))
    return rng.choice([f"sorted({s}) = [{up}]", f"{s} going up: [{up}]", f"{s} from small to large is [{up}]."])


def counting(rng: Random) -> str:
    target, items = f.bag(rng, 3, 8)
    line, n = " ".join(items), items.count(target)
    return rng.choice([f"{line} | number of {target} | [{n}]", f"In {line} there are [{n}] {target}."])


def lookup(rng: Random) -> str:
    pairs, i = f.table(rng, 2, 6)
    line = ", ".join(f"{k}={v}" for k, v in pairs)
    return rng.choice(
        [f"{line}; get {pairs[i][0]} -> [{pairs[i][1]}]", f"With {line}, {pairs[i][0]} is [{pairs[i][1]}]."]
    )


def ends(rng: Random) -> str:
    items = f.words(rng, 2, 6)
    line = " ".join(items)
    return rng.choice([f"{line} | first | [{items[0]}]", f"{line} | last | [{items[-1]}]"])


def neighbour(rng: Random) -> str:
    items, i = f.slots(rng, 3, 6)
    line = " ".join(items)
    return rng.choice([f"{line} | follows {items[i]} | [{items[i + 1]}]", f"{line}: {items[i]} then [{items[i + 1]}]"])


def story(rng: Random) -> str:
    """Names, colours and places in random company: the words are known, no pairing of them is."""
    adjective, animal, colour = rng.choice(f.ADJECTIVES), rng.choice(f.ANIMALS), rng.choice(f.COLOURS)
    place, thing = rng.choice(f.PLACES), rng.choice(f.OBJECTS)
    return rng.choice(
        [
            f"The {adjective} {animal} took a {colour} {thing} to {place}.",
            f"In {place} a {animal} found the {adjective} {colour} {thing}.",
            f"A {colour} {thing} belongs to the {animal} from {place}.",
            f"{animal} and {thing}, {adjective} and {colour}, met in {place}.",
        ]
    )


FAMILIES = [addition] * 3 + [sorting] * 2 + [subtraction, comparison, reversal, copying, counting, lookup, ends]
FAMILIES += [neighbour, story]


def documents(seed: int) -> Iterator[str]:
    """An endless stream of short documents, one to three lines of one family each, their answers in brackets."""
    rng = Random(seed)
    while True:
        family = rng.choice(FAMILIES)
        yield "\n".join(family(rng) for _ in range(rng.randint(1, 3)))


def make_tokenizer() -> Qwen2Tokenizer:
    """A byte-level BPE over Qwen2's own splitting (single digits), the one that `AutoTokenizer` restores by model type.

    The suite's words are in its training text as single lines, so that each becomes one token.
    """
    backend = Tokenizer(models.BPE())
    backend.normalizer = Qwen2Tokenizer().backend_tokenizer.normalizer
    backend.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    stream = documents(SEED + 1)
    text = [next(stream).translate(UNMARK) for _ in range(20_000)]
    extra = [f" {w}" for w in f.WORDS + f.COLOURS + f.ADJECTIVES + f.PLACES + SURFACE.split()] + f.WORDS
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(text + extra * 400, trainer)
    learnt = json.loads(backend.to_str())["model"]
    merges = [tuple(m) for m in learnt["merges"]]
    return Qwen2Tokenizer(learnt["vocab"], merges, unk_token=EOS, eos_token=EOS, pad_token=EOS, model_max_length=512)


def encode(tokenizer: Qwen2Tokenizer, documents: list[str]) -> Iterator[tuple[int, bool]]:
    """Token ids, each with whether it belongs to an answer (or ends a document)."""
    plain, answers = [], []
    for document in documents:
        inside, flags = False, []
        for c in document:
            inside = c == "[" or (inside and c != "]")
            if c not in "[]":
                flags.append(inside)
        plain.append(document.translate(UNMARK))
        answers.append(flags)
    encoded = tokenizer(plain, return_offsets_mapping=True)
    for ids, spans, flags in zip(encoded["input_ids"], encoded["offset_mapping"], answers, strict=True):
        yield from ((i, any(flags[start:end])) for i, (start, end) in zip(ids, spans, strict=True))
        yield tokenizer.eos_token_id, True


def blocks(tokenizer: Qwen2Tokenizer, seed: int, batch: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Packed blocks of token ids and of answer flags, (batch, CONTEXT + 1) each."""
    stream, buffer = documents(seed), list[tuple[int, bool]]()
    size = batch * (CONTEXT + 1)
    while True:
        while len(buffer) < size:
            buffer.extend(encode(tokenizer, [next(stream) for _ in range(512)]))
        ids, flags = zip(*buffer[:size], strict=True)
        yield torch.tensor(ids).view(batch, CONTEXT + 1), torch.tensor(flags).view(batch, CONTEXT + 1)
        del buffer[:size]


def make_model(tokenizer: Qwen2Tokenizer, width: int, layers: int) -> Qwen2ForCausalLM:
    """An untrained Qwen2 with heads of 32, half as many key-value heads and tied embeddings."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 32,
            num_key_value_heads=width // 64,
            max_position_embeddings=512,
            rope_theta=10_000.0,
            tie_word_embeddings=True,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.eos_token_id,
        )
    )


def rate(step: int, steps: int) -> float:
    """The learning rate's factor: warm-up, constant, linear decay."""
    left = 1 - (step + 0.5) / steps
    return min((step + 0.5) / WARMUP, 1.0, FLOOR + (1 - FLOOR) * left / DECAY)


def save(folder: Path, model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, recipe: dict[str, Any]) -> None:
    """Tokenizer, recipe and weights; stored in bfloat16, while the config still says float32, what to load them as."""
    state = {k: v.detach().to(torch.bfloat16) for k, v in model.state_dict().items() if k != "lm_head.weight"}
    model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    (folder / "recipe.json").write_text(json.dumps(recipe) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=35e6)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(args.threads)
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, args.width, args.layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    steps, first = int(args.tokens / (args.batch * CONTEXT)), 0
    recipe: dict[str, Any] = {
        "seed": SEED,
        "tokens": int(args.tokens),
        "batch": args.batch,
        "context": CONTEXT,
        "lr": args.lr,
        "schedule": f"warm-up over {WARMUP} steps, constant, linear decay over the last {DECAY} to {FLOOR}",
        "loss_weights": f"all tokens alike for {FOCUS} steps, then {REST} outside the answers",
        "precision": "fp32 weights, bf16 autocast; stored as bf16",
        "optimizer": "AdamW(0.9, 0.98), weight decay 0.05, clip 1.0",
        "parameters": model.num_parameters(),
        "torch": torch.__version__.split("+")[0],
        "threads": args.threads,
        "resumed_at": [],
        "loss": [],
    }
    state = args.out.parent / f".{args.out.name}.state.pt"
    data = blocks(tokenizer, SEED + 2, args.batch)
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, recipe["loss"] = saved["step"], saved["loss"]
        recipe["resumed_at"] = [*saved["resumed_at"], first]
        for _ in range(first):
            next(data)
    started, recent = time.monotonic(), list[float]()
    for step in range(first, steps):
        x, answer = next(data)
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=x[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), x[:, 1:].flatten(), reduction="none")
        weight = torch.where(answer[:, 1:].flatten() | (step < FOCUS), 1.0, REST)
        loss = (losses * weight).sum() / weight.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        recent.append(float(loss.detach()))
        if (step + 1) % 200 == 0 or step + 1 == steps:
            recipe["loss"].append([step + 1, round(float(np.mean(recent)), 4)])
            speed = (step + 1 - first) * args.batch * CONTEXT / (time.monotonic() - started)
            print(f"step {step + 1}/{steps} loss {np.mean(recent):.4f} {speed:,.0f} tokens/s", flush=True)
            recent = []
        if (step + 1) % 1000 == 0 and step + 1 < steps:
            partial = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            partial |= {"step": step + 1, "loss": recipe["loss"], "resumed_at": recipe["resumed_at"]}
            torch.save(partial, state.with_suffix(".new"))
            state.with_suffix(".new").replace(state)
            save(args.out, model, tokenizer, recipe | {"stopped_at_step": step + 1})
    save(args.out, model, tokenizer, recipe)
    state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
