"""A package that is installed with pip adds strategies by the entry point `harness.strategies`; a broken one is reported."""

import hashlib
import json
import os
import subprocess
import sys
import zipfile

import pytest

from harness import record
from tests.test_cli import harness

CODE = '''"""waltz: three looks a turn (arXiv 0000.00000). Deviations: none."""

from dataclasses import dataclass

from harness.api import Lab


@dataclass(frozen=True)
class Waltz:
    turns: int = 3  # of equal length

    def run(self, lab: Lab) -> None:
        for _ in range(self.turns):
            lab.train(lab.uniform(), f"{1 / self.turns} budget")


class Loose:
    def run(self, lab: Lab) -> None: ...
'''
ENTRIES = "[harness.strategies]\nwaltz = dances:Waltz\nloose = dances:Loose\ngone = dances:Gone\nmissing = nowhere:X\n"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process that sees the package, put there by pip from a wheel."""
    root = tmp_path_factory.mktemp("plugin")
    wheel = root / "dances-1.0-py3-none-any.whl"
    files = {
        "dances.py": CODE,
        "dances-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: dances\nVersion: 1.0\n",
        "dances-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "dances-1.0.dist-info/entry_points.txt": ENTRIES,
    }
    names = [*files, "dances-1.0.dist-info/RECORD"]
    with zipfile.ZipFile(wheel, "w") as out:
        for name, text in {**files, names[-1]: "".join(f"{n},,\n" for n in names)}.items():
            out.writestr(name, text)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", root / "site", wheel], check=True, capture_output=True)
    paths = [str(root / "site"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(paths)}


def test_its_strategies_are_listed_and_a_broken_one_is_not_fatal(installed):
    done = harness("list", "strategies", "--json", **installed)
    assert done.returncode == 0
    found = {line["name"]: line for line in json.loads(done.stdout)}
    assert "waltz: three looks a turn" in json.dumps(found["waltz"])
    assert "AttributeError" in json.dumps(found["gone"])
    assert "ModuleNotFoundError" in json.dumps(found["missing"])
    assert "not a frozen dataclass" in json.dumps(found["loose"])
    assert "msft" in found


def test_it_runs_by_its_name_and_the_record_names_its_source(installed, toy, tiny, tmp_path):
    common = ("--model", tiny, "--suite", toy, "--runs", tmp_path / "runs", "--limit", 4)
    done = harness("run", "--strategy", "waltz", "-o", "turns=2", *common, **installed)
    assert done.returncode == 0, done.stderr
    made = record.read(tmp_path / "runs" / done.stdout.strip().splitlines()[-1].split("/")[-2])
    assert (made.identity.strategy, made.identity.hyperparameters) == ("waltz", {"turns": 2})
    assert made.identity.source_sha256 == hashlib.sha256(CODE.encode()).hexdigest()


def test_a_broken_or_missing_package_is_one_line(installed):
    for name, says, env in (
        ("gone", "strategy plug-in 'gone': AttributeError", installed),
        ("waltz", "unknown strategy", {}),
    ):
        done = harness("run", "--strategy", name, **env)
        assert done.returncode == 2
        assert done.stderr.startswith(f"harness: {says}")
