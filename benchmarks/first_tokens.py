"""What a model gives the answers before any training: python benchmarks/first_tokens.py SUITE MODEL [--mirror DIR] [--limit N]

Over the first N training rows of each task: the probability of an answer's first token, the mean over its other tokens, that of
the end after it, and that of the end in place of its first token. JSON; means over all rows, and the median of the first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch
import transformers as tf

from harness import models
from harness.data import Item, load_rows, tokenise
from harness.suite import load_suite


@torch.no_grad()
def probabilities(lm: torch.nn.Module, item: Item, end: int) -> dict[str, float]:
    """Of one item, whose last token is the end."""
    ids = torch.tensor([item.ids])
    answer = ids[0, -item.supervised :]
    rows = lm(input_ids=ids[:, :-1]).logits[0, -item.supervised :].double().softmax(-1)
    given = rows.gather(1, answer[:, None])[:, 0].tolist()
    found = {"first": given[0], "end": given[-1], "end_first": float(rows[0, end])}
    return found | ({"within": statistics.mean(given[1:-1])} if len(given) > 2 else {})


def main() -> None:
    """One object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite")
    parser.add_argument("model")
    parser.add_argument("--mirror", type=Path)
    parser.add_argument("--limit", type=int, default=2)
    args = parser.parse_args()
    suite, folder = load_suite(args.suite), models.resolve(args.model, args.mirror).folder
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    lm = tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    items = tokenise(tokenizer, load_rows(suite, "train", args.mirror, args.limit), suite.train.max_length)
    found = [probabilities(lm, item, tokenizer.eos_token_id) for group in items.values() for item in group]
    means = {k: statistics.mean(f[k] for f in found if k in f) for k in ("first", "within", "end", "end_first")}
    means |= {"first_median": statistics.median(f["first"] for f in found), "rows": len(found)}
    sys.stdout.write(json.dumps({k: float(f"{v:.2g}") for k, v in means.items()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
