"""The study of learned mixtures: its files are what they say, and its predictions are what the algebra gives."""

import numpy as np
import pytest

from benchmarks import taskpgm_algebra as algebra
from benchmarks import variants
from harness import axes
from harness.request import Request
from strategies import _numerics as numerics
from tests.conftest import ROOT
from tests.records import make_record, write_run

FILE, AMORTISED, TUNING = (
    ROOT / "benchmarks" / f"{name}.yaml" for name in ("study_taskpgm", "study_taskpgm_amortised", "tuning_taskpgm")
)


def test_the_page_holds_what_the_script_prints():
    page = (ROOT / "docs" / "studies" / "taskpgm.md").read_text()
    for kind in ("pmi", "jsd"):
        assert algebra.table(algebra.planted(kind), (0, 1), 8) in page


@pytest.mark.parametrize("kind", ["pmi", "jsd"])
def test_no_r_takes_from_both_the_twins_and_the_noise(kind):
    """By search over the simplex's own minimum at many r, and by the line on which the interior ones lie."""
    S = numerics.definite(algebra.planted(kind), 1e-3)
    w = np.linalg.solve(S, np.ones(9))
    w /= w.sum()
    for r in np.concatenate([np.linspace(0, 3, 61), [4.5, 9, 20, 160]]):
        p = algebra.TASKPGM(r=float(r)).weights(algebra.planted(kind))[0]
        twin, noise = p[0] - 1 / 9, p[8] - 1 / 9
        assert p[0] == pytest.approx(p[1], abs=1e-6)
        assert twin * noise <= 1e-12
        assert np.sign(round(twin, 6)) == np.sign(round(r - 1, 6)) == -np.sign(round(noise, 6))
        line = r / 9 - (r - 1) * w
        if line.min() > 0:
            assert p == pytest.approx(line, abs=1e-9)


def test_the_files_multiply_out_to_the_runs_they_announce(tmp_path):
    first, tuning = axes.drafts(FILE, {}, Request()), axes.drafts(TUNING, {}, Request())
    assert (len(first), len(tuning)) == (110, 66)
    assert {d.entry.split(" lr=")[0] for d in tuning} == {d.entry for d in first}
    assert {d.request.seed for d in first}.isdisjoint({d.request.seed for d in tuning})
    again = axes.drafts(AMORTISED, {}, Request())
    assert len(again) == 80
    taken = [d for d in again if "mixture" in d.request.options]
    assert len(taken) == 60
    for d in taken:  # each is a run of the first study, but for its mixture
        options = {k: v for k, v in d.request.options.items() if k != "mixture"}
        asked = (d.request.strategy, options, d.request.seed, d.request.lr, d.request.budget)
        assert asked in [(x.request.strategy, x.request.options, x.request.seed, x.request.lr, 1.0) for x in first]
        assert d.request.options["mixture"] == "runs"
    twin = axes.drafts(FILE, {"suites": str(variants.write("twin", tmp_path))}, Request())
    assert len(twin) == 110


def test_measured_affinities_are_found_by_name(tmp_path):
    tasks = sorted([*algebra.TWINS, algebra.NOISE, "addition"])
    paths = []
    for seed in range(2):
        made = make_record("taskpgm", seed)
        S = (-np.ones((4, 4)) + np.eye(4)) * (1 + seed)
        made.events.append(
            {"billed_flops": 1, "verb": "log", "note": "affinity", "data": {"tasks": tasks, "S": S.tolist()}}
        )
        made = type(made).model_validate(made.model_dump(warnings=False))
        paths.append(write_run(made, tmp_path))
    S, twins, noise = algebra.measured(paths)
    assert np.allclose(S, 1.5 * (np.eye(4) - 1))
    assert ([tasks[i] for i in twins], tasks[noise]) == (list(algebra.TWINS), algebra.NOISE)
    assert algebra.row(np.array([0.1, 0.2, 0.3, 0.4]), twins, noise) == pytest.approx((0.35, 0.2, 0.1, 0.4))
