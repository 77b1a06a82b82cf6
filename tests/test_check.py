"""`harness check`: every strategy of the repository and honest ones of all shapes pass; each broken one is caught.

A file of tests/broken says in its docstring which check catches it. There only the trials that this check compares are run.
"""

import os
import re
import subprocess
import sys

import pytest

from harness import toy, verdicts
from harness.check import Workshop, check
from harness.errors import HarnessError
from harness.registry import builtin
from tests.conftest import ROOT

HONEST = sorted((ROOT / "tests" / "honest").glob("*.py"))
BROKEN = sorted((ROOT / "tests" / "broken").glob("*.py"))
CAUGHT = re.compile(r"Caught by: (.*)\.$", re.M)
NEEDS = {
    "keeps no state between runs": ["watched", "twice"],
    "same seed, same record": ["watched", "twice", "fresh"],
    "another seed, other weights": ["watched", "twice", "seed"],
    "runs on one task, or says why not": ["fresh", "alone"],
    "the order of tasks does not matter": ["twice", "fresh", "backwards"],
    "killed anywhere, the same record": ["watched", "fresh", "killed"],
    "runs to its budget": ["watched", "twice"],
}
QUICK = {  # one of each kind; the others are in the slow tier
    "closure_decides", "global_numpy", "hidden_backward", "hidden_gc", "hidden_spelled", "mutable_field", "negative_mixture",
    "order_of_file", "reads_test", "set_order", "stops_early", "suppresses_end",
}  # fmt: skip


@pytest.fixture(scope="module")
def workshop():
    with Workshop(toy.own()) as made:
        yield made


def crosses(found):
    return {v.name.partition(" (")[0]: v.advice for v in found if v.state == "broken"}


def slow_unless(names, paths):
    return [pytest.param(p, id=p.stem, marks=[] if p.stem in names else [pytest.mark.slow]) for p in paths]


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in ("msft", "uniform") else [pytest.mark.slow]) for n in builtin()]
)
def test_every_strategy_of_the_repository_passes(workshop, name):
    found = workshop.check(name)
    assert all(v.state == "kept" for v in found), "\n".join(map(str, found))
    assert {v.name.partition(" (")[0] for v in found} == set(verdicts.CHECKS)


@pytest.mark.parametrize("path", slow_unless({"remembers", "forks"}, HONEST))
def test_honest_strategies_of_all_shapes_pass(workshop, path):
    found = workshop.check(str(path))
    assert all(v.state == "kept" for v in found), "\n".join(map(str, found))


@pytest.mark.parametrize("path", slow_unless(QUICK, BROKEN))
def test_broken_strategies_are_caught(workshop, path):
    (name,) = CAUGHT.findall(path.read_text())
    found = crosses(workshop.check(str(path), NEEDS.get(name, ["watched"])))
    assert name in found, found
    assert len(found[name]) > 30  # it says what to do


def test_the_catalogue_of_the_broken_reaches_every_check():
    caught = {CAUGHT.findall(path.read_text())[0] for path in BROKEN}
    # No strategy of today's protocol passes its cap: the lab cuts it. The check compares the bookings with the record.
    assert set(verdicts.CHECKS) - caught == {"stays under its cap"}


def test_a_lens_is_checked_under_a_plot(workshop):
    found = workshop.check(f"proportional+{ROOT / 'tests' / 'honest' / 'softened.py'}", ["watched", "fresh", "twice"])
    assert not crosses(found)


def test_what_is_not_there_is_a_wrong_request(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").touch()
    with pytest.raises(HarnessError, match=r"unknown strategy 'mine'; did you mean the file 'mine.py'\?"):
        check("mine")
    with pytest.raises(HarnessError, match="unknown strategy 'proportionl'; did you mean 'proportional'"):
        check("proportionl")
    with pytest.raises(HarnessError, match="does not exist"):
        check("nowhere.py")
    with pytest.raises(HarnessError, match="unknown suite"):
        check("uniform", "nowhere")
    with pytest.raises(HarnessError, match="on a hub"):
        check("uniform", "bbh")


def harness_check(tmp_path, text):
    path = tmp_path / "mine.py"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return subprocess.run(
        [sys.executable, "-m", "harness", "check", str(path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def test_the_command_prints_a_line_a_check_and_exits_1_on_a_cross(tmp_path):
    done = harness_check(tmp_path, '"""Needs what is not there."""\nimport nowhere\n')
    lines = done.stdout.splitlines()
    assert done.returncode == 1, done.stderr
    assert [line[2:].partition(":")[0] for line in lines] == list(verdicts.CHECKS)
    assert lines[0].startswith("✗ one frozen dataclass with run or wrap: strategy file mine.py: ModuleNotFoundError:")
    # Of what did not load nothing has been tried: what was only read is judged, and no check is ticked for want of trials.
    ticked = [line[2:] for line in lines if line.startswith("✓")]
    assert ticked == ["asks only for what harness.api offers", "lets the budget end it"]
    assert sum(line.startswith("✗") for line in lines) == 3  # and its documentation, and the import
    assert not list(tmp_path.glob("runs"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('"""Not Python."""\nclass Plot(:\n', "line 2: invalid syntax"),
        ("def run():\npass\n", "line 2: expected an indented block"),
        (b'"""Caf\xe9."""\n', "it is not UTF-8 text"),
        ("x = 1\0\n", "source code string cannot contain null bytes"),
    ],
)
def test_a_file_that_is_no_python_is_one_line_and_exit_2(tmp_path, text, why):
    done = harness_check(tmp_path, text)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"harness: strategy file 'mine.py' cannot be read: {why}")
    assert len(done.stderr.splitlines()) == 1


def test_what_dies_or_crashes_ticks_nothing_that_was_not_tried(workshop, tmp_path):
    head = (ROOT / "tests" / "broken" / "crashes.py").read_text()
    died = tmp_path / "died.py"
    died.write_text(head.replace("from dataclasses", "import os\nos._exit(3)\nfrom dataclasses", 1))
    states = {v.name: v.state for v in workshop.check(str(died), ["watched"])}
    assert states.pop("runs to its budget") == "broken"
    assert set(states.values()) == {"open"}
    found = {v.name: v for v in workshop.check(str(ROOT / "tests" / "broken" / "crashes.py"), ["watched"])}
    assert found["runs to its budget"].state == "broken"
    assert found["mixtures are proper"].state == found["never touches the test split"].state == "open"
    assert str(found["mixtures are proper"]) == "– mixtures are proper: not tried, since the strategy does not run"


def test_differences_are_named_where_a_person_can_act_on_them():
    a, b = {"scores": 1, "bookings": [[0, 1], [0, 2]]}, {"scores": 2, "bookings": [[0, 1], [0, 3]]}
    assert verdicts.difference(a, b) == "bookings[1][1]: 2 and 3"
    assert verdicts.difference(a, a) is None
    assert verdicts.difference({"x": [1]}, {"x": [1, 2]}) == "x: 1 entries and 2"
