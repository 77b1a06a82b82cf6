"""The gate between backends, which interpreter has vLLM, and what a service does when a backend does not start."""

import dataclasses
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import gate, interpreter, score
from harness.data import Row
from harness.errors import HarnessError, RunFailed


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
    monkeypatch.setattr(score, "_gpu", lambda: False)
    monkeypatch.setattr(interpreter, "_versions", lambda python: ("0.32.0", "0.4.13"))
    assert score.Service("auto").backend == "hf"
    monkeypatch.setattr(score, "_gpu", lambda: True)
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
