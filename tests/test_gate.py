"""The gate between backends, which interpreter has vLLM, and what a service does when a backend does not start."""

import dataclasses
import importlib.metadata
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import environment, gate, interpreter, invariants, lmtasks, ranks, record, request, run, score, show, stock
from harness.data import Row
from harness.errors import HarnessError, RunFailed
from harness.suite import load_suite
from tests.conftest import ROOT, make_suite


def rows(task, n):
    return [Row(f"t:{task}/{k}", task, f"{task} {k}", str(k), f"Q: {task} {k}\nA:", f" {k}") for k in range(n)]


def passage(prompt=(1, 2), answer=(3, 4, 0), text="x", correct=True):
    return gate.Passage(tuple(prompt), tuple(answer), text, {"exact": correct})


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 40), min_size=1), st.integers(1, 64))
def test_items_are_dealt_out_over_the_tasks(sizes, n):
    chosen = gate.choose({task: rows(task, k) for task, k in sizes.items()}, n)
    taken = {task: len(chosen.get(task, ())) for task in sizes}
    assert sum(taken.values()) == min(n, sum(sizes.values()))
    most = max(taken.values())
    assert all(taken[task] in (most, most - 1) or taken[task] == sizes[task] for task in sizes)
    assert all(len({r.id for r in group}) == len(group) for group in chosen.values())


def test_the_same_items_in_whatever_order_rows_and_tasks_come():
    plain = {task: rows(task, 50) for task in "abc"}
    turned = {task: plain[task][::-1] for task in "cba"}
    ids = [[r.id for group in gate.choose(x).values() for r in group] for x in (plain, turned)]
    assert ids[0] == ids[1]
    assert ids[0] != [r.id for group in plain.values() for r in group[:22]][:64]


def test_agreement_is_of_first_tokens_and_five_in_a_hundred_may_differ():
    ours = {str(k): passage() for k in range(64)}
    long = dataclasses.replace(passage(), answer=tuple(range(40)), text="long")
    late = dataclasses.replace(long, answer=(*range(gate.TOKENS), 7), text="late", correct={"exact": False})
    early = dataclasses.replace(long, answer=(*range(gate.TOKENS - 1), 7), text="early")
    found = gate.report(ours | {"0": long}, ours | {"0": late})
    assert (found["agreement"], found["identical"], found["same_verdict"]) == (1.0, 63 / 64, 63 / 64)
    for k, passed in ((3, True), (4, False)):  # 61 of 64 are 95.3 %, 60 are 93.75 %
        differ = {str(i): early for i in range(k)}
        found = gate.report(ours | {str(i): long for i in range(k)}, ours | differ)
        assert (found["agreement"], found["passed"]) == (1 - k / 64, passed)
    assert found["why"] == "backend gate: greedy decoding agrees on 60 of 64 items, at least 95% are needed"
    shorter = gate.report({"0": passage(answer=(3, 4))}, {"0": passage(answer=(3, 4, 5))})
    assert shorter["agreement"] == 0.0  # an end that comes earlier is another answer


def test_one_other_prompt_token_is_enough_to_fail():
    ours = {str(k): passage() for k in range(64)}
    found = gate.report(ours, ours | {"9": passage(prompt=(1, 2, 2))})
    assert not found["passed"]
    assert (found["agreement"], found["prompts_equal"]) == (1.0, 63)
    assert found["why"] == "backend gate: 1 of 64 prompts have other token ids in the other backend"


@pytest.mark.parametrize(
    ("python", "says"),
    [("/nowhere/python", "does not run: No such file"), ("/bin/echo", "is not a Python interpreter")],
)
def test_an_interpreter_that_is_none_is_one_line(python, says):
    with pytest.raises(HarnessError, match=says) as caught:
        interpreter.vllm_interpreter(Path(python))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_an_interpreter_without_vllm_is_named(monkeypatch):
    monkeypatch.setattr(interpreter, "_versions", lambda python: (None, "0.4.13"))
    monkeypatch.setenv(interpreter.VARIABLE, sys.executable)
    with pytest.raises(HarnessError, match="vLLM is not installed in") as caught:
        score.Service("vllm")
    assert sys.executable in str(caught.value)
    assert "--scorer hf" in str(caught.value)


def test_auto_takes_vllm_where_it_and_a_gpu_are(monkeypatch):
    monkeypatch.setattr(ranks, "gpu", lambda: False)
    monkeypatch.setattr(interpreter, "_versions", lambda python: ("0.32.0", "0.4.13"))
    assert score.Service("auto").backend == "hf"
    monkeypatch.setattr(ranks, "gpu", lambda: True)
    assert score.Service("auto").backend == "vllm"
    monkeypatch.setattr(interpreter, "_versions", lambda python: (None, "0.4.13"))
    without = score.Service("auto")
    assert (without.backend, without.instead) == ("hf", "vLLM is not installed")


def test_another_environment_finds_this_package_and_nothing_else_of_ours(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/mine")
    other = interpreter.Interpreter("/other/python", own=False).environment(tmp_path)
    assert other["PYTHONPATH"] == str(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["harness"]
    assert (tmp_path / "harness" / "scorer.py").is_file()
    own = interpreter.Interpreter().environment(tmp_path)
    assert own["PYTHONPATH"].split(":")[-1] == "/mine"


def test_answers_that_the_model_has_no_room_for_are_refused_before_training(tmp_path, tiny, monkeypatch):
    """vLLM's engine ends where the model's positions do; tiny has 256."""
    monkeypatch.setattr(interpreter, "_versions", lambda python: ("0.32.0", "0.4.13"))
    path = make_suite(tmp_path)
    for longest, room in ((256, False), (255, True)):
        text = re.sub("max_new_tokens: .*", f"max_new_tokens: {longest}", path.read_text())
        path.write_text(text)
        why = lmtasks.without_room(load_suite(str(path)), json.loads((tiny / "config.json").read_text()))
        assert why == (None if room else "suite toy lets answers have 256 tokens, the model has 256 positions")
        asked = request.Request(suite=str(path), model=str(tiny), runs=tmp_path, scorer="vllm")
        if not room:
            with pytest.raises(HarnessError, match=why):
                request.prepare(asked)
            assert request.prepare(dataclasses.replace(asked, scorer="hf"))
    assert request.prepare(asked)
    assert lmtasks.positions({"n_positions": 1024}) == 1024
    assert lmtasks.without_room(load_suite("numinamath"), {}) is None


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """An interpreter that finds no packages. What suites need is what pyproject.toml says now, not when it was installed."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    lines = [f"{need}; extra == '{extra}'" for extra, needs in extras.items() for need in needs]
    monkeypatch.setattr(importlib.metadata, "requires", lambda _: lines)
    path = tmp_path / "bare"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    path.chmod(0o755)
    return interpreter.Interpreter(str(path), own=False)


def test_what_a_suites_scorer_needs_is_missed_before_anything_is_trained(bare, monkeypatch):
    """In this environment and, where vLLM has its own, in that one: scoring imports it there."""
    assert interpreter.lacking(bare.path, ("click", "torch")) == ["click", "torch"]
    assert interpreter.lacking(sys.executable, ("click", "no-such-thing")) == ["no-such-thing"]
    for name, needs in (("mol-instructions", "nltk, rdkit, selfies"), ("numinamath", "math-verify, sympy")):
        suite = load_suite(name)
        with pytest.raises(HarnessError, match=rf"suite {name}: its scorer needs .*{needs}, in .*bare', too"):
            stock.check(suite, bare)
        with monkeypatch.context() as patch:
            patch.setattr(stock, "_installed", lambda name: False)
            with pytest.raises(HarnessError, match=rf"{needs}: pip install 'sft-harness\[{suite.scoring.extra}\]'"):
                stock.check(suite)
    stock.check(load_suite("pocket"), bare)


class Process:
    """A scoring process that ends its jobs as it is told."""

    ends: list[dict]

    def __init__(self, backend, interpreter):
        self.backend = backend

    def do(self, job, log):
        return {"at": "starting"} | Process.ends.pop(0)

    def close(self):
        pass


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([{"end": "done"}, {"end": "unstarted", "why": "no kernel"}], "vLLM did not start: no kernel"),
        ([{"end": "done"}, {"end": "died", "why": "killed by SIGKILL"}], "vLLM did not start: killed by SIGKILL"),
        ([{"end": "done"}, {"end": "died", "at": "reverse", "why": "killed"}], "vllm at reverse: killed"),
        ([{"end": "done"}, {"end": "failed", "at": "started", "why": "odd"}], "vllm: odd"),
        ([{"end": "failed", "why": "no rows"}], "hf: no rows"),
    ],
)
def test_without_auto_nothing_falls_back(ends, message, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "_Process", Process)
    monkeypatch.setattr(interpreter, "_versions", lambda python: ("0.32.0", "0.4.13"))
    Process.ends = ends
    with score.Service("vllm") as service, pytest.raises(RunFailed, match=message):
        service.score(tiny, "pocket", tmp_path)
    assert Process.ends == []


def test_auto_scores_with_hf_where_vllms_environment_lacks_the_suites_scorer(bare, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(score, "_Process", Process)
    monkeypatch.setattr(ranks, "gpu", lambda: True)
    monkeypatch.setattr(score, "vllm_interpreter", lambda asked: bare)
    Process.ends = [{"end": "failed", "why": "it was asked"}]
    said = []
    with score.Service("auto", say=said.append) as service, pytest.raises(RunFailed, match="hf: it was asked"):
        service.score(tiny, "mol-instructions", tmp_path)
    (line,) = said
    why = "vLLM did not start: suite mol-instructions: its scorer needs nltk, rdkit, selfies, in vLLM's environment"
    assert re.fullmatch(why + "; scoring with HF", line)
    with score.Service("vllm") as service, pytest.raises(RunFailed, match=why):
        service.score(tiny, "mol-instructions", tmp_path)


AGREE = gate.report({"0": passage()}, {"0": passage()})
DIFFER = gate.report({str(k): passage() for k in range(64)}, {str(k): passage(answer=(k > 3,)) for k in range(64)})
OTHER = {"items": 2, "prompts_equal": 1, "bos": 0, "passed": False, "why": "other token ids in lm-eval: 1 of 2 items"}
SAME = OTHER | {"prompts_equal": 2, "passed": True, "why": None}


@pytest.mark.parametrize(
    ("own", "base", "pairs", "dirty", "doubts"),
    [
        (AGREE, AGREE, SAME, False, []),
        (DIFFER, AGREE, SAME, False, [DIFFER["why"]]),
        (AGREE, DIFFER, SAME, False, [DIFFER["why"]]),
        (None, None, OTHER, False, [OTHER["why"]]),
        (None, None, SAME, True, ["the harness is of no clean commit"]),
        (None, None, None, None, ["the harness is of no clean commit"]),
    ],
)
def test_a_record_is_official_only_if_every_gate_was_passed(
    own, base, pairs, dirty, doubts, toy, tiny, tmp_path, monkeypatch, capsys
):
    """A whole run whose scoring process says this of the answer's gate, of the base model's, and of the prompts."""

    def scored(folder, suite, work, **_):
        row = {"metric": "exact_match", "value": 0.5, "stderr": 0.1, "n": 5, "truncated": 0, "filters": {}}
        found = {"scores": {"copy": row | {"items_sha256": "0" * 64}}, "overlap": {}, "scorer": "vllm"}
        found |= {"backend_gate": own if folder.name == "final" else base, "parity": pairs}
        work.mkdir(parents=True, exist_ok=True)
        (work / "scores.json").write_text(json.dumps(found))
        return json.loads(json.dumps(found))

    def described(*args):
        git = record.Git(commit=None if dirty is None else "0" * 40, dirty=dirty)
        return known(*args).model_copy(update={"git": git})

    known = environment.describe
    monkeypatch.setattr(environment, "describe", described)
    monkeypatch.setattr(score, "score", scored)
    monkeypatch.setattr(score, "begin_ahead", lambda *_: None)
    plan = request.prepare(request.Request(suite=str(toy), model=str(tiny), runs=tmp_path, budget=0.1))
    found = record.read(run.execute(plan))
    assert (found.official, found.doubts) == (not doubts, doubts)
    said = list(invariants.provenance(found.model_copy(update={"official": True})))
    assert [what for what, _ in said] == ["official: true"] * bool(doubts)
    show.tables(found)
    line = " ".join(capsys.readouterr().out.split("scores (lm-eval")[0].split())
    assert f"unofficial ({doubts[0]})" in line if doubts else "unofficial" not in line
