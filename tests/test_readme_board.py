"""The README's board: numbers by hand, a picture that stands alone, and both those of results/."""

import re
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from benchmarks import readme_board
from tests import worlds


@pytest.fixture(scope="module")
def section(tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    worlds.world(results, 10, {"proportional": 0.6, "msft": 0.8}, n=40)
    worlds.write_run(*worlds.make_run("sft", 0, 0.9, n=40), results)  # one seed: provisional
    return readme_board.board(results)


def test_the_table_holds_complete_rows_best_first(section):
    text = readme_board.markdown(section)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if re.match(r"\| \d", line)]
    assert [row[1] for row in rows] == ["`msft`", "`proportional`"]
    means = {r.strategy: 100 * np.mean([run.macro for run in r.runs]) for r in section.rows}
    assert [float(row[3].split(" ")[0]) for row in rows] == [
        pytest.approx(means[n], abs=0.05) for n in ("msft", "proportional")
    ]
    assert float(rows[0][4].split(" ")[0]) == pytest.approx(means["msft"] - means["proportional"], abs=0.05)
    assert rows[1][4] == ""
    assert [row[2] for row in rows] == ["10", "10"]
    tokens = {r.strategy: np.mean([run.ledger["train"].tokens for run in r.runs]) for r in section.rows}
    assert [row[5] for row in rows] == [f"{tokens['msft'] / tokens['proportional']:.2f}", "1.00"]
    assert [row[0] for row in rows] == ["1", "2"]
    assert "2 entries of 10 seeds" in text


def test_rows_may_have_more_seeds_than_they_need(tmp_path, monkeypatch, capsys):
    worlds.world(tmp_path, 10, {"proportional": 0.6, "msft": 0.8}, n=40)
    for seed in (10, 11):
        worlds.write_run(*worlds.make_run("msft", seed, 0.8, n=40), tmp_path)
    made = readme_board.board(tmp_path)
    text = readme_board.markdown(made)
    assert "2 entries of 10 to 12 seeds" in text
    monkeypatch.setattr(sys, "argv", ["readme_board.py", "--all"])
    monkeypatch.setattr(readme_board, "board", lambda results: made)
    assert readme_board.main() == 0
    assert capsys.readouterr().out.strip() in text


def test_the_picture_needs_no_page_around_it(section):
    text = readme_board.svg(section)
    ElementTree.fromstring(text)
    assert set(re.findall(r"var\((--[a-z0-9-]+)", text)) <= set(re.findall(r"(--[a-z0-9-]+):", text))
    assert "currentColor" not in text or f'color="{readme_board.GREY}"' in text
    assert "href" not in text


def test_only_what_is_between_the_marks_is_written():
    old = f"a\n{readme_board.BEGIN}\nold\n{readme_board.END}\nz\n"
    new = readme_board.written(old, "new")
    assert new == f"a\n{readme_board.BEGIN}\nnew\n{readme_board.END}\nz\n"
    assert readme_board.written(new, "new") == new


@pytest.mark.slow
def test_the_readme_shows_what_results_say(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["readme_board.py", "--check"])
    assert readme_board.main() == 0, capsys.readouterr().out
