"""Suites, data and models: what is wrong is one line that names file, key and the nearest valid one."""

import json

import pytest
import yaml

from harness import models, registry
from harness.data import check_disjoint, load_rows, tokenise
from harness.errors import HarnessError
from harness.paths import asset
from harness.suite import available, load_suite
from tests.conftest import make_suite, write_rows


def edit(path, **changes):
    raw = yaml.safe_load(path.read_text())
    for key, value in changes.items():
        target = raw
        *parents, last = key.split("__")
        for parent in parents:
            target = target[parent]
        target[last] = value
    path.write_text(yaml.safe_dump(raw))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train__lrr": 1}, r"toy\.yaml: train\.lrr: unknown key; did you mean 'lr'\?"),
        ({"titel": "x"}, r"titel: unknown key; did you mean 'title'"),
        ({"train__lr": "fast"}, r"train\.lr: .*number.*found 'fast'"),
        ({"train__epochs": -1}, r"train\.epochs: .*greater than 0"),
        ({"tasks__copy": {"signl": "loss"}}, r"tasks\.copy\.signl: unknown key; did you mean 'signal'"),
        ({"tasks__copy": {"signal": "bleu"}}, r"tasks\.copy\.signal: .*'exact_match'"),
        ({"tasks": {}}, "at least one"),
        ({"data": {"hub": "a/b"}}, "'ids'"),
        ({"data": {}}, "either 'files' or 'hub'"),
        ({"data": {"files": "{splt}.jsonl"}}, "must hold {split}"),
        ({"train": {"epoch": 3}}, r"train\.epoch: unknown key; did you mean 'epochs'"),
    ],
)
def test_wrong_keys_and_types_are_named_with_their_path(tmp_path, changes, message):
    with pytest.raises(HarnessError, match=message):
        load_suite(edit(make_suite(tmp_path), **changes))


def test_unknown_names_give_the_nearest():
    with pytest.raises(HarnessError, match=r"unknown suite 'pockt'; did you mean 'pocket'"):
        load_suite("pockt")
    with pytest.raises(HarnessError, match=r"unknown model 'smollm2'; did you mean 'smollm2-135m'"):
        models.resolve("smollm2")
    with pytest.raises(HarnessError, match=r"unknown strategy 'mstf'; did you mean 'msft'"):
        registry.find("mstf")
    with pytest.raises(HarnessError, match="does not exist"):
        load_suite("nowhere.yaml")
    with pytest.raises(HarnessError, match=r"unknown option of msft 'D'"):
        registry.find("msft").build({"D": "3"})
    with pytest.raises(HarnessError, match=r"option C='x' of msft: expected float"):
        registry.find("msft").build({"C": "x"})
    with pytest.raises(HarnessError, match=r"option affinity='cosine' of taskpgm: expected pmi or jsd$"):
        registry.find("taskpgm").build({"affinity": "cosine"})
    with pytest.raises(HarnessError, match=r"option r='half' of taskpgm: expected float or null$"):
        registry.find("taskpgm").build({"r": "half"})
    with pytest.raises(HarnessError, match="has no options"):
        registry.find("uniform").build({"tau": "1"})


def test_a_model_that_the_hub_cannot_give_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(HarnessError, match=r"--mirror DIR looks in DIR/models/nobody/nothing-at-all.*--model pocket"):
        models.resolve("nobody/nothing-at-all")


def test_a_mirror_is_looked_into_before_the_hub(tmp_path, tiny):
    there = tmp_path / "models" / "Qwen" / "Qwen2.5-0.5B"
    there.parent.mkdir(parents=True)
    there.symlink_to(tiny)
    found = models.resolve("qwen2.5", tmp_path)
    assert (found.name, found.source) == ("qwen2.5", "Qwen/Qwen2.5-0.5B")
    assert found.revision == models.resolve(str(tiny)).revision


def test_every_builtin_suite_loads_and_a_verified_one_pins_its_data():
    assert {"pocket", "bbh"} <= set(available())
    for name in available():
        suite = load_suite(name)
        assert suite.name == name
        assert suite.verified == (set(suite.data.sha256) == {"train", "validation", "test"})


def test_order_of_tasks_in_the_file_is_not_in_the_digest_of_data_or_template(tmp_path):
    one, two = (load_suite(str(make_suite(tmp_path / str(o), order=o))) for o in (1, -1))
    assert one.sha256("lora") == two.sha256("lora")
    assert one.template_sha256 == two.template_sha256


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "empty train split"),
        ([("copy", "1", "1")] * 3 + [("flip", "2", "2"), ("next", "3", "4")], "one row repeated 3 times"),
        ([("copyy", "1", "1")], "rows of task 'copyy'"),
    ],
)
def test_splits_that_cannot_be_used(tmp_path, rows, message):
    suite = load_suite(str(make_suite(tmp_path)))
    write_rows(tmp_path, "train", rows)
    with pytest.raises(HarnessError, match=message):
        load_rows(suite, "train")


def test_broken_rows_and_missing_files_name_the_line(tmp_path):
    suite = load_suite(str(make_suite(tmp_path)))
    (tmp_path / "train.jsonl").write_text('{"task": "copy", "input": "a", "target": "b"}\n{"task": 3}\n')
    with pytest.raises(HarnessError, match=r"train\.jsonl:2: expected a JSON object"):
        load_rows(suite, "train")
    (tmp_path / "train.jsonl").unlink()
    with pytest.raises(HarnessError, match="No such file"):
        load_rows(suite, "train")


def test_data_that_are_not_the_pinned_ones_are_refused(tmp_path):
    path = make_suite(tmp_path)
    suite = load_suite(edit(path, data__sha256={"train": "0" * 64}))
    with pytest.raises(HarnessError, match="not the data that the suite pins"):
        load_rows(suite, "train")


def test_validation_that_is_all_training_is_refused(tmp_path):
    suite = load_suite(str(make_suite(tmp_path)))
    train = load_rows(suite, "train")
    with pytest.raises(HarnessError, match="every validation row of task 'copy' is also a training row"):
        check_disjoint(suite, train, {"copy": train["copy"][:2]})


def test_prompt_and_completion_are_tokenised_apart_and_eos_is_trained(tiny, toy):
    tokenizer = models.tokenizer(models.resolve(str(tiny)))
    rows = load_rows(load_suite(str(toy)), "train")
    items = tokenise(tokenizer, rows, 64)
    row, item = rows["flip"][3], items["flip"][3]
    prompt = tokenizer(row.prompt)["input_ids"]
    completion = tokenizer(row.completion, add_special_tokens=False)["input_ids"]
    assert list(item.ids) == prompt + completion + [tokenizer.eos_token_id]
    assert item.supervised == len(completion) + 1
    assert row.prompt == f"Q: {row.input}\nA:"
    assert row.completion == f" {row.target}"


def test_long_prompts_are_cut_on_the_left_and_long_completions_refused(tiny, toy):
    tokenizer = models.tokenizer(models.resolve(str(tiny)))
    rows = load_rows(load_suite(str(toy)), "train", limit=2)
    full, cut = tokenise(tokenizer, rows, 64)["copy"][0], tokenise(tokenizer, rows, 8)["copy"][0]
    assert cut.ids == full.ids[-8:]
    assert cut.supervised == full.supervised
    with pytest.raises(HarnessError, match="completion has"):
        tokenise(tokenizer, rows, 3)


def test_pocket_files_are_what_the_suite_says():
    suite = load_suite("pocket")
    splits = {s: load_rows(suite, s) for s in ("train", "validation", "test")}
    assert sorted(splits["train"]) == sorted(suite.tasks)
    assert len(suite.tasks) == 8
    assert all(len(rows) >= 300 for rows in splits["test"].values())
    assert all(len(rows) >= 150 for rows in splits["validation"].values())
    assert all(80 <= len(rows) <= 1000 for rows in splits["train"].values())
    seen = [{(r.task, r.input) for rows in split.values() for r in rows} for split in splits.values()]
    assert not (seen[0] & seen[1])
    assert not (seen[0] & seen[2])
    assert not (seen[1] & seen[2])
    model = asset("suites") / "pocket" / "model"
    assert (model / "model.safetensors").stat().st_size < 8e6
    assert json.loads((model / "recipe.json").read_text())["parameters"] >= 1_000_000


@pytest.mark.parametrize(
    ("prompt", "message"), [("{{targt}}", r"template\.prompt: 'targt' is undefined; known: input"), ("{{x", "template")]
)
def test_template_mistakes_name_the_template(tmp_path, prompt, message):
    suite = load_suite(edit(make_suite(tmp_path), template__prompt=prompt))
    with pytest.raises(HarnessError, match=message):
        load_rows(suite, "train")
