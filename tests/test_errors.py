"""Lines that errors lead to."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import record
from harness.errors import HarnessError, raised_at
from harness.values import Length

MINE = """
import statistics
from harness.values import Length

def own():
    raise ValueError("mine")

def pythons():
    statistics.mean([])

def ours():
    Length.parse("much")
"""


@pytest.mark.parametrize(("name", "line"), [("own", 6), ("pythons", 9), ("ours", 12)])
def test_the_line_named_is_the_users_not_pythons_nor_ours(tmp_path: Path, name: str, line: int) -> None:
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    space: dict[str, object] = {}
    exec(compile(MINE, str(path), "exec"), space)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        space[name]()  # type: ignore[operator]
    caught.value.__traceback__ = caught.value.__traceback__.tb_next  # type: ignore[union-attr]  # without this file
    assert raised_at(caught.value) == f"line {line} of mine.py"


def test_an_error_of_ours_alone_names_no_line() -> None:
    with pytest.raises(HarnessError) as caught:
        Length.parse("much")
    caught.value.__traceback__ = caught.value.__traceback__.tb_next  # type: ignore[union-attr]
    assert raised_at(caught.value) == ""


def test_a_run_that_has_not_ended_is_told_from_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="No such file"):
        record.read(tmp_path)
    (tmp_path / "config.yaml").touch()
    with pytest.raises(HarnessError, match="the run has not ended"):
        record.read(tmp_path)
