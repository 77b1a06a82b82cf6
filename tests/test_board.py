"""Rows of a board: what items say, what was tuned, what was refuted, and the same numbers in the downloads."""

import csv
import json
import math
import re

import numpy as np
import pytest
from pyarrow import parquet

from harness import articles, items, pages, picture, record, runview, workloads
from harness import gather as gathering
from harness.board import sections
from harness.compare import compare
from harness.gather import gather
from harness.panel import Panel
from harness.paths import document
from harness.profiles import median_to_target, target
from harness.publish import build, describe
from harness.refutation import Refutation, name
from harness.versus import comparison
from tests import worlds
from tests.records import make_record, write_result, write_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three strategies, four seeds, 1x and 2x."""
    root = tmp_path_factory.mktemp("board")
    skills = {"proportional": 0.70, "uniform": 0.69, "cadft": 0.80}
    worlds.world(root / "results", 4, skills, budgets=(1.0, 2.0), n=60)
    return root


def rows_of(section, multiple=1.0):
    return {row.strategy: row for row in dict(section.budgets)[multiple]}


def test_items_give_the_differences_groups_and_what_could_be_detected(folder):
    (section,) = sections(gather([folder / "results"]))
    rows = rows_of(section)
    runs = {}
    for path in sorted((folder / "results").rglob("*-????????.json")):
        record = json.loads(path.read_text())
        if record["identity"]["budget"]["multiple"] == 1:
            right = items.unpack(items.beside(path)).rows
            tasks = [np.array([row["correct"]["exact"] for row in right[t]], float) for t in sorted(right)]
            runs.setdefault(record["identity"]["strategy"], {})[record["identity"]["seed"]] = tasks
    # in another order of strategies, since order must not matter
    truth = compare(Panel.of({k: runs[k] for k in sorted(runs, reverse=True)}), "proportional")
    for strategy in ("uniform", "cadft"):
        mean = np.mean([[t.mean() for t in runs[strategy][s]] for s in range(4)])
        own = np.mean([[t.mean() for t in runs["proportional"][s]] for s in range(4)])
        assert rows[strategy].difference.value == pytest.approx(mean - own)
        assert rows[strategy].difference.low == pytest.approx(truth.differences[strategy].estimate.low, abs=2e-3)
        assert rows[strategy].against.detectable == pytest.approx(truth.differences[strategy].detectable, abs=2e-3)
        assert rows[strategy].tie == truth.ties[strategy]
        assert rows[strategy].places == truth.ranks[strategy]
    assert rows["cadft"].tie == 1
    assert rows["proportional"].tie == rows["uniform"].tie == 2
    assert (rows["cadft"].key, rows["uniform"].key) in section.better
    assert not any(row.unverified for row in section.rows)


def test_flops_to_target_are_the_median_run_against_the_reference_at_1x(folder):
    (section,) = sections(gather([folder / "results"]))
    one, two = rows_of(section), rows_of(section, 2.0)
    goal = target([r.curves for r in one["proportional"].runs])
    assert section.goal == goal
    assert one["proportional"].to_target <= 1
    for row in (one["cadft"], two["cadft"]):
        assert row.to_target == pytest.approx(median_to_target([r.curves for r in row.runs], goal) / worlds.ONE)
    strict = goal.__class__(goal.metric, 1.01)
    assert median_to_target([r.curves for r in one["cadft"].runs], strict) == float("inf")


@pytest.mark.parametrize("odd", [None, 0.25])
def test_answers_travel_between_processes_unchanged(odd):
    r = make_record(scores={"b": 0.5, "a": 1.0, "c": 0.0}, n=11)
    rng = np.random.default_rng(0)
    scores = [(rng.random(11) < 0.5).astype(np.float32) for _ in range(3)]
    if odd is not None:
        scores[1][4] = odd
    back = gathering._received(r.scores, gathering._sent(scores))
    assert [a.tolist() for a in back] == [a.tolist() for a in scores]
    assert {a.dtype for a in back} == {np.dtype(np.float32)}
    assert isinstance(gathering._sent(scores), bytes) == (odd is None)


def test_items_that_do_not_give_the_score_make_a_row_unverified(folder, tmp_path):
    record, right = worlds.make_run("uniform", 9, 0.7, n=40)
    task = worlds.TASKS[0]
    right[task][0] = not right[task][0]
    worlds.write_run(record, right, tmp_path)
    found = gather([tmp_path])
    assert found.answers == {}
    (row,) = sections(found)[0].rows
    assert row.unverified == 1
    assert row.score.low is None


def test_other_learning_rates_are_tuning_and_are_billed_to_the_chosen_one(tmp_path):
    chosen = [make_record("msft", s, {"a": 0.5}) for s in range(5)]
    half = {"train": 500_000}
    grid = [make_record("msft", s, {"a": 0.9}, lr=lr, phases=half) for lr in (5e-4, 2e-3) for s in (1000, 1001)]
    for r in (*chosen, *grid, *(make_record("proportional", s, {"a": 0.4}) for s in range(5))):
        write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    assert [(row.strategy, row.tuning) for row in section.rows] == [
        ("msft", False),
        ("proportional", False),
        ("msft", True),
        ("msft", True),
    ]
    assert section.rows[0].tuned == pytest.approx(4 * 0.5)
    assert section.rows[1].tuned == 0
    assert section.rows[2].tie is None


@pytest.mark.parametrize(("rate", "edge"), [(5e-4, True), (1e-3, False), (2e-3, True), (None, False)])
def test_a_chosen_rate_with_none_beyond_it_is_at_the_edge(tmp_path, rate, edge):
    chosen = rate or 1e-3
    for r in (make_record("msft", s, {"a": 0.5}, lr=chosen) for s in range(5)):
        write_run(r, tmp_path)
    for lr in (5e-4, 1e-3, 2e-3) if rate else ():
        write_run(make_record("msft", 1000, {"a": 0.5}, lr=lr), tmp_path)
    (row,) = [row for row in sections(gather([tmp_path]))[0].rows if not row.tuning]
    assert (row.first.identity.lr, row.edge) == (chosen, edge)
    text = build([tmp_path], tmp_path / "out").read_text()
    assert (">edge</span>" in text) == edge


@pytest.mark.parametrize(("seeds", "tuning"), [(2, True), (9, True), (10, False)])
def test_rates_of_which_none_is_chosen_yet_are_no_entries(tmp_path, seeds, tuning):
    """The best of a grid on the test split would lead the board; with the seeds of a ranked row, they are two entries."""
    for r in (make_record("msft", s, {"a": 0.5}, lr=lr) for lr in (1e-3, 2e-3) for s in range(seeds)):
        write_run(r, tmp_path)
    write_run(make_record("proportional", 0, {"a": 0.4}), tmp_path)
    (section,) = sections(gather([tmp_path]))
    assert [(row.strategy, row.tuning) for row in section.rows if row.strategy == "msft"] == [("msft", tuning)] * 2
    assert not next(row for row in section.rows if row.strategy == "proportional").tuning


LATER = {"started": "2026-01-01T00:01:00+00:00", "ended": "2026-01-01T00:02:00+00:00"}


@pytest.mark.parametrize(
    ("seeds", "when", "tuning"),
    [
        ((0,), {}, False),  # one run on a seed of the row, whenever: somebody has tried the thing out
        ((0, 1, 2), LATER, False),  # a row's rate is not chosen by what came after it
        ((0,), LATER, False),
        ((0, 1), {}, True),
        ((0, 1), {"started": "yesterday"}, True),  # no time is no excuse
        ((1000,), {}, True),  # a seed of its own
        ((1000, 1001), LATER, True),  # also beyond the grid, afterwards
    ],
)
def test_what_chose_no_rate_takes_no_seed_of_a_whole_row(tmp_path, seeds, when, tuning):
    rows = {name: [make_record(name, s, {"a": 0.5}) for s in range(10)] for name in ("proportional", "msft")}
    other = [make_record("proportional", s, {"a": 0.9}, lr=4e-4).model_copy(update=when) for s in seeds]
    for r in (*rows["proportional"], *rows["msft"], *other):
        write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    found = {
        (row.strategy, row.first.identity.lr): row
        for row in section.rows
        if not row.tuning or row.first.identity.lr < 1e-3
    }
    reference, stray = found["proportional", 1e-3], found["proportional", 4e-4]
    assert (reference.is_reference, stray.tuning) == (True, tuning)
    assert len(reference.runs) == 10 - len({0, 1} & set(seeds)) * tuning
    assert reference.tuned == tuning * (len(seeds) + len({0, 1} & set(seeds)))
    assert not found["msft", 1e-3].tuning


@pytest.mark.parametrize(("seeds", "kept"), [((0,), 10), ((0, 1), 8)])
def test_a_run_at_a_rate_that_was_tried_on_other_seeds_is_no_part_of_that(tmp_path, seeds, kept):
    """As after `make demo`: seed 0 at the suite's rate, which the tuning of the reference has tried on seeds of its own."""
    row = [make_record("proportional", s, {"a": 0.8}) for s in range(10)]
    grid = [make_record("proportional", s, {"a": 0.5}, lr=lr) for lr in (4e-4, 1e-3) for s in (1000, 1001)]
    demo = [make_record("proportional", s, {"a": 0.6}, lr=4e-4) for s in seeds]
    for r in (*row, *grid, *demo, make_record("msft", 0, {"a": 0.5})):
        write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    (reference,) = [r for r in section.rows if r.is_reference]
    assert (len(reference.runs), reference.provisional) == (kept, kept < 10)
    tried = {(r.tuning, *(x.identity.seed for x in r.runs)) for r in section.rows if r.first.identity.lr == 4e-4}
    apart = {(True, 1000, 1001), (False, 0)}
    assert tried == (apart if kept == 10 else {(True, 0, 1, 1000, 1001)})
    assert reference.tuned == pytest.approx(4 if kept == 10 else 8)


def test_the_reference_is_the_row_whose_rate_was_tuned_not_the_one_with_most_seeds(tmp_path):
    grid = [make_record("proportional", s, {"a": 0.5}, lr=lr) for lr in (5e-4, 1e-3) for s in (1000, 1001)]
    row = [make_record("proportional", s, {"a": 0.8}) for s in range(10)]
    rival = [make_record("proportional", s, {"a": 0.4}, lr=2e-3).model_copy(update=LATER) for s in range(20)]
    for r in (*grid, *row, *rival):
        write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    found = {(r.first.identity.lr, r.tuning): r for r in section.rows}
    assert found[1e-3, False].is_reference
    assert (len(found[1e-3, False].runs), len(found[2e-3, False].runs)) == (10, 20)
    assert found[2e-3, False].difference.value == pytest.approx(-0.4)


def test_a_rate_without_seeds_of_its_own_is_not_chosen(tmp_path):
    """The others' seeds make up all of its own: the row with most seeds would be left without a run."""
    for lr, seeds in ((1e-3, (1, 2)), (2e-3, (1,)), (4e-3, (2,))):
        for r in (make_record("msft", s, {"a": 0.5}, lr=lr) for s in seeds):
            write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    assert sorted((row.first.identity.lr, len(row.runs), row.tuning) for row in section.rows) == [
        (1e-3, 2, True),
        (2e-3, 1, True),
        (4e-3, 1, True),
    ]


def test_the_reference_is_the_chosen_rate_while_its_other_rates_have_more_seeds(tmp_path):
    skills = {1e-3: 0.8, 2e-3: 0.3, 4e-3: 0.1}
    for lr, skill in skills.items():
        for seed in (1000, 1001, *((0,) if lr == 1e-3 else ())):
            write_run(make_record("proportional", seed, {"a": skill}, lr=lr), tmp_path)
    write_run(make_record("uniform", 0, {"a": 0.7}), tmp_path)
    (section,) = sections(gather([tmp_path]))
    rows = {row.label: row for row in section.rows}
    assert rows["proportional"].is_reference
    assert rows["uniform"].difference.value == pytest.approx(-0.1)


def test_a_default_that_was_given_by_hand_is_the_entry_of_the_defaults(tmp_path):
    """Its rate was tuned without the option: the row is the strategy as it comes, on the page of all workloads too."""
    default = {"hyperparameters": {"C": 1.0}}
    runs = [make_record("msft", s, {"a": 0.5}, **default, passed={"C": "1"}) for s in range(3)]
    runs += [make_record("msft", s, {"a": 0.5}, **default, passed={"C": "1"}, multiple=2.0) for s in range(3)]
    for r in runs:
        r.identity.hyperparameters["C"] = 1.0
        r.id = record.run_id(r.identity, r.environment.model_revision, None, r.rules_version)
    runs += [make_record("msft", s, {"a": 0.5}, lr=lr, **default) for lr in (1e-3, 2e-3) for s in (1000, 1001)]
    runs += [make_record("msft", s, {"a": 0.6}, passed={"C": 2.0}) for s in range(3)]
    for r in (*runs, *(make_record("proportional", s, {"a": 0.4}) for s in range(3))):
        write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    assert {
        (row.label, row.multiple, len(row.runs)) for row in section.rows if row.strategy == "msft" and row.ranked
    } == {
        ("msft", 1.0, 3),
        ("msft", 2.0, 3),
        ("msft C=2.0", 1.0, 3),
    }
    assert {line.strategy for line in workloads.view([section])["lines"]} == {"proportional", "msft"}


def test_seeds_that_chose_the_rate_do_not_count_for_the_score(tmp_path):
    """The chosen rate is the best of three on seeds 1000 and 1001, which flatters it there."""
    chosen = [make_record("msft", s, {"a": 0.5}) for s in range(5)]
    lucky = [make_record("msft", s, {"a": 0.8}, phases={"train": 500_000}) for s in (1000, 1001)]
    grid = [make_record("msft", s, {"a": 0.7}, lr=lr) for lr in (5e-4, 2e-3) for s in (1000, 1001)]
    for r in (*chosen, *lucky, *grid):
        write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    first, *others = section.rows
    one_run = chosen[0].total_model_flops / (chosen[0].identity.budget.flops / chosen[0].identity.budget.multiple)
    assert [r.identity.seed for r in first.runs] == list(range(5))
    assert first.score.value == pytest.approx(0.5)
    assert first.tuned == pytest.approx(2 * 0.5 + 4 * one_run), "the runs at the chosen rate were tuning, too"
    assert [(row.tuning, len(row.runs), row.score.value) for row in others] == [
        (True, 2, pytest.approx(0.8)),
        (True, 2, pytest.approx(0.7)),
        (True, 2, pytest.approx(0.7)),
    ]
    assert len({row.key for row in section.rows}) == 4


def test_rates_are_compared_with_the_references_on_the_seeds_that_chose_them(tmp_path):
    skills = {"proportional": {1e-3: 0.6, 2e-3: 0.5}, "msft": {1e-3: 0.8, 2e-3: 0.4}}
    for strategy, by_rate in skills.items():
        for lr, skill in by_rate.items():
            for seed in (1000, 1001, *(range(4) if lr == 1e-3 else ())):
                worlds.write_run(*worlds.make_run(strategy, seed, skill, n=40, lr=lr), tmp_path)
    (section,) = sections(gather([tmp_path]))
    rows = {(row.strategy, row.first.identity.lr, row.tuning): row for row in section.rows}
    assert len(rows) == 6
    for (strategy, lr, tuning), row in rows.items():
        paired = rows["proportional", 1e-3, tuning]
        want = np.mean([r.macro for r in row.runs]) - np.mean([r.macro for r in paired.runs])
        assert row.is_reference == ((strategy, lr, tuning) == ("proportional", 1e-3, False))
        assert row.difference.value == pytest.approx(want)


def test_a_refutation_stands_on_the_row_that_it_disputes(folder, tmp_path):
    disputed, right = worlds.make_run("uniform", 0, 0.7, n=40)
    again, _ = worlds.make_run("uniform", 0, 0.4, n=40)
    path = worlds.write_run(disputed, right, tmp_path)
    refuted = Refutation(refutes=disputed.id, record=again)
    (path.parent / name(again, disputed.id)).write_text(refuted.model_dump_json())
    (row,) = sections(gather([tmp_path]))[0].rows
    assert row.disputes == (refuted,)
    assert len(row.runs) == 1
    index = build([tmp_path], tmp_path / "out").read_text()
    assert "1 refuted" in index
    assert "Refuted: the same run" in (tmp_path / "out" / "runs" / f"{disputed.id}.html").read_text()


def test_a_repetition_by_changed_code_refutes_nothing_and_says_so(tmp_path):
    disputed, right = worlds.make_run("uniform", 0, 0.7, n=40)
    again, _ = worlds.make_run("uniform", 0, 0.1, n=40)
    again = again.model_copy(update={"identity": again.identity.model_copy(update={"source_sha256": "b" * 64})})
    path = worlds.write_run(disputed, right, tmp_path)
    (path.parent / name(again, disputed.id)).write_text(Refutation(refutes=disputed.id, record=again).model_dump_json())
    (row,) = sections(gather([tmp_path]))[0].rows
    assert (len(row.disputes), row.refuted) == (1, 0)
    index = build([tmp_path], tmp_path / "out").read_text()
    assert "1 repeated" in index
    assert "another version of the strategy" in index
    page = (tmp_path / "out" / "runs" / f"{disputed.id}.html").read_text()
    assert "source bbbbbbbb, not" in page
    assert "Refuted" not in page


def test_downloads_hold_the_numbers_of_the_table_in_three_formats(folder, tmp_path):
    build([folder / "results"], tmp_path)
    (section,) = sections(gather([folder / "results"]))
    lines = list(csv.DictReader((tmp_path / "rows.csv").open(encoding="utf-8")))
    whole = json.loads((tmp_path / "rows.json").read_text())
    table = parquet.read_table(tmp_path / "rows.parquet").to_pylist()
    assert whole == table
    assert len(lines) == len(whole) == len(section.rows) == 6
    page = (tmp_path / "index.html").read_text()
    for line, row, shown in zip(lines, whole, section.rows, strict=True):
        assert float(line["score"]) == row["score"] == shown.score.value
        assert f">{100 * row['score']:.1f}</strong>" in page
        assert row["runs"].split() == [r.id for r in shown.runs]
        assert row["tie_group"] == shown.tie
        values = sorted(x.value for r in shown.runs for x in r.scores.values())
        cut = len(values) // 4
        assert row["interquartile_mean"] == pytest.approx(np.mean(values[cut : len(values) - cut]))
    scores = parquet.read_table(tmp_path / "scores.parquet").to_pylist()
    assert len(scores) == 3 * 2 * 4 * len(worlds.TASKS)
    by_run = {}
    for s in scores:
        by_run.setdefault(s["run"], []).append(s["score"])
    for row in section.rows:
        for r in row.runs:
            assert np.mean(by_run[r.id]) == pytest.approx(r.macro)


def test_who_never_reached_a_target_stands_behind_who_did(tmp_path):
    """By the bound alone a run that ends early and reaches nothing would lead: it billed less than the reference."""
    reached = [worlds.make_run(name, 0, 0.7, n=20) for name in ("proportional", "uniform")]
    whole, right = worlds.make_run("sro", 0, 0.2, n=20)
    low = [p.model_copy(update={"exact_match": 0.0, "billed_flops": p.billed_flops // 4}) for p in whole.curves]
    early = whole.model_copy(update={"curves": low, "total_model_flops": whole.total_model_flops // 4})
    for made, correct in (*reached, (early, right)):
        worlds.write_run(made, correct, tmp_path)
    found = workloads.view(sections(gather([tmp_path])))["lines"]
    ratios = {line.strategy: line.ratio for line in found}
    assert ratios["sro"].censored == 1
    assert ratios["sro"].value < min(ratios["proportional"].value, ratios["uniform"].value)
    assert found[-1].strategy == "sro"


def test_of_several_rates_the_reference_stands_for_itself_across_workloads(tmp_path):
    worlds.write_run(*worlds.make_run("uniform", 0, 0.7, n=20, lr=2e-4), tmp_path)
    for k, lr in enumerate((1e-4, 2e-4, 4e-4)):
        worlds.write_run(*worlds.make_run("proportional", 0, 0.6 + 0.05 * k, n=20, lr=lr), tmp_path)
    lines = {line.strategy: line for line in workloads.view(sections(gather([tmp_path])))["lines"]}
    assert lines["proportional"].cells[0].is_reference
    assert lines["uniform"].ratio is not None


def test_text_in_csv_is_never_a_formula(tmp_path):
    write_result(make_record("proportional"), tmp_path / "r")
    write_run(make_record("=cmd|' /C calc'!A0", 1), tmp_path / "runs")
    build([tmp_path / "r", tmp_path / "runs"], tmp_path / "out")
    cells = [c for line in csv.reader((tmp_path / "out" / "rows.csv").open(encoding="utf-8")) for c in line]
    assert "'=cmd|' /C calc'!A0" in cells
    assert not any(c.startswith("=") for c in cells)


def test_a_strategys_page_shows_its_docstring_paper_and_code(folder, tmp_path):
    found = articles.source("msft")
    assert found.papers == ("2603.21606",)
    assert found.summary.startswith("mSFT")
    assert found.deviations.startswith("Deviations:")
    assert articles.source("../msft") is None
    assert articles.source("_numerics") is None
    build([folder / "results"], tmp_path)
    page = (tmp_path / "strategies" / "cadft.html").read_text()
    assert "https://arxiv.org/abs/2606.11206" in page
    assert page.count("<tr>") == 1 + 2  # its head, and a line for each budget


def test_what_a_strategy_does_is_a_sentence_and_deviations_stand_apart():
    found = {name: articles.source(name) for name in articles.builtin()}
    for strategy, s in found.items():
        assert re.search(r"[.)]$", s.brief), strategy
        assert "Deviations" not in " ".join((s.brief, s.summary, *s.text)), strategy
        assert s.deviations.startswith("Deviations"), strategy
    assert "(arXiv" not in found["msft"].brief
    assert "(arXiv 2603.21606)" in found["msft"].summary
    assert found["uniform"].deviations == "Deviations: none."
    assert found["aioli"].text == ("The bursts are steps of the run itself, as released.",)


def test_rates_that_were_tried_stand_apart_on_a_strategys_page(tmp_path):
    for lr in (1e-3, 2e-3):
        for seed in (1000, 1001, *(range(3) if lr == 1e-3 else ())):
            worlds.write_run(*worlds.make_run("msft", seed, 0.6, n=20, lr=lr), tmp_path / "results")
    worlds.write_run(*worlds.make_run("dft", 1000, 0.6, n=20, lr=1e-3), tmp_path / "results")
    worlds.write_run(*worlds.make_run("dft", 1000, 0.6, n=20, lr=2e-3), tmp_path / "results")
    build([tmp_path / "results"], tmp_path / "out")
    entries, tried = (tmp_path / "out" / "strategies" / "msft.html").read_text().split('<details class="data tried">')
    assert entries.count("<tr>") == 1 + 1
    assert "2 rows that chose learning rates" in tried
    assert tried.count("<tr>") == 1 + 2
    assert "No entry yet" in (tmp_path / "out" / "strategies" / "dft.html").read_text()
    (compared,) = (tmp_path / "out" / "compare").glob("*.html")
    entries, tried = compared.read_text().split('<details class="data tried">')
    assert entries.count("<tr data-label") == 1
    assert tried.count("<tr data-label") == 4


def test_terms_of_learned_weights_stand_beside_them(tmp_path):
    """TaskPGM's page: numbers as logged, bars from zero to a common scale, filled above and outlined below."""
    made, right = worlds.make_run("taskpgm", 0, 0.7, n=20)
    weights = dict(zip(worlds.TASKS, np.linspace(0.05, 0.2, 8).tolist(), strict=True))
    unary, pairwise = [4.0, -8.0, 1, 0.0, 2.5, -1.0, 0.5, 3.0], [2.0] * 8
    data = {"weights": weights, "unary": unary, "pairwise": pairwise, "r": 4.0, "short": [1.0], "flags": [True] * 8}
    event = record.Event(billed_flops=1, verb="log", note="weights", data=data)
    made = made.model_copy(update={"events": [*made.events, event]})
    learned = runview.view(made, [made]).learned
    assert [(name, values) for name, values, _ in learned.terms] == [("unary", unary), ("pairwise", pairwise)]
    assert {task: w for task, w, _ in learned.weights} == weights
    bars = [re.search(r'class="(\w+)" x="([\d.]+)" y="5" width="([\d.]+)"', str(bar)) for bar in learned.terms[0][2]]
    middle, reach = 132 / 2, 132 / 2 - 4
    for value, found in zip(unary, bars, strict=True):
        assert found[1] == ("plus" if value >= 0 else "minus")
        assert float(found[3]) == pytest.approx(abs(value) / 8 * reach, abs=0.051)
        assert float(found[2]) == pytest.approx(middle + min(value, 0) / 8 * reach, abs=0.051)
    worlds.write_run(made, right, tmp_path / "r")
    build([tmp_path / "r"], tmp_path / "out")
    page = (tmp_path / "out" / "runs" / f"{made.id}.html").read_text()
    assert "The unary term draws weight to a task" in page
    assert "-8.00" in page


def test_the_axis_of_differences_follows_them_and_marks_what_runs_out(tmp_path):
    """An interval of two seeds, and one of a rate that was only tried, leave the others their room."""
    worlds.world(tmp_path, 6, {"proportional": 0.7, "uniform": 0.64, "msft": 0.55}, n=100)
    for seed, skill in ((0, 0.3), (1, 0.7)):
        worlds.write_run(*worlds.make_run("sro", seed, skill, n=100), tmp_path)
        worlds.write_run(*worlds.make_run("msft", 1000 + seed, skill, n=100, lr=5e-3), tmp_path)
    rows = {row.label: row for row in sections(gather([tmp_path]))[0].rows}
    few = rows["sro"].difference
    assert few.high - few.low > 2, "200 points"
    assert any(row.tuning for row in rows.values())
    low, high = pages.span(rows.values())
    assert (low, high) == pages.span(row for row in rows.values() if not row.tuning)
    shown = [e for n in ("uniform", "msft") for e in (rows[n].difference.low, rows[n].difference.high)]
    assert low <= min(*shown, few.value)
    assert high >= max(*shown, 0)
    assert high - low < 1
    drawn = pages.row_whisker(rows["sro"], (low, high))
    assert drawn.count('class="out"') == 2
    assert f"95 % from {100 * few.low:+.1f} to {100 * few.high:+.1f}" in drawn
    assert 'class="out"' not in pages.row_whisker(rows["uniform"], (low, high))
    alone = pages.span([rows["sro"]])
    assert alone == (-1.0, 1.0), "no difference is larger than 100 points"
    assert pages.span([]) == (-0.01, 0.01)


def test_a_runs_page_says_what_its_learned_weights_are(tmp_path):
    """What was trained on beside them, their distance, where the picture begins, and whether the energy is least there."""
    made, right = worlds.make_run("taskpgm", 0, 0.7, n=20)
    tasks = sorted(worlds.TASKS)
    weights = dict(zip(tasks, [0.5, 0.3, 0.2, *[0.0] * 5], strict=True))
    trained = dict(zip(tasks, [0.2, 0.48, 0.32, *[0.0] * 5], strict=True))  # the first has too few examples
    change = [record.MixtureChange(billed_flops=made.total_model_flops // 4, weights=trained)]
    S = [[0.0 if i == j else -1.0 - i - j for j in range(8)] for i in range(8)]
    affinity = record.Event(billed_flops=1, verb="log", note="affinity", data={"tasks": tasks, "S": S})

    def shown(unary, pairwise, mixture=change, S=S):
        data = {"weights": weights, "unary": unary, "pairwise": pairwise}
        events = [affinity.model_copy(update={"data": {"tasks": tasks, "S": S}})]
        events += [record.Event(billed_flops=1, verb="log", note="weights", data=data)]
        run = made.model_copy(update={"events": events, "mixture": mixture})
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        worlds.write_run(run, right, folder / "r")
        build([folder / "r"], folder / "out")
        page = " ".join((folder / "out" / "runs" / f"{made.id}.html").read_text().split())
        return runview.view(run, [run]).learned, page

    unary = [4.0, -8.0, 1.0, 0.0, 2.5, -1.0, 0.5, 3.0]
    at_rest = [u + gap for u, gap in zip(unary, [-1.0, -1.0, -1.0, 0.0, -1.0, 2.0, 0.0, 0.0], strict=True)]
    learned, page = shown(unary, at_rest)
    assert learned.least
    assert "Here it is not" not in page
    assert "L1 distance to uniform is 1.250" in page  # 3/8 + 1.4/8 + 0.6/8 + 5/8
    assert ">trained on</th>" in page
    assert "fewer examples than its weight asks for" in page
    assert "that was billed before the run's own training began" in page
    assert "The same read by rows and by columns" in page
    S[0][1] = 5.0
    chosen = [*at_rest[:4], unary[4] - 6, *at_rest[5:]]  # a task without weight would lower the energy: m was given
    learned, page = shown(unary, chosen, [record.MixtureChange(billed_flops=0, weights=trained), *change], S)
    assert learned.least is False
    assert "Here it is not" in page
    assert ">began with</th>" in page
    assert "fewer examples than" not in page
    assert "before the run's own training began" not in page
    assert "Rows act on columns" in page
    soon = [change[0].model_copy(update={"billed_flops": 1})]
    assert "before the run's own training began" not in shown(unary, at_rest, soon)[1], "too little to be seen"
    assert not shown(unary, [at_rest[0] + 0.5, *at_rest[1:]])[0].least  # unequal among those with weight: projected


def test_of_very_many_learned_weights_the_heaviest_are_shown_and_the_page_says_so(tmp_path):
    """A sparse mixture of 300 tasks is not a page of zeros, whatever its tasks are called."""
    made, right = worlds.make_run("taskpgm", 0, 0.7, n=20)
    names = [f"t{i:03}" for i in range(300)]
    weights = dict.fromkeys(names, 0.0) | {"t299": 0.7, "t250": 0.2, "t007": 0.1}
    terms = {"unary": [float(i) for i in range(300)], "pairwise": [1.0] * 300}
    event = record.Event(billed_flops=1, verb="log", note="weights", data={"weights": weights, **terms})
    trained = record.MixtureChange(billed_flops=0, weights={"t299": 0.5, "t250": 0.4, "t007": 0.1})
    made = made.model_copy(update={"events": [event], "mixture": [trained]})
    learned = runview.view(made, [made]).learned
    shown = [task for task, _, _ in learned.weights]
    assert {"t007", "t250", "t299"} < set(shown)
    assert (len(shown), learned.hidden, learned.limited) == (60, 240, True)
    assert learned.terms[0][1] == [float(task[1:]) for task in shown]
    assert shown == sorted(shown)
    worlds.write_run(made, right, tmp_path / "r")
    build([tmp_path / "r"], tmp_path / "out")
    page = " ".join((tmp_path / "out" / "runs" / f"{made.id}.html").read_text().split())
    assert "These are the heaviest; 240 more tasks are in the record." in page


def test_weights_that_are_no_numbers_are_not_drawn():
    made, _ = worlds.make_run("taskpgm", 0, 0.7, n=20)
    for odd in ({"a": "1"}, {"a": math.nan}, {"a": True}, {"a": None}):
        event = record.Event(billed_flops=1, verb="log", note="weights", data={"weights": odd})
        assert runview.view(made.model_copy(update={"events": [event]}), [made]).learned == runview.Learned()


def test_documents_are_whole_and_their_links_stay_on_the_site():
    found = articles.documents()
    assert {"rules", "changelog", "contributing", "flops", "statistics", "results"} <= found.keys()
    assert "FLOPs" in found["rules"][1]
    studies = [
        found[f"study-{p.stem}"][1] for p in (document("docs/rules.md").parent / "studies").glob("*.md")
    ]  # none is forgotten
    assert studies
    assert not any("&lt;!--" in html for html in studies)
    assert '<a href="study-msft.html">' in found["study-pocket"][1]
    assert "0005-pocket.md" not in found["study-pocket"][1]
    assert '<a href="flops.html">How FLOPs are counted</a>' in found["rules"][1]
    assert '<h3 id="one-task-one-rate"' in found["study-pocket"][1]  # as the repository's own pages name it
    assert '"study-pocket.html#one-task-one-rate"' in found["study-cadft"][1]
    assert ".md" not in "".join(
        part.split('"')[0]
        for _, html in found.values()
        for part in html.split('href="')[1:]
        if not part.startswith("http")
    )


def test_many_records_are_shared_out_among_processes_with_the_same_result(tmp_path, monkeypatch):
    worlds.world(
        tmp_path / "results", 8, {"proportional": 0.7, "uniform": 0.6}, budgets=(0.5, 1.0, 2.0, 4.0, 8.0), n=20
    )
    build([tmp_path / "results"], tmp_path / "many")
    monkeypatch.setattr("harness.parallel.jobs", lambda: 1)
    build([tmp_path / "results"], tmp_path / "one")
    pages = sorted(p.relative_to(tmp_path / "many") for p in (tmp_path / "many").rglob("*.html"))
    assert len(pages) > 80
    for page in pages:
        assert (tmp_path / "many" / page).read_bytes() == (tmp_path / "one" / page).read_bytes()


def test_a_process_that_has_drawn_builds_the_same_pages(folder, tmp_path):
    build([folder / "results"], tmp_path / "forked")
    picture.profile_picture([1.0, 2.0], {"a": [0.5, 1.0]})
    build([folder / "results"], tmp_path / "drawn")
    for page in ("index.html", "workloads.html"):
        assert (tmp_path / "forked" / page).read_bytes() == (tmp_path / "drawn" / page).read_bytes()


def test_a_row_with_one_seed_has_no_group_and_takes_no_place(tmp_path):
    """It can be told apart from nothing: among others it would stand in the group of the best, with all places open."""
    worlds.world(tmp_path, 4, {"proportional": 0.7, "uniform": 0.3}, n=60)
    alone = sections(gather([tmp_path]))[0]
    worlds.write_run(*worlds.make_run("sro", 0, 0.05, n=60), tmp_path)
    rows = {row.strategy: row for row in sections(gather([tmp_path]))[0].rows}
    assert (rows["sro"].tie, rows["sro"].places) == (None, None)
    assert rows["sro"].difference is not None
    assert {row.strategy: (row.tie, row.places) for row in alone.rows} == {
        name: (rows[name].tie, rows[name].places) for name in ("proportional", "uniform")
    }
    assert (rows["uniform"].tie, rows["uniform"].places) == (2, (2, 2))


def test_the_picture_names_an_entry_with_all_its_seeds_as_the_best(tmp_path):
    """A single lucky seed, and a rate that was only tried, stand in the table; they lead nothing."""
    runs = [make_record("msft", 0, {"a": 0.9}), *(make_record("proportional", s, {"a": 0.4}) for s in range(10))]
    runs += [make_record("uniform", 1000, {"a": 0.8}, lr=lr) for lr in (1e-3, 2e-3)]
    for r in runs:
        write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    assert "proportional has the best mean at 1x, 40.0 % over 10 seeds" in describe(section)


def test_a_board_of_more_rows_than_the_comparison_holds(tmp_path, monkeypatch):
    monkeypatch.setattr("harness.versus.MOST", 2)
    for k in range(4):
        write_run(make_record("msft", 0, {"a": 0.1 * k}, passed={"C": k}), tmp_path)
    (section,) = sections(gather([tmp_path]))
    found = comparison(section)
    assert len(found.means) == len(found.data["rows"]) == 2
    assert found.best == [pytest.approx(0.3)]


def test_rates_that_were_tried_are_marked_and_best_of_nothing_in_the_comparison(tmp_path):
    runs = [make_record("msft", s, {"a": 0.9}, lr=lr) for lr in (1e-3, 2e-3) for s in (1000, 1001)]
    for r in (*runs, *(make_record("proportional", s, {"a": 0.4}) for s in range(3))):
        write_run(r, tmp_path)
    (section,) = sections(gather([tmp_path]))
    found = comparison(section)
    assert found.best == [pytest.approx(0.4)]
    assert sorted(row["label"] for row in found.data["rows"]) == [
        "msft lr 0.001, tuning",
        "msft lr 0.002, tuning",
        "proportional",
    ]


@pytest.mark.parametrize(("first", "seeds"), [(0, 2), (100, 4), (100, 10)])
def test_a_lucky_row_of_few_or_other_seeds_leaves_groups_as_they_are(tmp_path, first, seeds):
    """It cannot be shown to be better than anybody: at the top of the board it would make one group of all rows."""
    worlds.world(tmp_path, 10, {"proportional": 0.7, "uniform": 0.3}, n=60)
    alone = {row.strategy: (row.tie, row.places) for row in sections(gather([tmp_path]))[0].rows}
    assert alone == {"proportional": (1, (1, 1)), "uniform": (2, (2, 2))}
    for seed in range(first, first + seeds):
        worlds.write_run(*worlds.make_run("sro", seed, 0.71, n=60), tmp_path)
    rows = {row.strategy: row for row in sections(gather([tmp_path]))[0].rows}
    assert (rows.pop("sro").tie, {name: (row.tie, row.places) for name, row in rows.items()}) == (None, alone)


@pytest.mark.parametrize(
    ("score", "flops", "refuted"), [(0.55, 1_000_000, 0), (0.99, 1_000_000, 1), (0.55, 500_000, 1)]
)
def test_a_repetition_within_what_seeds_do_refutes_nothing(tmp_path, score, flops, refuted):
    """Seeds lie 0.1 apart; on another processor the same run ends as far away as another seed."""
    runs = [make_record("msft", s, {"a": 0.4 + 0.1 * (s % 3)}) for s in range(6)]
    paths = [write_result(r, tmp_path / "results") for r in runs]
    again = make_record("msft", 0, {"a": score}, phases={"train": flops})
    text = Refutation(refutes=runs[0].id, record=again).model_dump_json()
    (paths[0].parent / name(again, runs[0].id)).write_text(text)
    (row,) = sections(gather([tmp_path / "results"]))[0].rows
    assert (len(row.disputes), row.refuted) == (1, refuted)
    index = build([tmp_path / "results"], tmp_path / "out").read_text()
    page = (tmp_path / "out" / "runs" / f"{runs[0].id}.html").read_text()
    assert ("1 refuted" in index, "1 repeated" in index) == (bool(refuted), not refuted)
    assert ("Refuted: the same run" in page, "Repeated: the same run" in page) == (bool(refuted), not refuted)
