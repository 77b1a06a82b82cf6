"""A matrix: what its file means, that it does only what is missing, that a cell is the run `harness run` would make."""

import functools
import io
import json
import signal
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from rich.console import Console

from harness import axes, executor, matrix, matrix_view, process, record, registry, study, study_view, submit, workers
from harness.compare import compare
from harness.errors import HarnessError
from harness.panel import Panel
from harness.request import Request, prepare
from harness.suite import load_suite
from tests.conftest import ROOT
from tests.matrices import STRATEGY, by_id, comparable, free, go, matrix_file, start, until
from tests.records import make_record, pocket_run, write_result, write_run, write_whole_run


@pytest.fixture
def write(toy, tiny, tmp_path):
    return functools.partial(matrix_file, tmp_path, toy, tiny)


def build(path, runs=Path("runs"), **given):
    return matrix.build(path, given, Request(runs=runs))


# --- the file


def test_axes_multiply_and_entries_have_their_own(write):
    entry = {"name": "msft", "options": {"C": [0.5, 2], "grid": 0.5}, "budgets": ["1x", 2], "seeds": 4}
    cells = build(write("proportional", entry, seeds="0-2,5")).cells
    plain = [(c.request.seed, c.request.budget) for c in cells if c.entry == "proportional"]
    assert plain == [(0, 1.0), (1, 1.0), (2, 1.0), (5, 1.0)]
    own = [(c.entry, c.request.budget, c.request.seed, c.request.options) for c in cells if c.entry != "proportional"]
    half, two = {"C": "0.5", "grid": "0.5"}, {"C": "2", "grid": "0.5"}
    name = "msft C={} grid=0.5".format
    assert own == [
        (name(0.5), 1.0, 4, half),
        (name(0.5), 2.0, 4, half),
        (name(2), 1.0, 4, two),
        (name(2), 2.0, 4, two),
    ]
    assert [c.request.seed for c in cells][:2] == [0, 4], "seed by seed, all strategies"


def test_options_of_the_command_take_the_place_of_keys_and_of_entries_keys(write):
    path = write("uniform", {"name": "msft", "seeds": "0-9", "budgets": "2x"}, seeds="0-4")
    cells = build(path, seeds="7", limit=4).cells
    assert [(c.entry, c.request.seed, c.request.budget) for c in cells] == [("uniform", 7, 1.0), ("msft", 7, 2.0)]
    assert {c.request.limit for c in cells} == {4}


def test_two_entries_that_are_the_same_run_are_one_cell(write):
    cells = build(write("msft", {"name": "msft", "options": {"C": [1.0, 3]}})).cells
    assert [c.entry for c in cells] == ["msft", "msft C=3"]


def test_the_grid_is_the_suites_and_marked():
    given = {"strategies": "proportional,uniform", "suites": "pocket", "lr": "grid", "limit": 4}
    cells = matrix.build(None, given, Request()).cells
    train = load_suite("pocket").train
    assert [c.request.lr for c in cells] == [*train.lr_grid] * 2
    assert all(c.tuning for c in cells)
    assert cells[0].entry == f"proportional lr={train.lr_grid[0]:g}"
    lora = matrix.build(None, given | {"mode": "lora"}, Request()).cells
    assert [c.request.lr for c in lora] == [*train.rates("lora")[1]] * 2


def test_a_path_is_looked_for_beside_the_file(write, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(STRATEGY.format(body="pass"))
    monkeypatch.chdir("/")
    (cell,) = build(write("mine.py")).cells
    assert cell.entry == "mine"


def test_ids_are_those_of_the_runs(write):
    path = write("uniform", {"name": "msft", "options": {"C": 3}, "budgets": "2x", "lr": 0.01}, mode="full,lora")
    cells = build(path, seeds="0-1").cells
    assert len(cells) == 8
    assert all(prepare(c.request).id == c.id for c in cells)
    assert all(prepare(c.request).identity == c.plan.identity for c in cells)


def test_a_strategy_that_does_not_apply_is_left_out_with_its_reason(write, tmp_path):
    source = STRATEGY.format(body="pass") + "\n    def skip(self, suite):\n        return 'one task is needed'\n"
    (tmp_path / "picky.py").write_text(source)
    found = build(write("uniform", "picky.py"))
    assert [c.entry for c in found.cells] == ["uniform"]
    assert found.skipped == ("picky does not apply to toy: one task is needed",)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"strategies": ["mstf"]}, "strategies[0]: unknown strategy 'mstf'; did you mean 'msft'?"),
        ({"strategies": ["uniform", {"nam": "msft"}]}, "strategies[1].nam: unknown key; did you mean 'name'?"),
        ({"strategies": [{"name": "msft", "options": {"c": 1}}]}, "strategies[0].options: unknown option of msft 'c'"),
        ({"strategies": [{"name": "msft", "options": {"C": [1, "x"]}}]}, "strategies[0].options: option C='x' of msft"),
        ({"strategies": [{"name": "msft", "options": 3}]}, "strategies[0].options: expected a mapping"),
        ({"strategies": [{"name": "msft", "seeds": "a"}]}, "strategies[0].seeds: expected seeds such as 3, 0-9"),
        ({"strategies": ["uniform+msft"]}, "strategies[0]: strategy 'msft' is not a lens"),
        ({"strategies": []}, "strategies: at least one"),
        ({"strategies": [3]}, "strategies[0]: expected a strategy's name"),
        ({"seed": 1}, "seed: unknown key; did you mean 'seeds'?"),
        ({"seeds": "3-1"}, "seeds: expected at least one seed"),
        ({"seeds": [-1]}, "seeds: expected seeds such as"),
        ({"budgets": "lots"}, "budgets: expected positive multiples, such as 0.5x, found 'lots'"),
        ({"budgets": 1e-6}, "one step of this suite needs"),
        ({"lr": "gird"}, "lr: expected positive numbers, or 'grid'"),
        ({"mode": "qlora"}, "mode: unknown mode 'qlora'; did you mean 'lora'?"),
        ({"limit": 1}, "limit: expected a whole number from 2"),
        ({"suites": ["poket"]}, "suites[0]: unknown suite 'poket'; did you mean 'pocket'?"),
        ({"models": ["qwen2"]}, "models[0]: unknown model 'qwen2'; did you mean 'qwen2.5'?"),
        ({"suites": {"a": 1}}, "suites: expected names"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(write, keys, message):
    with pytest.raises(HarnessError) as found:
        build(write(*keys.pop("strategies", ["uniform"]), **keys))
    assert str(found.value).startswith("matrix file study.yaml: ")
    assert message in str(found.value)
    assert found.value.exit_code == 2


def test_files_that_are_no_matrix(tmp_path):
    for text in ("[1, 2", "- a", "3", "\0"):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(HarnessError, match=r"matrix file x\.yaml: "):
            axes.read(tmp_path / "x.yaml")
    with pytest.raises(HarnessError, match="No such file"):
        axes.read(tmp_path / "none.yaml")


def test_the_study_of_msft_is_what_it_says():
    raw = axes.read(ROOT / "benchmarks" / "study_msft.yaml")
    drafts = axes.drafts(ROOT / "benchmarks" / "study_msft.yaml", {}, Request())
    assert raw["seeds"] == "0-9"
    assert len(drafts) == 170
    rates = {d.request.strategy: d.request.lr for d in drafts}
    slow = dict.fromkeys(("uniform", "continual_sft", "dynamix_sft"), 4e-4)
    assert rates == dict.fromkeys(("proportional", "sft", "sro", "soft_sro", "ies", "msft"), 8e-4) | slow
    assert {d.entry.removesuffix(" lr=0.0008") for d in drafts if d.request.budget == 2} == {
        "proportional",
        *(f"msft C={c}" for c in (0.5, 1)),
    }
    ends = axes.drafts(ROOT / "benchmarks" / "study_msft_ends.yaml", {}, Request())
    assert len(ends) == 40
    assert sum(d.request in [x.request for x in drafts] for d in ends) == 20
    assert {(d.entry.removesuffix(" lr=0.0008"), d.request.budget) for d in ends} == {
        *((f"msft C={c}", 2) for c in (0.5, 1)),
        *((f"msft C={c}", 5) for c in (2, 3)),
    }


def test_the_study_of_selectors_is_what_it_says():
    ten, updates, tuned = (
        axes.drafts(ROOT / "benchmarks" / f"{name}.yaml", {}, Request())
        for name in ("study_partitionsel", "study_partitionsel_updates", "tuning_partitionsel")
    )
    assert (len(ten), len(updates), len(tuned)) == (190, 70, 72)
    assert sum(d.request in [x.request for x in ten] for d in updates) == 20
    drafts = ten + updates
    # All choose a quarter of the same pool, and whoever asks for anchors sees as many.
    made = [
        (d.request.strategy, registry.resolve(d.request.strategy).build(d.request.options).hyperparameters)
        for d in drafts
    ]
    assert {(h["pool"], h["ratio"]) for name, h in made if name != "proportional"} == {(4, 0.25)}
    assert {h["anchors"] for name, h in made if name in ("partitionsel", "greats")} == {4}
    assert {d.request.lr for d in drafts} == {8e-4}
    options = {(d.request.strategy, tuple(d.request.options.items())) for d in tuned}
    assert {(d.request.strategy, tuple(d.request.options.items())) for d in drafts} - options == {
        (d.request.strategy, tuple(d.request.options.items())) for d in drafts if "eta_select" in d.request.options
    }


def test_wrong_requests_are_one_line_and_exit_2(write, tmp_path):
    path = write("uniform", sedes=1)
    for args, message in [
        ((path,), "matrix file study.yaml: sedes: unknown key; did you mean 'seeds'?"),
        ((), "matrix: give FILE.yaml, or --strategies"),
        (("--strategies", "uniform", "--cpus", "2"), "--cpus 2: only with --executor ray"),
        (("--strategies", "uniform", "--limit", "4"), "matrix: 1 runs would start; --yes starts them"),
    ]:
        done = go(tmp_path, "matrix", *args)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1].startswith("harness: ")
        assert message in done.stderr.splitlines()[-1]
    assert not list(tmp_path.glob("runs/*"))


# --- the runs


def test_only_what_is_missing_is_run_and_a_cell_is_what_harness_run_makes(write, toy, tiny, tmp_path):
    path = write("uniform", {"name": "msft", "options": {"C": 0.5}})
    base = ("--suite", toy, "--model", tiny, "--runs", "alone")
    alone = go(tmp_path, "run", "--strategy", "msft", "-o", "C=0.5", "--seed", 1, *base)
    first = go(tmp_path, "matrix", path, "--yes")
    assert first.returncode == 0, first.stderr
    assert "2 runs: 2 to start" in first.stderr
    made = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/record.json")}
    wider = go(tmp_path, "matrix", path, "--yes", "--seeds", "0-1", "--jobs", "2", "--json")
    assert wider.returncode == 0, wider.stderr
    assert "4 runs: 2 done, 2 to start" in wider.stderr
    assert {p: p.stat().st_mtime_ns for p in made} == made
    found = json.loads(wider.stdout)
    assert [(c["entry"], c["seed"], c["state"]) for c in found["cells"]] == [
        ("uniform", 0, "done"),
        ("msft C=0.5", 0, "done"),
        ("uniform", 1, "done"),
        ("msft C=0.5", 1, "done"),
    ]
    ran = by_id(tmp_path / "runs")
    record_path = Path(alone.stdout.splitlines()[-1])
    assert comparable(tmp_path / record_path) == ran[record_path.parent.name]
    again = go(tmp_path, "matrix", path, "--seeds", "0-1")
    assert again.returncode == 0, "nothing to do needs no --yes"
    assert "uniform" in again.stdout


def test_submitted_records_are_done_and_make_the_table(write, tmp_path):
    """As in a clone of the repository, which has results/ and no runs/."""
    path, results = write("uniform", seeds="0-2"), tmp_path / "results"
    first, second, third = matrix.build(path, {}, Request(runs=tmp_path / "runs"), results).cells
    assert (first.state, first.record) == ("missing", None)
    for cell, skill in ((first, 0.25), (second, 0.75)):
        made = make_record("uniform", cell.request.seed, {"a": skill})
        write_result(made.model_copy(update={"id": cell.id, "identity": cell.plan.identity}), results)
    assert [c.state for c in (first, second, third)] == ["done", "done", "missing"]
    assert first.record == submit.submitted(first.plan.identity, first.id, results)
    found = matrix.outlook((first, second, third), 1)
    assert (found["done"], found["submitted"], found["missing"]) == (2, 2, 1)
    (row,) = study.rows((first, second, third))
    assert (row.asked, len(row.records), row.score.value) == (3, 2, pytest.approx(0.5))
    assert submit.submitted(first.plan.identity, "f" * 16, results) is None, "another run's file"
    assert build(path, tmp_path / "runs").cells[0].state == "missing", "not asked for"


def test_failures_take_no_other_cell_along_and_a_killed_one_goes_on(write, tmp_path):
    flag = tmp_path / "flag"
    dies = f"Path({str(flag)!r}).exists() or (Path({str(flag)!r}).touch(), os.kill(os.getpid(), 9))"
    (tmp_path / "dies.py").write_text(STRATEGY.format(body=dies))
    (tmp_path / "broken.py").write_text(STRATEGY.format(body="1 / 0"))
    path = write("dies.py", "broken.py", "uniform")
    done = go(tmp_path, "matrix", path, "--yes")
    assert done.returncode == 1
    failed = [line for line in done.stderr.splitlines() if line.startswith("harness: failed: ")]
    assert len(failed) == 2
    assert "dies on toy x tiny, 1x, seed 0" in failed[0]
    assert "killed by SIGKILL; the same command goes on from its last snapshot" in failed[0]
    assert "ZeroDivisionError: division by zero" in failed[1]
    assert "2 of 3 runs failed" in done.stderr.splitlines()[-1]
    states = {c.entry: (c.state, matrix.reason(c)) for c in build(path, tmp_path / "runs").cells}
    assert states["dies"] == ("interrupted", None)
    assert states["broken"][0] == "failed"
    assert "ZeroDivisionError" in states["broken"][1]
    assert states["uniform"] == ("done", None)
    again = go(tmp_path, "matrix", path, "--yes")
    assert again.returncode == 1
    assert "3 runs: 1 done, 1 to go on, 1 to try again" in again.stderr
    go(tmp_path, "run", "--strategy", "dies.py", *_toy(path), "--runs", "alone")
    (alone,) = by_id(tmp_path / "alone").values()
    assert by_id(tmp_path / "runs")[alone["id"]] == alone


def _toy(path):
    spec = yaml.safe_load(path.read_text())
    return "--suite", spec["suites"][0], "--model", spec["models"][0]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_the_end_of_the_matrix_is_the_end_of_its_cells_and_it_goes_on(number, write, tmp_path):
    flag = tmp_path / "flag"
    waits = f"Path({str(flag)!r}).exists() or time.sleep(600)"
    (tmp_path / "waits.py").write_text(STRATEGY.format(body=waits))
    path = write("waits.py", seeds="0-2")
    process = start(tmp_path, "matrix", path, "--yes", "--jobs", "2")
    waiting = until(lambda: [p for p in tmp_path.glob("runs/*/journal.jsonl") if p.stat().st_size], 2)
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    assert process.returncode == (-9 if number == signal.SIGKILL else 1)
    if number == signal.SIGINT:
        assert err.splitlines()[-1] == "harness: interrupted; run the same command to go on"
        assert "Traceback" not in err
    for journal in waiting:
        with (journal.parent / "lock").open("w") as lock:
            until(lambda lock=lock: [True] if free(lock) else [], 1)
    flag.touch()
    done = go(tmp_path, "matrix", path, "--yes", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "3 runs: 2 to go on, 1 to start" in done.stderr
    go(tmp_path, "matrix", path, "--yes", "--runs", "calm")
    assert by_id(tmp_path / "runs") == by_id(tmp_path / "calm")


def test_what_changed_after_the_plan_is_not_run(write, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(STRATEGY.format(body="pass"))
    (cell,) = build(write("mine.py"), tmp_path / "runs").cells
    (tmp_path / "mine.py").write_text(STRATEGY.format(body="lab.log('other', 1)"))
    monkeypatch.setattr(process.os, "setsid", lambda: None)
    monkeypatch.setattr(process, "_redirect", lambda log: None)
    sent = []
    process.work(process.Job(cell.request, cell.id), SimpleNamespace(send=sent.append))
    assert [kind for kind, _ in sent] == ["failed"]
    assert "changed after the matrix was planned" in sent[0][1]
    assert not cell.plan.folder.exists()


@pytest.mark.slow
def test_with_real_scoring_two_jobs_make_the_records_of_two_runs(write, tmp_path):
    path = write("uniform", seeds="0-1")
    done = go(tmp_path, "matrix", path, "--yes", "--jobs", "2", module="harness")
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        alone = go(
            tmp_path,
            *("run", "--strategy", "uniform", "--seed", seed, "--runs", "alone", *_toy(path)),
            module="harness",
        )
        assert alone.returncode == 0
    assert by_id(tmp_path / "runs") == by_id(tmp_path / "alone")


def test_gpus_are_dealt_out_where_several_are_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert [workers._device(slot) for slot in range(4)] == ["4", "6", "7", "4"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert workers._device(3) is None


# --- what is seen


@dataclass(frozen=True)
class Cell:
    """A cell as tables need it, over a record made without a run."""

    entry: str
    made: record.Record
    record: Path | None
    tuning: bool = False
    state: str = "missing"

    @property
    def id(self):
        return self.made.id

    @property
    def plan(self):
        return SimpleNamespace(identity=self.made.identity)

    @property
    def request(self):
        return SimpleNamespace(seed=self.made.identity.seed, options=self.made.identity.passed)

    row = matrix.Cell.row
    __str__ = matrix.Cell.__str__


def cells_of(runs, entry, values, **facts):
    """Cells of one row; a value a seed, None for a run that is missing."""
    made = [make_record(entry.split()[0], k, {"addition": v or 0.0, "reverse": v or 0.0}, **facts) for k, v in values]
    return [
        Cell(entry, r, write_run(r, runs) if v is not None else None, facts.get("lr") is not None)
        for r, (_, v) in zip(made, values, strict=True)
    ]


def test_the_tables_numbers_by_hand(tmp_path):
    phases = {"train": 600_000, "discarded": 200_000, "validate": 200_000}
    cells = cells_of(tmp_path, "proportional", [(0, 0.50), (1, 0.60), (2, 0.70)])
    cells += cells_of(tmp_path, "msft C=2", [(0, 0.62), (1, 0.70), (2, None)], passed={"C": "2"}, phases=phases)
    cells += cells_of(tmp_path, "msft C=2", [(0, 0.9)], passed={"C": "2"}, multiple=2.0)
    plain, half, twice = study.rows(cells)
    # mean 0.6, sd 0.1, t(2, 0.975) = 4.302653
    assert plain.score.value == pytest.approx(0.6)
    assert plain.score.half_width == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-6)
    assert plain.difference is None
    # paired on seeds 0 and 1: +0.12, +0.10; mean 0.11, sd 0.0141421, t(1, 0.975) = 12.706205
    assert half.difference.value == pytest.approx(0.11)
    assert half.difference.half_width == pytest.approx(12.706205 * 0.0141421356 / 2**0.5, rel=1e-6)
    assert (half.billed, half.discarded, len(half.records), half.asked) == (1_000_000, 0.2, 2, 3)
    assert twice.difference is None, "there is no proportional at 2x"
    assert study_view.shown([plain, half, twice])[1] == [
        ["proportional", "1x", "60.0 ± 24.8", "", "1.00e6", "0%", "3"],
        ["msft C=2", "1x", "66.0 ± 50.8", "+11.0 [−1.7, +23.7]", "1.00e6", "20%", "2 of 3"],
        ["msft C=2", "2x", "90.0", "", "2.00e6", "0%", "1"],
    ]


def test_differences_to_another_row(tmp_path):
    cells = cells_of(tmp_path, "proportional", [(0, 0.50), (1, 0.60), (2, 0.70)])
    cells += cells_of(tmp_path, "sft lr=0.0008", [(0, 0.52), (1, 0.60), (2, 0.71)])
    cells += cells_of(tmp_path, "msft C=2 lr=0.0008", [(0, 0.62), (1, 0.70), (2, None)], passed={"C": "2"})
    cells += cells_of(tmp_path, "msft C=2 lr=0.0008", [(0, 0.9)], passed={"C": "2"}, multiple=2.0)
    for name in ("sft", "sft lr=0.0008"):
        plain, sft, msft, twice = study.rows(cells, name)
        assert (sft.difference, twice.difference) == (None, None)
        assert plain.difference.value == pytest.approx(-0.01)
        # paired on seeds 0 and 1: +0.10, +0.10
        assert (msft.difference.value, msft.difference.n) == (pytest.approx(0.1), 2)
    assert study_view.shown([plain, sft])[0][3] == "vs sft lr=0.0008"
    assert any(note.startswith("vs sft lr=0.0008: points") for note in study_view.notes([plain]))
    assert study.as_dict(msft)["against"] == "sft lr=0.0008"
    assert [row.difference.value for row in study.rows(cells, "msft C=2")[:2]] == pytest.approx([-0.11, -0.10])
    study.check_against(cells, "sft")
    study.check_against(cells[3:], "proportional")
    with pytest.raises(HarnessError, match=r"unknown row 'sft lr=8'; did you mean 'sft lr=0\.0008'"):
        study.check_against(cells, "sft lr=8")


def test_differences_to_a_row_at_another_budget(tmp_path):
    cells = cells_of(tmp_path, "proportional", [(0, 0.50), (1, 0.60), (2, 0.70)])
    cells += cells_of(tmp_path, "proportional", [(0, 0.55), (1, 0.66), (2, 0.74)], multiple=2.0)
    cells += cells_of(tmp_path, "msft", [(0, 0.40), (1, 0.50)], multiple=2.0)
    plain, twice, msft = study.rows(cells, "proportional@1x")
    assert plain.difference is None
    assert (twice.difference.value, twice.difference.n) == (pytest.approx(0.05), 3)
    assert (msft.difference.value, msft.difference.n) == (pytest.approx(-0.1), 2)
    assert study_view.shown([plain])[0][3] == "vs proportional@1x"
    plain, twice, msft = study.rows(cells, "proportional@2")
    assert twice.difference is None
    assert plain.difference.value == pytest.approx(-0.05)
    study.check_against(cells, "proportional@2x")
    with pytest.raises(HarnessError, match=r"unknown row 'proportional@3x'; did you mean 'proportional@2x'"):
        study.check_against(cells, "proportional@3x")
    with pytest.raises(HarnessError, match="unknown row 'proportional@all'"):
        study.check_against(cells, "proportional@all")


def test_items_count_in_differences_across_budgets(tmp_path):
    """As many as with the same rows at one budget: what is compared are answers, not budgets."""
    found = []
    for multiple in (1.0, 2.0):
        runs = tmp_path / f"{multiple:g}"
        cells = []
        for entry, luck, at in (("proportional", 0.5, 1.0), ("msft", 0.8, multiple)):
            for seed in range(3):
                made, items = pocket_run(entry, seed, luck)
                spec = made.identity.budget.model_copy(update={"multiple": at})
                made = made.model_copy(
                    update={"id": f"{entry}-{seed}", "identity": made.identity.model_copy(update={"budget": spec})}
                )
                cells.append(Cell(entry, made, write_whole_run(made, items, runs) / "record.json", False))
        found.append(study.rows(cells, "proportional@1x")[-1].difference)
    assert found[0] == found[1]
    assert found[0].low is not None


def test_a_row_without_records_and_the_forms(tmp_path):
    cells = cells_of(tmp_path, "proportional", [(0, 0.5)]) + cells_of(tmp_path, "a|b", [(0, None)])
    rows = study.rows(cells)
    assert "| a\\|b | 1x |  |  |  |  | 0 of 1 |" in study_view.markdown(rows)
    header, first, second = study_view.as_csv(rows).splitlines()
    values = dict(zip(header.split(","), first.split(","), strict=True))
    assert (values["score"], values["score_low"], values["billed_flops"]) == ("0.5", "", "1000000.0")
    assert second.startswith("a|b,pocket,pocket,full,1.0,0,1,,,,")


def test_rows_that_took_mixtures_over_show_the_price_at_first_use(tmp_path):
    reused = {"id": 16 * "a", "flops": 250_000, "seed": 0}
    cells = cells_of(tmp_path, "proportional", [(0, 0.5)])
    cells += cells_of(tmp_path, "taskpgm mixture=runs", [(0, 0.6)], passed={"mixture": 16 * "a"}, reused=reused)
    plain, taken = study.rows(cells)
    assert (plain.first_use, taken.billed, taken.first_use) == (1_000_000, 1_000_000, 1_250_000)
    assert study.as_dict(taken)["first_use_flops"] == 1_250_000
    (said,) = (note for note in study_view.notes([plain, taken]) if "amortised" in note)
    assert said == "taskpgm mixture=runs: amortised; 1.25e6 FLOPs at first use, with the learning of its mixtures"


def test_the_learning_rate_is_chosen_on_validation_and_marked(tmp_path):
    def look(r, match, loss):
        last = [record.CurvePoint(billed_flops=9, task=t, loss=loss, exact_match=match) for t in r.scores]
        return r.model_copy(update={"curves": [*r.curves, *last]})

    rates = {1e-4: [0.3, 0.5], 2e-4: [0.4, 0.4], 5e-4: [0.9, 0.1]}  # equal but for rounding: 0.4, 0.4, 0.5
    records = [look(make_record(seed=k, lr=lr), m, 1.0) for lr, ms in rates.items() for k, m in enumerate(ms)]
    assert study.choose_lr(records) == 5e-4
    flat = [look(make_record(lr=lr), 0.0, loss) for lr, loss in [(1e-4, 2.0), (2e-4, 1.5), (5e-4, 1.5)]]
    assert study.choose_lr(flat) == 2e-4, "equal matches: the lower loss, then the smaller rate"
    cells = []
    for lr, ms in rates.items():
        made = [look(make_record(seed=k, lr=lr), m, 1.0) for k, m in enumerate(ms)]
        cells += [Cell(f"proportional lr={lr:g}", r, write_run(r, tmp_path), True) for r in made]
    found = study.rows(cells)
    assert [row.chosen for row in found] == [row.edge for row in found] == [False, False, True]
    assert (
        "at the edge of their grid, so that a better rate may lie beyond it: proportional lr=0.0005"
        in study_view.notes(found)
    )
    beyond = [look(make_record(seed=k, lr=1e-3), 0.2, 1.0) for k in (0, 1)]
    wider = [*cells, *(Cell("proportional lr=0.001", r, write_run(r, tmp_path), True) for r in beyond)]
    assert [(row.chosen, row.edge) for row in study.rows(wider)] == [(k == 2, False) for k in range(4)]
    alone = study.rows([c for c in cells if c.made.identity.lr == 5e-4])
    assert [(row.chosen, row.edge) for row in alone] == [(True, False)]
    half = [c if c.made.identity.seed == 0 else Cell(c.entry, c.made, None, True) for c in cells]
    assert not any(row.chosen for row in study.rows(half)), "an incomplete grid chooses nothing"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (60, 12)])
def test_the_board_fits_its_terminal(tmp_path, width, height):
    cells = [c for k in range(20) for c in cells_of(tmp_path, f"strategy_{k} C=0.5", [(s, None) for s in range(10)])]
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, height=height, color_system=None)
    board = matrix_view.Board(cells, console)
    board.started(cells[0])
    board.reported(cells[0], executor.Report(0.25, 1.5, 1234.0))
    board.started(cells[10])
    board.ended(cells[10], "why not")
    console.print(board.render())
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) < height
    text = out.getvalue()
    assert "▶·········" in text
    assert "x·········" in text
    assert "25%  loss 1.500" in text or width < 80
    assert "0 of 200 done, 1 failed" in text


GREATS = "greats pool=4 ratio=0.25 normalize=true anchors=4"
ENTRIES = ["proportional lr=0.0008", *(f"{GREATS}{x} lr=0.0008" for x in ("", " per_task=true", " eta_select=1.0"))]


def test_80_columns_tell_entries_apart_that_differ_in_their_last_option(tmp_path, monkeypatch, capsys):
    cells = [c for entry in ENTRIES for c in cells_of(tmp_path, entry, [(0, None), (1, None)], passed={"x": entry})]
    out = io.StringIO()
    board = matrix_view.Board(cells, Console(file=out, width=80, height=40, force_terminal=True, color_system=None))
    for cell in cells:
        board.started(cell)
        board.reported(cell, executor.Report(0.25, 1.5, 1234.0))
    board.console.print(board.render())
    names = ["proportional", "greats", "greats per_task=true", "greats eta_select=1.0"]
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert [line.removesuffix(" 1x ▶▶") for line in lines if line.endswith("▶▶")] == names
    running = [line.partition(" tok/s")[0] for line in lines if line.startswith("▶ ")]
    figures = "25% loss 1.500 1,234"
    assert running == [f"▶ {name} 1x seed {seed} {figures}" for name in names for seed in (0, 1)]
    monkeypatch.setenv("COLUMNS", "80")
    study_view.text(study.rows(cells))
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    column = shown[: shown.index("score: ")].splitlines()
    folded = "".join(line[: column[0].index("budget")] for line in column).replace(" ", "")
    assert all(entry.replace(" ", "") in folded for entry in ENTRIES), "folded, but whole"


@pytest.mark.parametrize(
    ("entries", "shown"),
    [
        (["a x=1", "b x=1"], ["a", "b"]),
        (["a x=1 y=2", "a x=1 y=3", "a x=1"], ["a y=2", "a y=3", "a"]),
        (["a", "a+b", "a x=1"], ["a", "a+b", "a x=1"]),
        (["a x=[1, 2]", "a x=[1, 2] 2]"], ["a x=[1, 2]", "a x=[1, 2] 2]"]),
    ],
)
def test_what_all_entries_of_a_strategy_have_is_left_out_where_they_stay_apart(entries, shown):
    assert list(matrix_view.short(entries).values()) == shown


def test_without_a_terminal_there_are_plain_lines(tmp_path):
    (cell,) = cells_of(tmp_path, "uniform", [(3, None)])
    out = io.StringIO()
    with matrix_view.Board([cell], Console(file=out, width=200)) as board:
        board.started(cell)
        board.ended(cell, None)
    assert out.getvalue().splitlines() == [
        f"harness: uniform on pocket x pocket, 1x, seed 3: started ({cell.id})",
        "harness: uniform on pocket x pocket, 1x, seed 3: done, 0 s; 1 of 1 done",
    ]


def test_rows_whose_items_are_there_are_compared_by_them(tmp_path):
    runs = {(name, seed): pocket_run(name, seed) for name in ("proportional", "uniform") for seed in (0, 1, 2)}
    cells = [
        Cell(name, made, write_whole_run(made, found, tmp_path) / "record.json")
        for (name, _), (made, found) in runs.items()
    ]
    answers = {
        name: {
            s: [[x["correct"]["exact"] for x in rows] for _, rows in sorted(runs[name, s][1].rows.items())]
            for s in range(3)
        }
        for name in ("proportional", "uniform")
    }
    want = compare(Panel.of(answers), "proportional").differences["uniform"].estimate
    plain, other = study.rows(cells)
    assert other.difference == want
    assert plain.difference is None
    assert plain.score.value == pytest.approx(np.mean([r.macro for r in plain.records]))
