"""Real vLLM on the published suites: their tasks, prompts, filters and metrics, scored for the embedded model.

Rows are those of `tests.mirrors`. Only lengths are smaller than the suites', and of BBH's 27 tasks three are enough here.
"""

import shutil

import pytest
import yaml

from harness import score
from harness.paths import asset
from harness.suite import load_suite
from tests.mirrors import build
from tests.test_bbh import like
from tests.test_suites import PUBLISHED, mmlu

pytestmark = pytest.mark.vllm
LIMIT = 2  # rows a task
LENGTH, ANSWER = 440, 24


@pytest.fixture(scope="module")
def shorter(tmp_path_factory):
    """Files of the suites with shorter prompts and answers, beside the scorers that they name."""
    folder = tmp_path_factory.mktemp("suites")
    shutil.copytree(asset("suites") / "scorers", folder / "scorers")
    for name in PUBLISHED:
        raw = yaml.safe_load((asset("suites") / f"{name}.yaml").read_text())
        raw["train"]["max_length"] = LENGTH
        raw["scoring"]["max_new_tokens"] = ANSWER
        for task in (*raw["tasks"].values(), *raw["scoring"].get("tasks", {}).values()):
            task.pop("max_new_tokens", None)
            task |= {"each": task["each"][::9]} if "each" in task else {}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(raw, sort_keys=False))
    return folder


def test_one_engine_scores_every_published_suite(shorter, tmp_path):
    """One engine for five suites: what each asks, and what is said of the answers, is the suite's own."""
    mirror = build(tmp_path / "hub", like(), mmlu())
    model, found = asset("suites") / "pocket" / "model", {}
    with score.Service("vllm") as service:
        for name in PUBLISHED:
            file, work = str(shorter / f"{name}.yaml"), tmp_path / name
            found[name] = service.score(model, file, work, mirror=mirror, limit=LIMIT)
    assert [s["engine"]["reused"] for s in found.values()] == [False, True, True, True, True]
    for name, summary in found.items():
        suite, scores = load_suite(str(shorter / f"{name}.yaml")), summary["scores"]
        assert list(scores) == sorted(suite.scored)
        assert all(row["metric"] == suite.scored[task].metric for task, row in scores.items())
        assert all(suite.scored[task].filter in row["filters"] for task, row in scores.items())
        n = {task: row["n"] for task, row in scores.items()}
        assert n == dict.fromkeys(scores, LIMIT)
        gate, parity = summary["backend_gate"], summary["parity"]
        assert gate["items"] == gate["prompts_equal"] == min(64, LIMIT * len(scores))
        assert gate["passed"], (name, gate["why"])
        assert gate["same_verdict"] >= 0.95
        assert parity["passed"], (name, parity["why"])
        assert parity["prompts_equal"] == parity["items"] == LIMIT * len(scores)
        assert set(summary["overlap"]) == set(scores)
    molecules = found["mol-instructions"]["scores"].values()
    assert all({"bleu", "validity", "coverage"} <= set(row["metrics"]) for row in molecules)
