"""Rows written for this project in the layouts of the hub's data sets: fields, configurations and files are theirs.

Where each layout is known from is in the header of the suite that reads it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]
NAMES = ("Ada", "Ben", "Cleo", "Dev", "Eve", "Finn", "Gus", "Hana")
THINGS = ("apples", "books", "coins", "drums", "eggs", "flags")
LETTERS = "ABCDE"


def build(root: Path, bbh: dict[str, list[Row]], mmlu: Iterable[str]) -> Path:
    """A mirror with every data set that the built-in suites read; `bbh` rows by task, `mmlu` its subjects."""
    sets: dict[str, dict[str, dict[str, list[Row]]]] = {
        "allenai/ai2_arc": {"ARC-Easy": _splits(_arc, "train", "test")},
        "allenai/openbookqa": {"main": _splits(_openbook, "train", "test")},
        "allenai/sciq": {"default": _splits(_sciq, "train", "test")},
        "allenai/winogrande": {"winogrande_debiased": _splits(_winogrande, "train", "validation")},
        "deepmind/aqua_rat": {"raw": _splits(_aqua, "train", "test")},
        "google/boolq": {"default": _splits(_boolq, "train", "validation")},
        "openai/gsm8k": {"main": _splits(_gsm8k, "train", "test")},
        "openlifescienceai/medmcqa": {"default": _splits(_medmcqa, "train", "validation")},
        "Rowan/hellaswag": {"default": _splits(_hellaswag, "train", "validation")},
        "tau/commonsense_qa": {"default": _splits(_commonsense, "train", "validation")},
        "ChilleD/SVAMP": {"default": {"test": [_svamp(i) for i in range(9)]}},
        "HuggingFaceH4/MATH-500": {"default": {"test": [_math(i) for i in range(9)]}},
        "hails/agieval-aqua-rat": {"default": {"test": [_agieval(i, 5) for i in range(6)]}},
        "hails/agieval-sat-math": {"default": {"test": [_agieval(i, 4) for i in range(6)]}},
        "AI-MO/NuminaMath-CoT": {"default": {"train": [_numina(i) for i in range(360)]}},
        "allenai/tulu-3-sft-mixture": {"default": {"train": [row for i in range(9000) for row in _tulu(i)]}},
        "SaylorTwift/bbh": {task: {"test": rows} for task, rows in bbh.items()},
        "cais/mmlu": {subject: {"test": [_mmlu(subject, i) for i in range(3)]} for subject in mmlu},
    }
    for name, configs in sets.items():
        write(root / "datasets" / name, configs)
    folder = root / "datasets" / "meta-math" / "MetaMathQA"
    folder.mkdir(parents=True)
    (folder / "MetaMathQA-395K.json").write_text(json.dumps([row for i in range(500) for row in _metamath(i)]))
    folder = root / "datasets" / "zjunlp" / "Mol-Instructions" / "data"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "Molecule-oriented_Instructions.zip", "w") as archive:
        for task in MOLECULES:
            archive.writestr(f"Molecule-oriented_Instructions/{task}.json", json.dumps(_molecules(task)))
    return root


def write(folder: Path, configs: dict[str, dict[str, list[Row]]]) -> None:
    """A data set's folder: one JSONL file a configuration and split, and the card that names them."""
    card = []
    for config, splits in configs.items():
        (folder / config).mkdir(parents=True)
        for split, rows in splits.items():
            (folder / config / f"{split}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        files = [{"split": s, "path": f"{config}/{s}.jsonl"} for s in splits]
        card.append({"config_name": config, "data_files": files})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': card})}---\n")


def _splits(make: Callable[[int], Row], train: str, test: str, n: int = 60, m: int = 8) -> dict[str, list[Row]]:
    return {train: [make(i) for i in range(n)], test: [make(1000 + i) for i in range(m)]}


def _story(i: int) -> tuple[str, int]:
    """A word problem and its answer."""
    a, b = 3 + i % 41, 2 + i // 41
    return f"{NAMES[i % 8]} has {a} {THINGS[i % 6]} and finds {b} more. How many {THINGS[i % 6]} are there now?", a + b


def _options(i: int, n: int) -> tuple[list[str], int]:
    """Options, and which is right."""
    return [f"item {i} number {(i + k) % n}" for k in range(n)], i % n


def _arc(i: int) -> Row:
    texts, right = _options(i, 4)
    labels = list("1234") if i % 5 == 0 else list("ABCD")
    question = f"Which is right of {i}?"
    return {
        "id": f"a{i}",
        "question": question,
        "choices": {"text": texts, "label": labels},
        "answerKey": labels[right],
    }


def _openbook(i: int) -> Row:
    texts, right = _options(i, 4)
    choices = {"text": texts, "label": list("ABCD")}
    return {"id": f"o{i}", "question_stem": f"The sum {i} is", "choices": choices, "answerKey": "ABCD"[right]}


def _sciq(i: int) -> Row:
    wrong = {f"distractor{k}": f"wrong {i + k}" for k in (1, 2, 3)}
    return {"question": f"What is called {i}?", **wrong, "correct_answer": f"thing {i}", "support": ""}


def _winogrande(i: int) -> Row:
    a, b = NAMES[i % 8], NAMES[(i + 3) % 8]
    text = f"{a} thanked {b} for {i} things because _ had helped."
    return {"sentence": text, "option1": a, "option2": b, "answer": "2"}


def _aqua(i: int) -> Row:
    question, answer = _story(i)
    options = [f"{LETTERS[k]}){answer + k - i % 5}" for k in range(5)]
    return {"question": question, "options": options, "rationale": f"Adding gives {answer}.", "correct": LETTERS[i % 5]}


def _boolq(i: int) -> Row:
    return {"question": f"is {i} even", "answer": i % 2 == 0, "passage": f"The number {i} ends in {i % 10}."}


def _gsm8k(i: int) -> Row:
    question, answer = _story(i)
    return {"question": question, "answer": f"They are added, which gives {answer}.\n#### {answer}"}


def _medmcqa(i: int) -> Row:
    texts, right = _options(i, 4)
    options = dict(zip(("opa", "opb", "opc", "opd"), texts, strict=True))
    return {"id": f"m{i}", "question": f"Which sign belongs to case {i}?", **options, "cop": right}


def _hellaswag(i: int) -> Row:
    endings, right = _options(i, 4)
    return {
        "ind": i,
        "activity_label": "Counting",
        "ctx": f"Somebody counts to {i} and",
        "endings": endings,
        "label": f"{right}",
    }


def _commonsense(i: int) -> Row:
    texts, right = _options(i, 5)
    choices = {"text": texts, "label": list(LETTERS)}
    return {"id": f"c{i}", "question": f"Where is number {i} kept?", "choices": choices, "answerKey": LETTERS[right]}


def _svamp(i: int) -> Row:
    question, answer = _story(7 * i)
    body, _, asked = question.partition(". ")
    return {"ID": f"s{i}", "Body": body + ("." if i % 2 else ""), "Question": asked, "Answer": f"{answer}.0"}


def _math(i: int) -> Row:
    problem, answer = f"Compute ${i} + \\frac{{1}}{{2}}$.", f"\\frac{{{2 * i + 1}}}{{2}}"
    solution = f"The sum is $\\boxed{{{answer}}}$."
    return {
        "problem": problem,
        "solution": solution,
        "answer": answer,
        "subject": "Algebra",
        "level": 1,
        "unique_id": f"{i}",
    }


def _agieval(i: int, n: int) -> Row:
    question, answer = _story(11 * i)
    choices = [f"({LETTERS[k]}){answer + k - i % n}" for k in range(n)]
    query = f"Q: {question} Answer Choices: {' '.join(choices)}\nA: Among A through {LETTERS[n - 1]}, the answer is"
    return {"query": query, "choices": choices, "gold": [i % n]}


NUMINA = [
    "cn_k12",
    "synthetic_math",
    "orca_math",
    "olympiads",
    "synthetic_amc",
    "aops_forum",
    "math",
    "gsm8k",
    "amc_aime",
]


def _numina(i: int) -> Row:
    problem, answer = f"Find ${i} + {i % 7}$.", i + i % 7
    solution = f"The sum is $\\boxed{{{answer}}}$."
    said = [{"content": problem, "role": "user"}, {"content": solution, "role": "assistant"}]
    return {"source": NUMINA[i % 9], "problem": problem, "solution": solution, "messages": said}


TULU = [
    "ai2-adapt-dev/coconot_converted",
    "ai2-adapt-dev/evol_codealpaca_heval_decontaminated",
    "ai2-adapt-dev/flan_v2_converted",
    "ai2-adapt-dev/no_robots_converted",
    "ai2-adapt-dev/numinamath_tir_math_decontaminated",
    "ai2-adapt-dev/oasst1_converted",
    "ai2-adapt-dev/personahub_code_v2_34999",
    "ai2-adapt-dev/personahub_ifdata_manual_seed_v3_29980",
    "ai2-adapt-dev/personahub_math_v5_regen_149960",
    "allenai/tulu-3-sft-personas-math-grade",
    "ai2-adapt-dev/tulu_v3.9_aya_100k",
    "ai2-adapt-dev/tulu_v3.9_open_math_2_gsm8k_50k",
    "ai2-adapt-dev/tulu_v3.9_personahub_math_interm_algebra_20k",
    "ai2-adapt-dev/tulu_v3.9_sciriff_10k",
    "ai2-adapt-dev/tulu_v3.9_synthetic_finalresp_wildguardmixtrain_decontaminated_50k",
    "ai2-adapt-dev/tulu_v3.9_table_gpt_5k",
    "ai2-adapt-dev/tulu_v3.9_wildchat_100k",
    "ai2-adapt-dev/tulu_v3.9_wildjailbreak_decontaminated_50k",
    "ai2-adapt-dev/tulu_hard_coded_repeated_10",
]


def _tulu(i: int) -> list[Row]:
    """One row of a source, or of none: every seventh has two turns, every eleventh no answer."""
    source = TULU[i % 19]
    said = [{"content": f"Please say the number {i}.", "role": "user"}, {"content": f"It is {i}.", "role": "assistant"}]
    if i % 7 == 0:
        said = said * 2
    if i % 11 == 0:
        said[-1] = {"content": " ", "role": "assistant"}
    return [{"id": f"{source}_{i}", "messages": said, "source": source}]


def _mmlu(subject: str, i: int) -> Row:
    texts, right = _options(i, 4)
    return {"question": f"Which belongs to {subject} {i}? ", "subject": subject, "choices": texts, "answer": right}


def _metamath(i: int) -> list[Row]:
    """The eight rewritings of two questions."""
    rows = []
    for family in ("GSM", "MATH"):
        question, answer = _story(2 * i + (family == "MATH"))
        for kind in ("AnsAug", "Rephrased", "SV", "FOBAR"):
            query = question if kind == "AnsAug" else f"{question} ({kind.lower()} of {i})"
            response = f"We add and get {answer}.\n#### {answer}\nThe answer is: {answer}"
            rows.append(
                {"type": f"{family}_{kind}", "query": query, "original_question": question, "response": response}
            )
    return rows


MOLECULES = (
    "description_guided_molecule_design",
    "forward_reaction_prediction",
    "reagent_prediction",
    "retrosynthesis",
)


def _molecules(task: str) -> list[Row]:
    rows = []
    for i in range(400):
        chain = "[C]" * (1 + i % 20) + "[O]" * (1 + i // 20)
        split = "test" if i % 40 == 0 else "train"
        rows.append(
            {
                "instruction": f"Name the molecule of {task.replace('_', ' ')}.",
                "input": f"number {i}",
                "output": chain if i % 3 else f"{chain}.[C][C][O]",
                "metadata": {"task": task.replace("_", " "), "split": split},
            }
        )
    return rows
