"""`harness new`: a strategy with its test, or a suite of one's own, as files that work and are meant to be edited."""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
import sys
from pathlib import Path

from harness.errors import HarnessError
from harness.registry import builtin
from harness.suite import available

STRATEGY = '''"""NAME: one sentence on what it chooses and why (arXiv 0000.00000).

Deviations: what differs from the paper, or none.
"""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class CLASS:
    epochs: float = 1.0  # length of one stage, in epochs over the mixture; the paper's symbol and default go here

    def run(self, lab: Lab) -> None:
        best = float("-inf")
        while True:  # ends when the budget is used up
            h = lab.train(lab.proportional(), f"{self.epochs} epoch", eval_every=f"{self.epochs} epoch", keep="best")
            if h.best().value > best:
                best = h.best().value
                lab.answer(h.best().checkpoint)
'''

TEST = '''"""NAME's plot over given validation curves: no model, milliseconds."""

from contextlib import suppress

from harness.api import BudgetExhausted
from harness.registry import find
from harness.scripted import ScriptedLab


def test_the_plot_ends_with_an_answer():
    # An entry of the list is one train call: each task's values at its looks, higher is better. To be edited.
    lab = ScriptedLab({"a": 10, "b": 10}, [{"a": [0.1, 0.4], "b": [0.1, 0.4]}, {"a": [0.4, 0.2], "b": [0.4, 0.2]}])
    with suppress(BudgetExhausted):  # the end of the list, as the end of a budget
        find("PATH").cls().run(lab)
    assert lab.mixtures, "nothing was trained"  # the task weights of each train call
    assert lab.final != "base"  # say here what your plot answers with: "0:1" is the first call's second look
'''

SUITE = """\
name: NAME
title: What this suite asks, in a few words
source: where the rows come from
data:
  files: NAME/{split}.jsonl          # train, validation and test, beside this file
  licence: the data's licence
template:                            # Jinja2 over a row's input and target
  prompt: "Q: {{input}}\\nA:"
  completion: " {{target}}"          # the loss is on this and the end-of-sequence token
tasks:                               # signal: what a strategy sees by default: exact_match, loss or generate
  capitals: {signal: exact_match}
  plurals: {signal: exact_match}
train:
  epochs: 10                         # the budget 1x: size-proportional SFT for so many epochs
  effective_batch: 8
  max_length: 128
  lr: 5.0e-4
  lr_grid: [2.5e-4, 5.0e-4, 1.0e-3]
  schedule: {name: constant, warmup: 0.03}
scoring:                             # lm-eval generates and compares with the target
  max_new_tokens: 16
  until: ["\\n"]
"""

ROWS = {
    "capitals": [
        ("France", "Paris"),
        ("Italy", "Rome"),
        ("Peru", "Lima"),
        ("Egypt", "Cairo"),
        ("Norway", "Oslo"),
        ("Spain", "Madrid"),
        ("Kenya", "Nairobi"),
        ("Japan", "Tokyo"),
        ("Cuba", "Havana"),
        ("Chile", "Santiago"),
        ("Ghana", "Accra"),
        ("Nepal", "Kathmandu"),
    ],
    "plurals": [
        ("cat", "cats"),
        ("box", "boxes"),
        ("mouse", "mice"),
        ("dog", "dogs"),
        ("bush", "bushes"),
        ("goose", "geese"),
        ("cup", "cups"),
        ("fox", "foxes"),
        ("louse", "lice"),
        ("hat", "hats"),
        ("dish", "dishes"),
        ("foot", "feet"),
    ],
}
SPLITS = {"train": slice(0, 6), "validation": slice(6, 9), "test": slice(9, 12)}


def new_strategy(name: str, folder: Path) -> list[Path]:
    """NAME.py and test_NAME.py below `folder`. Raises HarnessError rather than overwrite."""
    path, test = folder / f"{name}.py", folder / f"test_{name}.py"
    _check(name, folder, path, test)
    cls = "".join(w.capitalize() for w in name.split("_"))
    return _write(
        {
            path: STRATEGY.replace("NAME", name).replace("CLASS", cls),
            test: TEST.replace("NAME", name).replace("PATH", str(path)),
        }
    )


def new_suite(name: str, folder: Path) -> list[Path]:
    """NAME.yaml and its three JSONL files below `folder`. Raises HarnessError rather than overwrite."""
    path, rows_of = folder / f"{name}.yaml", {split: folder / name / f"{split}.jsonl" for split in SPLITS}
    _check(name, folder, path, *rows_of.values())
    files = {path: SUITE.replace("NAME", name)}
    for split, part in SPLITS.items():
        rows = [
            json.dumps({"task": task, "input": source, "target": target})
            for task, pairs in ROWS.items()
            for source, target in pairs[part]
        ]
        files[rows_of[split]] = "\n".join(rows) + "\n"
    return _write(files)


def _check(name: str, folder: Path, *files: Path) -> None:
    """Raises HarnessError for a name that cannot be, files that exist, and a name that something else has."""
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise HarnessError(f"name {name!r}: expected lower-case letters, digits and _")
    for path in files:  # first: a file made here may lie where Python looks for modules
        if path.exists():
            raise HarnessError(f"{str(path)!r} exists already; nothing was written")
    if name in sys.stdlib_module_names or _importable(name, folder):
        raise HarnessError(f"name {name!r} is a Python module's: its file would stand in that module's way")
    if name in builtin() or name in available():
        raise HarnessError(f"name {name!r} is a built-in's: records could not tell them apart")


def _importable(name: str, folder: Path) -> bool:
    """Whether there is a module of this name; a folder without code, such as a suite's rows, is none."""
    found = importlib.util.find_spec(name)
    if found is None or found.origin is not None:
        return found is not None
    return any(Path(p).resolve() != (folder / name).resolve() for p in found.submodule_search_locations or ())


def _write(files: dict[Path, str]) -> list[Path]:
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)
