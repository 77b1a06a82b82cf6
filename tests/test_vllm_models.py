"""Real vLLM on a model that it cannot run, and on a pretrained one: `make test-vllm`."""

import json
import os
from pathlib import Path

import pytest
import yaml

from harness import ranks, score
from harness.paths import asset
from tests.conftest import make_model
from tests.engines import harness, items

pytestmark = pytest.mark.vllm


def test_an_engine_that_does_not_start_is_one_line_and_auto_scores_with_hf(toy, tmp_path, monkeypatch):
    """Heads of 8 dimensions: transformers runs them, vLLM has no kernel for them."""
    model = make_model(tmp_path / "narrow")
    asked = ("--suite", toy, "--runs", tmp_path / "runs")
    refused = harness("score", model, *asked, "--scorer", "vllm")
    assert refused.returncode == 1
    line = refused.stderr.strip().splitlines()[-1]
    assert line.startswith("harness: scoring failed: vLLM did not start: ")
    assert "(--scorer hf scores without it)" in line
    monkeypatch.setattr(ranks, "gpu", lambda: True)
    said = []
    with score.Service("auto", say=said.append) as service:
        assert service.backend == "vllm"
        summary = service.score(model, str(toy), tmp_path / "work")
    assert summary["scorer"] == summary["backend"]["name"] == "hf"
    assert summary["backend"]["instead_of_vllm"].startswith("vLLM did not start: ")
    assert str(tmp_path) not in summary["backend"]["instead_of_vllm"]
    assert said == [summary["backend"]["instead_of_vllm"] + "; scoring with HF"]


@pytest.fixture(scope="session")
def five(tmp_path_factory):
    """Five of BBH's tasks, prompts and filters as they are."""
    folder = tmp_path_factory.mktemp("five")
    spec = yaml.safe_load((asset("suites") / "bbh.yaml").read_text())
    spec["data"] |= {"ids": str(asset("suites") / "bbh" / "ids.json"), "sha256": {}}
    names = ("boolean_expressions", "date_understanding", "navigate", "object_counting", "web_of_lies")
    spec |= {"name": "five", "tasks": {task: spec["tasks"][task] for task in names}}
    (folder / "five.yaml").write_text(yaml.safe_dump(spec))
    return folder / "five.yaml"


def test_a_pretrained_model_on_real_items(five, tmp_path):
    """SmolLM2-135M-Instruct on held-out BBH rows, from the mirror that HARNESS_TEST_HUB names."""
    mirror = Path(os.environ.get("HARNESS_TEST_HUB", "/nowhere"))
    model = mirror / "models" / "HuggingFaceTB" / "SmolLM2-135M-Instruct"
    if not model.is_dir() or not (mirror / "datasets" / "SaylorTwift" / "bbh").is_dir():
        pytest.skip("HARNESS_TEST_HUB names no mirror with SmolLM2-135M-Instruct and SaylorTwift/bbh")
    asked = ("score", model, "--suite", five, "--limit", 4, "--mirror", mirror, "--runs", tmp_path, "--json")
    found = {}
    for scorer in ("vllm", "hf"):
        done = harness(*asked, "--scorer", scorer)
        assert done.returncode == 0, done.stderr
        (found[scorer],) = json.loads(done.stdout)
    gate = found["vllm"]["backend_gate"]
    assert gate["items"] == gate["prompts_equal"] == 20
    assert gate["passed"]
    ours, theirs = items(found["vllm"]), items(found["hf"])
    assert sum(ours[key] == theirs[key] for key in ours) >= 0.95 * len(ours)
