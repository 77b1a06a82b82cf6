"""The rates that the studies' files name are those that the submitted tuning runs choose on validation (rule 6)."""

from pathlib import Path

import pytest

from harness import axes
from harness.matrix import build
from harness.request import Request
from harness.study import rows

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = BENCHMARKS.parent / "results"
TUNING = ("tuning_msft", "tuning_cadft", "tuning_partitionsel", "tuning_taskpgm", "tuning_pocket")
# Entries of a study that have the rate of another, as their pages say: C and eta_select are ablations.
SAME = {"C": "msft", "eta_select": "greats"}
DEFAULT = ("affinity", "pmi")  # said in some files


def entry(strategy, options):
    """What one grid is for; the mixture that a run takes over was learned at the rate of the run."""
    kept = {k: v for k, v in options.items() if k not in (*SAME, "mixture") and (k, v) != DEFAULT}
    return strategy, tuple(sorted(kept.items()))


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    """The rate of each entry whose grid is whole among the submitted records."""
    found = {}
    request = Request(runs=tmp_path_factory.mktemp("runs"))
    for name in TUNING:
        cells = build(BENCHMARKS / f"{name}.yaml", {}, request, RESULTS).cells
        of = {cell.entry: cell.plan.request for cell in cells}
        for row in rows(cells):
            if row.chosen:
                found[entry(of[row.entry].strategy, of[row.entry].options)] = of[row.entry].lr
    return found


@pytest.mark.parametrize(
    "name",
    [
        "pocket",
        "pocket_seeds",
        "study_msft",
        "study_cadft",
        "study_partitionsel",
        "study_partitionsel_updates",
        "study_taskpgm",
        "study_taskpgm_amortised",
    ],
)
def test_a_study_has_the_rates_that_its_tuning_chose(name, chosen):
    drafts = axes.drafts(
        BENCHMARKS / f"{name}.yaml", {"suites": "pocket"}, Request()
    )  # variants have to be written first
    tuned = [d for d in drafts if entry(d.request.strategy, d.request.options) in chosen]
    wrong = {(d.entry, chosen[entry(d.request.strategy, d.request.options)]) for d in tuned} - {
        (d.entry, d.request.lr) for d in tuned
    }
    assert wrong == set()
    assert len(tuned) == len(drafts)
