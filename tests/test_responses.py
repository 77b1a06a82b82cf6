"""Validation by greedy answers, `metric="generate"`: what is seen, what it costs, and where it is refused."""

import math

import pytest
import yaml

from harness.api import BudgetExhausted, HarnessError
from tests.conftest import make_suite, write_rows
from tests.forks import comparable
from tests.labs import make_lab
from tests.test_replay import FILE, request


def validation(lab, core, task, n=None):
    return [core.data.example(item.id) for item in core.validation[task][:n]]


def answers(lab, core, examples):
    """Graded greedy answers, asked for one by one."""
    limit = core.suite.scoring.max_new_tokens
    return [lab.grade(e, lab.generate([e], max_new_tokens=limit)[0].text) for e in examples]


@pytest.fixture
def trained(tiny, tmp_path):
    """A lab whose model says 5 whatever it is asked, which is right for two items of three."""
    path = make_suite(tmp_path / "suite")
    for split, count in {"train": 24, "validation": 6, "test": 6}.items():
        rows = [
            (task, f"{task} {split} {k}", "5" if split == "train" or k % 3 else "61")
            for task in ("copy", "flip", "next")
            for k in range(count)
        ]
        write_rows(path.parent, split, rows)
    lab, core, _, _ = make_lab(tmp_path / "run", path, tiny)
    lab.train(lab.proportional(), "40 step", keep="none")
    return lab, core


def test_the_share_is_that_of_graded_greedy_answers(trained):
    lab, core = trained
    found = lab.validate(metric="generate")
    for task, score in found.items():
        right = answers(lab, core, validation(lab, core, task))
        assert (score.metric, score.n) == ("generate", len(right))
        assert score.value == score.exact_match == sum(right) / len(right)
        assert math.isnan(score.loss)
        assert score.value == 4 / 6


def test_the_bill_is_that_of_generating_and_it_is_paid_once(trained):
    lab, core = trained
    before, ledger = core.ledger.spent, len(core.ledger.entries)
    score = lab.validate(["copy"], metric="generate", n=3)
    paid = core.ledger.spent - before
    assert {e.phase for e in core.ledger.entries[ledger:]} == {"validate"}
    assert lab.validate(["copy"], metric="generate", n=3) == score
    assert core.ledger.spent - before == paid
    limit, before = core.suite.scoring.max_new_tokens, core.ledger.spent
    lab.generate(validation(lab, core, "copy", 3), max_new_tokens=limit)
    assert core.ledger.spent - before == paid
    assert lab.validate(["copy"], n=3)["copy"].metric == "loss"  # the task's own signal: another look, paid for itself
    assert core.ledger.spent > before + paid


def test_a_task_may_have_it_as_its_signal_and_training_looks_by_it(tiny, tmp_path):
    path = make_suite(tmp_path / "suite")
    spec = yaml.safe_load(path.read_text())
    spec["tasks"]["copy"] = {"signal": "generate", "max_new_tokens": 3}
    path.write_text(yaml.safe_dump(spec))
    lab, core, engine, _ = make_lab(tmp_path / "run", path, tiny)
    assert lab.tasks["copy"].signal == "generate"
    history = lab.train(lab.uniform(), "4 step", eval_every="2 step", keep="best")
    assert len(history.looks) == 3
    assert all(0 <= look.values["copy"] <= 1 and look.values["flip"] < 0 for look in history.looks)
    items = core.validation["copy"]
    prompts = [len(i.ids) - i.supervised for i in items]
    assert core.looks.cost() == sum(engine.arch.generate(p, 3) for p in prompts) + sum(
        engine.forward_cost(core.validation[t]).model for t in ("flip", "next")
    )


def test_room_is_asked_for_answers_of_full_length_before_anything_is_billed(toy, tiny, tmp_path):
    lab, core, _, _ = make_lab(tmp_path, toy, tiny)
    core.ledger.cap = core.ledger.spent + core.looks.cost("generate") - 1
    before = core.ledger.spent
    with pytest.raises(BudgetExhausted):
        lab.validate(metric="generate")
    assert core.ledger.spent == before


def test_what_cannot_be_graded_alone_is_refused_before_it_is_generated(tiny, tmp_path):
    path = make_suite(tmp_path / "suite")
    spec = yaml.safe_load(path.read_text())
    spec["scoring"]["filter"] = "strict"
    path.write_text(yaml.safe_dump(spec))
    lab, core, _, _ = make_lab(tmp_path / "run", path, tiny)
    with pytest.raises(HarnessError, match="'copy' has no filter 'strict'"):
        lab.validate(metric="generate")
    assert core.ledger.spent == 0


def test_it_survives_a_kill(forks, toy, tiny, tmp_path):
    path = tmp_path / "asks.py"
    body = """
        for _ in range(3):
            lab.train(lab.uniform(), "3 step", eval_every="3 step", metric="generate")
            lab.log("seen", lab.validate(metric="generate", n=2)["copy"].value)
    """
    path.write_text(FILE.format(body=body.strip("\\n")))

    def go(folder, **env):
        done = forks.run(request(toy, tiny, tmp_path / folder, path), **env)
        return done["status"], done.get("record") and comparable(done["record"])

    _, calm = go("calm", HARNESS_SNAPSHOT_SECONDS="1000")
    for place, seconds in (("verb:4", "0"), ("step:8", "1000"), ("snapshot:6", "0")):
        assert go(place, HARNESS_FAULT=f"kill@{place}", HARNESS_SNAPSHOT_SECONDS=seconds)[0] == -9
        assert go(place, HARNESS_SNAPSHOT_SECONDS=seconds) == (0, calm)
