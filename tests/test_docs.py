"""The README is true: its strategy is the real one, its commands and files exist, its options parse."""

import re
import shlex

import click
import pytest

from harness import REFERENCE
from harness.cli import cli
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()


def test_the_strategy_shown_is_the_real_one():
    (shown,) = re.findall(r"```python\n(.*?)```", README, re.S)
    assert shown.strip() in (ROOT / "strategies" / "msft.py").read_text()


@pytest.mark.parametrize("line", [x for x in README.splitlines() if x.startswith("harness ")])
def test_every_command_shown_parses(line):
    words = shlex.split(line.split("#")[0])[1:]
    command = cli.commands[words[0]]
    command.make_context(words[0], [w.replace("my_strategy.py", "msft") for w in words[1:]])


def test_every_module_is_in_the_tree_and_every_named_file_exists():
    named = set(re.findall(r"\b([a-z_]+\.py)\b", README)) - {"my_strategy.py"}
    modules = {p.name for p in (ROOT / "harness").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert named <= {p.name for p in ROOT.rglob("*.py") if ".venv" not in p.parts}
    shown_elsewhere = {"api.py", "cli.py"}
    missing = {m for m in modules if m not in named} - shown_elsewhere
    assert not missing, f"README's tree does not name {sorted(missing)}"
    for target in re.findall(r"\]\(([^)h][^)]*)\)", README):
        assert (ROOT / target).exists(), target


def test_every_command_and_option_has_help():
    for name, command in cli.commands.items():
        assert command.help, name
        assert isinstance(command, click.Command)


def test_the_reference_is_defined_once_and_is_that_of_the_rules():
    files = [*(ROOT / "harness").glob("*.py"), *(ROOT / "site").rglob("*.html"), *(ROOT / "site").rglob("*.js")]
    defined = re.compile(rf"(?m)^REFERENCE\b.*=|=== \"{REFERENCE}\"")
    assert [path.name for path in files if defined.search(path.read_text())] == ["__init__.py"]
    assert f"difference to `{REFERENCE}`" in (ROOT / "docs" / "rules.md").read_text()
    (option,) = (p for p in cli.commands["matrix"].params if p.name == "against")
    assert option.default == REFERENCE
