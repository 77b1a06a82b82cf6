"""Suite bbh: its id lists, its prompts (which are lm-eval's), and the stock filters over rows written for these tests."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from harness.data import load_rows
from harness.errors import HarnessError
from harness.flops import Arch
from harness.lmtasks import summarise, task_items
from harness.paths import asset
from harness.scorer import run_lm_eval
from harness.suite import Suite, load_suite

FILTERS = ("strict-match", "flexible-extract")
SPLITS = ("train", "validation", "test")
SIZES = {
    "causal_judgement": 187,
    "movie_recommendation": 249,
    "penguins_in_a_table": 146,
    "ruin_names": 248,
    "snarks": 178,
}
ROWS = Path(__file__).parent / "fixtures" / "bbh_like.jsonl"
STOCK = Path(next(iter(importlib.util.find_spec("lm_eval").submodule_search_locations))) / "tasks" / "bbh" / "zeroshot"


def like() -> dict[str, list[dict[str, str]]]:
    """Three rows a task in the form of BBH's, written for this project."""
    rows: dict[str, list[dict[str, str]]] = {}
    for line in ROWS.read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row.pop("task"), []).append(row)
    return rows


def stock(task: str) -> dict:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    return yaml.load((STOCK / f"{task}.yaml").read_text(), Loader)


@pytest.fixture(scope="module")
def bbh() -> Suite:
    return load_suite("bbh")


@pytest.fixture(scope="module")
def ids() -> dict[str, dict[str, list[int]]]:
    return json.loads((asset("suites") / "bbh" / "ids.json").read_text())


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of the fixture in the layout of the hub dataset."""
    root = tmp_path_factory.mktemp("mirror")
    folder = root / "datasets" / "SaylorTwift" / "bbh"
    configs = []
    for task, rows in like().items():
        (folder / task).mkdir(parents=True)
        (folder / task / "test.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        configs.append({"config_name": task, "data_files": [{"split": "test", "path": f"{task}/test.jsonl"}]})
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return root


@pytest.fixture(scope="module")
def small(bbh, tmp_path_factory) -> Suite:
    return over_the_fixture(bbh, tmp_path_factory.mktemp("suite"))


def over_the_fixture(bbh: Suite, folder: Path) -> Suite:
    """The suite over the fixture's rows: the same but for the id lists and the pins."""
    order = {"train": [2], "validation": [1], "test": [0, 2, 1]}
    (folder / "ids.json").write_text(json.dumps(dict.fromkeys(bbh.tasks, order)))
    data = bbh.data.model_copy(update={"ids": "ids.json", "sha256": {}})
    return bbh.model_copy(update={"folder": folder, "data": data})


def test_id_lists_are_disjoint_and_of_the_said_sizes(bbh, ids):
    assert set(ids) == set(bbh.tasks)
    for task, splits in ids.items():
        n = SIZES.get(task, 250)
        assert {split: len(splits[split]) for split in SPLITS} == {
            "train": n - round(0.3 * n) - round(0.2 * n),
            "validation": round(0.2 * n),
            "test": round(0.3 * n),
        }
        chosen = [i for split in SPLITS for i in splits[split]]
        assert len(set(chosen)) == len(chosen) == n
        assert set(chosen) <= set(range(250))


@pytest.fixture(scope="module")
def make_ids():
    spec = importlib.util.spec_from_file_location("make_ids", asset("suites") / "bbh" / "make_ids.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_equal_questions_stay_together_and_lists_depend_on_the_rows_only(make_ids):
    rows = [(f"Question {i // 2}" if i % 2 else f"question  {i // 2} ", "ab"[i % 2]) for i in range(60)]
    splits = make_ids.divide("any", rows)
    assert splits == make_ids.divide("any", list(rows))
    assert splits != make_ids.divide("other", rows)
    assert {k: len(v) for k, v in splits.items()} == {"train": 30, "validation": 12, "test": 18}
    where = {i: split for split, chosen in splits.items() for i in chosen}
    assert all(where[i] == where[i + 1] for i in range(0, 60, 2))


def test_two_questions_about_one_story_are_kin(make_ids):
    """Story 0 is told twice; what all rows share (the template) makes nobody kin."""
    template = " ".join(f"common{k}" for k in range(40))
    stories = [" ".join(f"s{i}w{k}" for k in range(40)) for i in range(20)]
    texts = [f"{template} {story} Why?" for story in stories] + [f"{template} {stories[0]} Who did it?"]
    groups = make_ids.kin(texts)
    assert sorted(map(len, groups)) == [1] * 19 + [2]
    assert [0, 20] in groups


def test_rows_that_no_answer_can_pass_are_dropped(make_ids):
    assert make_ids.usable([("q", "(A)"), ("q", "(B)"), ("q", "Paris")]) == [0, 1]
    assert make_ids.usable([("q", "yes"), ("q", "(B)"), ("q", "no")]) == [0, 1, 2]


def test_every_prefix_and_the_template_are_lm_evals(bbh):
    assert set(bbh.tasks) == {p.stem for p in STOCK.glob("[a-z]*.yaml")}
    for task, spec in bbh.tasks.items():
        config = stock(task)
        assert spec.prefix == config["description"], task
        assert bbh.template.prompt == "{{prefix}}" + config["doc_to_text"]
        assert {f["name"] for f in config["filter_list"]} == set(FILTERS)
    base = yaml.safe_load((STOCK / "_zeroshot_template_yaml").read_text())
    assert base["dataset_path"] == bbh.data.hub
    assert base["test_split"] == bbh.data.split
    assert tuple(base["generation_kwargs"]["until"]) == bbh.scoring.until
    assert bbh.template.completion == base["doc_to_target"]


def test_completion_and_prompt_byte_for_byte(small, mirror):
    rows = load_rows(small, "train", mirror)
    [row] = rows["dyck_languages"]
    source = like()["dyck_languages"][2]
    assert row.completion == source["target"] == "} ) )"
    assert row.prompt == f"Correctly close a Dyck-n word.\n\nQ: {source['input']}\nA:"
    assert all(r.completion == r.target for group in rows.values() for r in group)
    assert not any(r.completion[0].isspace() or r.prompt[-1].isspace() for group in rows.values() for r in group)


def test_rows_other_than_the_pinned_ones_are_refused(bbh, small, mirror):
    pinned = small.model_copy(update={"data": small.data.model_copy(update={"sha256": bbh.data.sha256})})
    assert set(bbh.data.sha256) == set(SPLITS)
    with pytest.raises(HarnessError, match=r"suite bbh: the test split is not the data that the suite pins"):
        load_rows(pinned, "test", mirror)


def test_a_mirror_that_changed_is_read_again(small, mirror, tmp_path):
    """The datasets library would give the rows of any folder of the same name that it has seen before."""
    before = load_rows(small, "test", mirror)
    other = Path(shutil.copytree(mirror, tmp_path / "other"))
    path = other / "datasets" / "SaylorTwift" / "bbh" / "snarks" / "test.jsonl"
    path.write_text(path.read_text().replace('"(A)"', '"(B)"'))
    after = load_rows(small, "test", other)
    assert [r.target for r in before["snarks"]] == ["(A)", "(A)", "(B)"]
    assert [r.target for r in after["snarks"]] == ["(B)", "(B)", "(B)"]
    assert {t for t in before if before[t] != after[t]} == {"snarks"}


def test_a_shorter_dataset_than_the_id_lists_name_is_refused(bbh, mirror):
    with pytest.raises(HarnessError, match=r"task '\w+' has 3 rows, fewer than the id list names"):
        load_rows(bbh, "test", mirror)


def test_stock_tasks_pass_the_right_answer_under_both_filters(small, mirror, tmp_path):
    """lm-eval's own task objects over our rows, with a model that answers every prompt with its target."""
    from lm_eval.api.model import LM

    rows = load_rows(small, "test", mirror)
    answers = {row.prompt: row.target for group in rows.values() for row in group}
    asked = []

    class Oracle(LM):
        def generate_until(self, requests, disable_tqdm=False):
            asked.extend(request.args for request in requests)
            return [answers[request.args[0]] for request in requests]

        loglikelihood = loglikelihood_rolling = None

    samples, _ = run_lm_eval(Oracle(), small, rows, tmp_path)

    def tokenizer(text, add_special_tokens=True):
        return {"input_ids": text.split()}

    arch = Arch.from_config(json.loads((asset("suites") / "pocket" / "model" / "config.json").read_text()))
    assert samples.keys() == rows.keys()
    for task in samples:
        items, flops, tokens = task_items(small, task, rows[task], samples[task], tokenizer, arch)
        assert [i["target"] for i in items] == [r.target for r in rows[task]]
        assert summarise(items, small.scoring.filter)["filters"] == dict.fromkeys(FILTERS, 1.0), task
        assert flops > 0 < tokens
    assert {args[1]["max_gen_toks"] for args in asked} == {16, 64}
    assert all(args[1]["until"] == list(small.scoring.until) for args in asked)


def test_without_mirror_or_hub_one_line_names_mirror(tmp_path):
    """Offline and with an empty cache; a mirror that lacks the dataset is no better."""
    env = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache"), "HF_DATASETS_CACHE": str(tmp_path)}
    (tmp_path / "mirror").mkdir()
    command = [sys.executable, "-m", "harness", "run", "--model", "pocket", "--suite", "bbh"]
    done = subprocess.run(
        [*command, "--mirror", str(tmp_path / "mirror"), "--runs", str(tmp_path / "runs")],
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2, done.stderr
    text = " ".join(done.stderr.split())
    assert "harness: data 'SaylorTwift/bbh'" in text
    assert "--mirror DIR looks in DIR/datasets/SaylorTwift/bbh" in text
    assert "Traceback" not in text
