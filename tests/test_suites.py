"""The published suites over rows in their data sets' layouts: what is read, asked, trained and scored."""

import importlib.util
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from harness import models, parity, stock
from harness.data import load_rows, tokenise
from harness.flops import Arch
from harness.lmtasks import others, summarise, task_items
from harness.paths import asset
from harness.scorer import run_lm_eval
from harness.show import listing
from harness.suite import Suite, available, load_suite
from tests.conftest import ROOT
from tests.mirrors import build
from tests.test_bbh import like, over_the_fixture

PUBLISHED = ("metamathqa", "mol-instructions", "msft-10", "numinamath", "tulu-bbh")
# What committed results depend on: these two suites' digests must never move.
DIGESTS = {
    ("pocket", "full"): "25a7484d92457976649eff79e905eb2a255b3696a1693554f81e04db29b62a54",
    ("pocket", "lora"): "5b1c05016af7f5a7b2aaa7e466cdff483924699a357f0ce3310a6f775d1a6ed4",
    ("bbh", "full"): "5d0d7973e0024b5f99abe1739f66a1e77b1f90e046b93b75825253b8df672382",
    ("bbh", "lora"): "4ac38585faf08dd4be37c8be16983e3dbc6dfb648ac023fa0aeb327fd4bbd24e",
}


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    subjects = mmlu()
    assert len(set(subjects)) == len(subjects) == 57
    return build(tmp_path_factory.mktemp("hub"), like(), subjects)


def mmlu() -> list[str]:
    """MMLU's subjects, as the suite that reads all of them has them."""
    scored = load_suite("tulu-bbh").scored.values()
    return [c for t in scored if t.source.hub == "cais/mmlu" for c in t.source.config]


def published(name: str) -> Suite:
    """The suite as it is; NuminaMath's slices are moved to where the mirror's few rows are."""
    suite = load_suite(name)
    if name != "numinamath":
        return suite
    (source,) = suite.data.sources
    assert source.split == {"train": "train[:100000]", "validation": "train[100000:102000]"}
    few = source.model_copy(update={"split": {"train": "train[:300]", "validation": "train[300:360]"}})
    return suite.model_copy(update={"data": suite.data.model_copy(update={"sources": (few,)})})


@pytest.fixture(scope="module")
def rows(mirror):
    known: dict[str, dict] = {}

    def load(name):
        if name not in known:
            known[name] = {s: load_rows(published(name), s, mirror) for s in ("train", "validation", "test")}
        return known[name]

    return load


@pytest.mark.parametrize(("name", "mode"), DIGESTS)
def test_suites_with_results_keep_their_digests(name, mode):
    assert load_suite(name).sha256(mode) == DIGESTS[name, mode]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_task_has_rows_and_no_question_is_in_two_splits(rows, name):
    suite, found = load_suite(name), rows(name)
    assert list(found["train"]) == list(found["validation"]) == sorted(suite.tasks)
    assert list(found["test"]) == sorted(suite.scored)
    for task in suite.tasks:
        seen = {r.input for r in found["train"][task]}
        assert not any(r.input in seen for r in found["validation"][task])
    if not suite.scoring.tasks:
        assert all(r.fields is None for group in found["test"].values() for r in group)


def test_rewritings_of_one_question_stay_on_one_side(rows):
    found = rows("metamathqa")
    story = {s: {r.input.partition(" (")[0] for g in found[s].values() for r in g} for s in ("train", "validation")}
    assert story["validation"]
    assert not story["train"] & story["validation"]
    sizes = {s: Counter({t: len(g) for t, g in found[s].items()}) for s in story}
    assert set((sizes["train"] + sizes["validation"]).values()) == {500}


def test_only_single_turns_with_an_answer_are_kept(rows):
    kept = [r for s in ("train", "validation") for g in rows("tulu-bbh")[s].values() for r in g]
    numbers = sorted(int(r.input.split()[-1].rstrip(".")) for r in kept)
    assert numbers == [i for i in range(9000) if i % 7 and i % 11 and i % 19 != 18]


@pytest.mark.parametrize(
    ("task", "prompt", "target"),
    [
        ("arc_easy", "Q: Which is right of 1000? options: A. item 1000 number 0, B. item 1000 number 1, C.", "#### A"),
        ("openbookqa", "Q: The sum 1000 is options: A. item 1000 number 0", "#### A"),
        ("sciq", "Q: What is called 1000?\nA:", "#### thing 1000"),
        (
            "winogrande",
            "Q: Ada thanked Dev for 1000 things because _ had helped. options: A. Ada, B. Dev\nA:",
            "#### B",
        ),
        ("aqua_rat", "Q: Ada has 19 eggs and finds 26 more. How many eggs are there now? options: A. 45, B. 46", None),
        ("boolq", "Q: The number 1000 ends in 0. is 1000 even?\nA:", "#### True"),
        ("gsm8k", "Q: Ada has 19 eggs", "They are added, which gives 45.\n#### 45"),
        ("medmcqa", "Q: Which sign belongs to case 1000? options: A. item 1000 number 0, B.", "#### A"),
        ("hellaswag", "Q: Counting: Somebody counts to 1000 and options: A. item 1000 number 0", "#### A"),
        ("commonsense_qa", "Q: Where is number 1000 kept? options: A. item 1000 number 0", "#### A"),
    ],
)
def test_what_msft_asks(rows, task, prompt, target):
    first = rows("msft-10")["test"][task][0]
    assert first.prompt.startswith(prompt)
    assert first.prompt.endswith("\nA:")
    assert first.target == (target or "Adding gives 45. #### A")
    assert first.completion == " " + first.target


class Answerer:
    """A model that says to every prompt what `say` makes of its row."""

    def __init__(self, rows, say):
        self.rows = {r.prompt: r for group in rows.values() for r in group}
        self.say, self.asked = say, []

    def run(self, suite, rows, folder):
        from lm_eval.api.model import LM

        outer = self

        class Model(LM):
            def generate_until(self, requests, disable_tqdm=False):
                outer.asked.extend(r.args for r in requests)
                return [outer.say(outer.rows[r.args[0]]) for r in requests]

            loglikelihood = loglikelihood_rolling = None

        return run_lm_eval(Model(), suite, rows, folder)


def tokens(text, add_special_tokens=True):
    return {"input_ids": text.split()}


def scores(suite, rows, say, folder):
    """Scores and the other metrics by task, through lm-eval's own task objects."""
    model = Answerer(rows, say)
    samples, results = model.run(suite, rows, folder)
    assert {args[0] for args in model.asked} == {r.prompt for group in rows.values() for r in group}
    arch = Arch.from_config(json.loads((asset("suites") / "pocket" / "model" / "config.json").read_text()))
    result = {}
    for task in samples:
        how = suite.scored[task]
        items, *_ = task_items(suite, task, rows[task], samples[task], tokens, arch)
        result[task] = summarise(items, how.filter, how.metric)["value"], others(results, suite, task)
        limits = {args[1]["max_gen_toks"] for args in model.asked if args[0] == rows[task][0].prompt}
        assert limits == {how.max_new_tokens}
    return result


@pytest.mark.parametrize("name", PUBLISHED)
def test_right_answers_are_right_and_others_wrong(rows, name, tmp_path):
    """lm-eval's filters and metrics over answers in the form that training teaches, and over ones that are not there."""
    suite, test = published(name), rows(name)["test"]
    pytest.importorskip("rdkit" if suite.scoring.extra == "chem" else "math_verify")
    forms = {"numinamath": lambda r: f" It is so.\n{r.target}", "metamathqa": _as_metamath}
    right = scores(suite, test, forms.get(name, lambda r: f" {r.target}"), tmp_path)
    assert {task: value for task, (value, _) in right.items()} == dict.fromkeys(suite.scored, 1.0)
    (tmp_path / "wrong").mkdir()
    wrong = scores(suite, test, lambda r: " zzz", tmp_path / "wrong")
    assert {task: value for task, (value, _) in wrong.items()} == dict.fromkeys(suite.scored, 0.0)


def _as_metamath(row):
    answer = row.target.partition("####")[2].strip() or row.target
    return f"We add and get it.\n#### {answer}\nThe answer is: {answer}"


def test_what_is_no_molecule_lowers_coverage_and_bleu(rows, tmp_path):
    pytest.importorskip("rdkit")
    suite, test = load_suite("mol-instructions"), rows("mol-instructions")["test"]
    said = {r.id: r.target if k % 2 else "[Nonsense]" for g in test.values() for k, r in enumerate(g)}
    for value, rest in scores(suite, test, lambda r: said[r.id], tmp_path).values():
        assert value == rest["coverage"] == rest["validity"] == 0.5
        assert rest["edit_distance"] == 0
        assert 0 < rest["bleu"] < 1


def _tokenizer(bos: bool):
    tokenizer = models.tokenizer(models.resolve("pocket"))
    if bos:
        from tokenizers.processors import TemplateProcessing

        token, number = "A", tokenizer.convert_tokens_to_ids("A")
        tokenizer.bos_token = token
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{token} $A", pair=f"{token} $A $B", special_tokens=[(token, number)]
        )
    return tokenizer


@pytest.mark.parametrize("name", [*PUBLISHED, "bbh", "pocket"])
def test_training_and_lm_eval_put_the_same_ids_before_the_model(rows, name, mirror, tmp_path):
    """HFLM's own encoding of the prompt that lm-eval sends, against the ids that are trained on."""
    from lm_eval.models.huggingface import HFLM

    if name in PUBLISHED:
        train, test = (rows(name)[s] for s in ("train", "test"))
    else:
        suite = over_the_fixture(load_suite(name), tmp_path) if name == "bbh" else load_suite(name)
        train, test = (load_rows(suite, s, mirror) for s in ("train", "test"))
    tokenizer = _tokenizer(bos=False)
    lm = HFLM(pretrained=str(asset("suites") / "pocket" / "model"), device="cpu", batch_size=2)
    found = parity.merged(parity.report(lm.tok_encode, tokenizer, {t: g}) for t, g in test.items())
    assert found["passed"], found["why"]
    assert found["prompts_equal"] == found["items"] == sum(min(64, len(g)) for g in test.values())
    items = tokenise(tokenizer, {t: g[:4] for t, g in train.items()}, 1 << 20)
    assert all(i.ids[-1] == tokenizer.eos_token_id for g in items.values() for i in g)


def test_the_parity_gate_sees_what_is_wrong(rows):
    test = rows("msft-10")["test"]
    with_bos, without = _tokenizer(bos=True), _tokenizer(bos=False)
    good = parity.report(lambda t: with_bos(t)["input_ids"], with_bos, test)
    assert (good["passed"], good["bos"]) == (True, good["items"])
    other = parity.report(lambda t: without(t)["input_ids"], with_bos, test)
    assert not other["passed"]
    assert "other token ids in lm-eval: 80 of 80 items" in other["why"]
    assert other["prompts_equal"] == 0
    twice = {t: [replace(r, prompt="A" + r.prompt) for r in g] for t, g in test.items()}
    assert "more than one BOS" in parity.report(lambda t: with_bos(t)["input_ids"], with_bos, twice)["why"]


def test_builtin_suites_name_files_that_are_there_and_public_sources():
    for name in available():
        suite = load_suite(name)
        stock.check(suite.model_copy(update={"scoring": suite.scoring.model_copy(update={"extra": None})}))
        header = (asset("suites") / f"{name}.yaml").read_text().split("\nname:")[0]
        if name in PUBLISHED:
            assert "public sources:" in header
            assert "arXiv" in suite.source
    for path in (asset("suites") / "scorers").glob("*.py"):
        assert importlib.util.spec_from_file_location("x", path) is not None


def test_the_readmes_table_is_what_list_suites_says():
    """Whole: a suite that is new, gone or changed is noticed."""
    shown = (ROOT / "README.md").read_text().split("\n## Suites\n\n")[1].split("\n\n")[0].splitlines()
    rows = listing("suites", Path("runs"))
    keys = ("tasks", "rows", "metric", "source", "verified")
    cells = [[f"`{row['name']}`", *(str(row[key]) for key in keys)] for row in rows]
    head = ["suite", "tasks", "rows to train on", "scored by", "source", "verified"]
    assert shown == ["| " + " | ".join(line) + " |" for line in (head, ["---"] * 6, *cells)]
    assert [row["name"] for row in rows if row["verified"] == "yes"] == ["bbh", "pocket"]


def test_the_rows_that_the_table_names_are_those_that_are_trained_on():
    suites = {name: load_suite(name) for name in available()}
    ids = json.loads((asset("suites") / "bbh" / "ids.json").read_text())
    capped = {name: len(s.tasks) * s.data.rows["train"] for name, s in suites.items() if "train" in s.data.rows}
    known = {
        "pocket": sum(map(len, load_rows(suites["pocket"], "train").values())),
        "bbh": sum(len(splits["train"]) for splits in ids.values()),
        "numinamath": int(suites["numinamath"].data.sources[0].split["train"].removeprefix("train[:")[:-1]),
        **capped,
    }
    assert set(capped) == {"msft-10", "tulu-bbh"}
    assert {name: suites[name].rows.split()[-1] for name in known} == {name: f"{n:,}" for name, n in known.items()}
