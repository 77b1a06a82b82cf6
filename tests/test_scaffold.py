"""`harness new` makes what works, and docs/suites.md can be followed to the letter."""

import re
import subprocess
import sys

import pytest

from harness import record
from harness.errors import HarnessError
from harness.registry import find
from harness.scaffold import SUITE, new_strategy, new_suite
from tests.conftest import ROOT
from tests.test_cli import harness

GUIDE = (ROOT / "docs" / "suites.md").read_text()


def test_the_guide_shows_the_file_that_new_writes():
    shown, *_ = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
    assert shown == SUITE.replace("NAME", "mine")


def test_the_guide_can_be_followed(tmp_path):
    commands = [x for x in re.findall(r"^harness .*$", GUIDE, re.M) if "msft" not in x]
    assert len(commands) == 3
    for command in commands:
        done = harness(*command.split()[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/record.json")
    found = record.read(path)
    assert found.identity.suite == "mine"
    assert set(found.scores) == {"capitals", "plurals"}
    assert found.reports.overlap["capitals"] == {"n": 3, "exact": 0, "rare_13_gram": 0}
    assert (tmp_path / "dist" / "index.html").exists()


def test_a_new_strategy_has_a_test_that_passes(tmp_path):
    made = new_strategy("my_method", tmp_path)
    assert [p.name for p in made] == ["my_method.py", "test_my_method.py"]
    assert find(str(made[0])).cls.__name__ == "MyMethod"
    done = subprocess.run([sys.executable, "-m", "pytest", "-q", made[1]], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


def test_nothing_is_overwritten_and_names_are_checked(tmp_path):
    new_suite("mine", tmp_path)
    with pytest.raises(HarnessError, match="exists already"):
        new_suite("mine", tmp_path)
    with pytest.raises(HarnessError, match="expected lower-case"):
        new_strategy("My Method", tmp_path)
    for taken in ("random", "numpy", "class", "msft", "pocket"):
        with pytest.raises(HarnessError, match=repr(taken)):
            new_strategy(taken, tmp_path)
    assert harness("new", cwd=tmp_path).returncode == 2
