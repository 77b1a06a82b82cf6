"""BBH and GSM8K as they are: what the suites read, ask and score of the real items.

HARNESS_TEST_HUB names a mirror of both (DIR/datasets/SaylorTwift/bbh, DIR/datasets/openai/gsm8k); a copy of
SmolLM2-135M-Instruct below DIR/models makes its tokenizer the second one that prompts are compared with.
"""

import json
import os
from pathlib import Path

import jinja2
import pyarrow.parquet
import pytest

from harness import models, parity
from harness.data import load_rows, seen, tokenise
from harness.overlap import overlap
from harness.paths import asset
from harness.suite import Suite, load_suite
from tests.test_bbh import FILTERS, stock
from tests.test_sources import brute
from tests.test_suites import scores

HUB = Path(os.environ.get("HARNESS_TEST_HUB", ""))
BBH, GSM8K = HUB / "datasets" / "SaylorTwift" / "bbh", HUB / "datasets" / "openai" / "gsm8k"
SMOL = HUB / "models" / "HuggingFaceTB" / "SmolLM2-135M-Instruct"
pytestmark = pytest.mark.skipif(
    not (BBH.is_dir() and GSM8K.is_dir() and HUB.name), reason="HARNESS_TEST_HUB names no mirror with BBH and GSM8K"
)
SPLITS = ("train", "validation", "test")


def table(folder: Path, split: str) -> list[dict]:
    """Rows as they lie in the mirror, read without the harness."""
    found = []
    for path in sorted(folder.glob(f"{split}*")):
        if path.suffix == ".parquet":
            found += pyarrow.parquet.read_table(path).to_pylist()
        else:
            found += [json.loads(line) for line in path.read_text().splitlines()]
    return found


def only_gsm8k(name: str) -> Suite:
    """A suite of which GSM8K alone is left: as a scoring task (metamathqa, numinamath), or as one of ten (msft-10)."""
    suite = load_suite(name)
    if suite.scoring.tasks:
        scoring = suite.scoring.model_copy(update={"tasks": {"gsm8k": suite.scoring.tasks["gsm8k"]}})
        return suite.model_copy(update={"scoring": scoring})
    data = suite.data.model_copy(update={"sources": tuple(s for s in suite.data.sources if s.task == "gsm8k")})
    return suite.model_copy(update={"data": data, "tasks": {"gsm8k": suite.tasks["gsm8k"]}})


def only_bbh() -> Suite:
    """tulu-bbh, of whose scoring tasks BBH's are left."""
    suite = load_suite("tulu-bbh")
    scoring = suite.scoring.model_copy(update={"tasks": {"bbh": suite.scoring.tasks["bbh"]}})
    return suite.model_copy(update={"scoring": scoring})


@pytest.fixture(scope="module")
def bbh():
    return {s: load_rows(load_suite("bbh"), s, HUB) for s in SPLITS}


@pytest.fixture(scope="module")
def asked(bbh):
    """Test rows of every suite that reads real ones."""
    suites = {name: only_gsm8k(name) for name in ("metamathqa", "msft-10", "numinamath")} | {"tulu-bbh": only_bbh()}
    return {"bbh": bbh["test"]} | {name: load_rows(suite, "test", HUB) for name, suite in suites.items()}


def test_bbhs_rows_are_those_that_the_suite_pins(bbh):
    suite = load_suite("bbh")
    assert set(suite.data.sha256) == set(SPLITS)
    sizes = {s: sum(map(len, bbh[s].values())) for s in SPLITS}
    assert sizes == {"train": 3254, "validation": 1302, "test": 1952}
    assert suite.rows == f"{sizes['train']:,}"


def test_bbhs_prompts_are_lm_evals_over_the_rows_as_they_lie(bbh, asked):
    """Also of tulu-bbh, which scores every row, the three included that `bbh` drops."""
    expected = {}
    for task in bbh["test"]:
        config = stock(task)
        ask, answer = (jinja2.Template(config.get(key, "{{target}}")) for key in ("doc_to_text", "doc_to_target"))
        expected[task] = [(config["description"] + ask.render(d), answer.render(d)) for d in table(BBH / task, "test")]
    for task, pairs in expected.items():
        ours = [(r.prompt, r.completion) for s in SPLITS for r in bbh[s][task]]
        assert len(set(ours)) <= len(ours) <= len(pairs)
        assert set(ours) <= set(pairs)
        assert [(r.prompt, r.target) for r in asked["tulu-bbh"][f"bbh_{task}"]] == pairs
    assert sum(map(len, expected.values())) == 6511


def test_gsm8ks_rows_are_all_there(asked):
    rows = table(GSM8K / "main", "test")
    assert len(rows) == 1319
    for name in ("metamathqa", "numinamath"):
        assert [(r.input, r.target) for r in asked[name]["gsm8k"]] == [(r["question"], r["answer"]) for r in rows]
    asked = {(f"Q: {r['question']}\nA:", r["answer"].partition("####")[2]) for r in rows}
    ten = {(r.prompt, r.target.partition("####")[2]) for r in asked["msft-10"]["gsm8k"]}
    assert len(ten) == 500
    assert ten <= asked
    sizes = {s: len(load_rows(only_gsm8k("msft-10"), s, HUB)["gsm8k"]) for s in ("train", "validation")}
    assert sizes == {"train": 1800, "validation": 200}


@pytest.mark.parametrize("folder", [asset("suites") / "pocket" / "model", SMOL], ids=["pocket", "smollm2"])
def test_every_prompt_is_the_same_ids_in_lm_eval_and_in_training(bbh, asked, folder):
    from lm_eval.models.huggingface import HFLM

    if not folder.is_dir():
        pytest.skip("the mirror has no SmolLM2-135M-Instruct")
    tokenizer = models.tokenizer(models.resolve(str(folder)))
    lm = HFLM(pretrained=str(folder), device="cpu", batch_size=1)
    for name, rows in asked.items():
        found = parity.report(lm.tok_encode, tokenizer, rows, 1 << 20)
        n = sum(map(len, rows.values()))
        assert (found["items"], found["prompts_equal"], found["bos"], found["why"]) == (n, n, 0, None), name
    if folder == SMOL:
        items = [
            i
            for s in SPLITS
            for g in tokenise(tokenizer, bbh[s], load_suite("bbh").train.max_length).values()
            for i in g
        ]
        assert max(len(i.ids) for i in items) == 583  # as the suite's file says


def test_the_right_answers_pass_lm_evals_filters(asked, tmp_path):
    suite = load_suite("bbh")
    right = scores(suite, asked["bbh"], lambda r: r.target, tmp_path)
    assert {task: value for task, (value, _) in right.items()} == dict.fromkeys(suite.tasks, 1.0)
    assert suite.scoring.filter in FILTERS
    for name in ("metamathqa", "msft-10"):
        (tmp_path / name).mkdir()
        found = scores(only_gsm8k(name), asked[name], lambda r: r.target, tmp_path / name)
        assert found == {"gsm8k": (1.0, {})}, name


def test_overlap_with_what_is_trained_on(asked):
    """The report against every row compared with every item: none of BBH's and GSM8K's test items is trained on."""
    found = {}
    for name, suite in {"bbh": load_suite("bbh"), "msft-10": only_gsm8k("msft-10")}.items():
        pairs = list(seen(suite, HUB))
        found[name] = overlap(iter(pairs), asked[name])
        assert found[name] == brute(pairs, asked[name])
    assert not any(row["exact"] for rows in found.values() for row in rows.values())
    assert found["msft-10"] == {"gsm8k": {"n": 500, "exact": 0, "rare_13_gram": 2}}
    assert found["bbh"]["snarks"] == {"n": 53, "exact": 0, "rare_13_gram": 4}
