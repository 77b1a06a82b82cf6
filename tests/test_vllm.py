"""Scoring by the real vLLM engine, through the command line: `make test-vllm`, which sets HARNESS_VLLM_PYTHON.

Three checkpoints of the embedded model, in one of which the tied embeddings alone differ; one task's answers are cut.
"""

import json
import subprocess
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from harness import record, score
from harness.paths import asset
from tests.engines import harness, items

pytestmark = pytest.mark.vllm
LIMIT = 12
CUT = 3  # tokens of an answer to `reverse`


@pytest.fixture(scope="session")
def suite(tmp_path_factory):
    """Four of pocket's tasks, with `reverse` cut."""
    spec = yaml.safe_load((asset("suites") / "pocket.yaml").read_text())
    tasks = {"last": {}, "larger": {}, "lookup": {}, "reverse": {"max_new_tokens": CUT}}
    folder = tmp_path_factory.mktemp("suite")
    for split in ("train", "validation", "test"):
        lines = (asset("suites") / "pocket" / "data" / f"{split}.jsonl").read_text().splitlines()
        kept = [line for line in lines if json.loads(line)["task"] in tasks]
        (folder / f"{split}.jsonl").write_text("\n".join(kept) + "\n")
    spec |= {"name": "four", "tasks": tasks, "data": {"files": "{split}.jsonl"}}
    (folder / "four.yaml").write_text(yaml.safe_dump(spec))
    return folder / "four.yaml"


@pytest.fixture(scope="session")
def ran(suite, tmp_path_factory):
    """A run that vLLM scores: (its record, its folder)."""
    runs = tmp_path_factory.mktemp("runs")
    done = harness("run", "--suite", suite, "--scorer", "vllm", "--limit", 40, "--runs", runs)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip().splitlines()[-1])
    assert "scored by vllm" in done.stdout
    return record.read(path), path.parent


@pytest.fixture(scope="session")
def checkpoints(ran, tmp_path_factory):
    """The trained model; it with other embeddings; it with other matrices."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("checkpoints")
    made = []
    for name, moved in {"trained": None, "words": "embed", "matrices": "proj.weight"}.items():
        made.append(folder / name)
        subprocess.run(["cp", "-r", ran[1] / "final", made[-1]], check=True)
        tensors = load_file(made[-1] / "model.safetensors")
        generator = torch.Generator().manual_seed(0)
        for key in sorted(tensors):
            if moved and moved in key:
                noise = torch.randn(tensors[key].shape, generator=generator)
                tensors[key] += 0.3 * tensors[key].std() * noise
        save_file(tensors, made[-1] / "model.safetensors", metadata={"format": "pt"})
    return made


def scored(checkpoints, suite, runs, scorer, **env):
    asked = ("--suite", suite, "--limit", LIMIT, "--scorer", scorer, "--runs", runs, "--json")
    done = harness("score", *checkpoints, *asked, **env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def both(checkpoints, suite, tmp_path_factory):
    runs = tmp_path_factory.mktemp("scores")
    return {scorer: scored(checkpoints, suite, runs, scorer) for scorer in ("vllm", "hf")}


def test_a_run_is_scored_by_vllm_and_its_record_says_so(ran):
    found, folder = ran
    reports = found.reports
    assert reports.scorer == reports.backend["name"] == "vllm"
    assert {"vllm", "torch", "transformers", "lm_eval"} <= set(reports.backend["packages"])
    assert reports.backend["settings"]["enable_prefix_caching"] is True
    gate = reports.backend_gate
    assert gate["items"] == gate["prompts_equal"] == 64
    assert gate["agreement"] >= 0.95
    assert gate["passed"]
    assert gate["base"]["passed"]
    assert gate["why"] is gate["base"]["why"] is None
    assert set(reports.base_scores) == set(found.scores) == {"last", "larger", "lookup", "reverse"}
    assert found.macro > found.macro_base  # it has learned something: agreement is not that of two silent models
    text = (folder / "record.json").read_text()
    assert "/tmp" not in text
    assert str(Path.home()) not in text


def test_both_backends_give_the_same_answers_for_every_checkpoint(both):
    """Also where embeddings and output head are one tensor, of which an engine may keep a copy."""
    answers = {scorer: [items(s) for s in found] for scorer, found in both.items()}
    for ours, theirs in zip(answers["vllm"], answers["hf"], strict=True):
        assert len(ours) == len(theirs) == 4 * LIMIT
        assert sum(ours[key] == theirs[key] for key in ours) >= 0.95 * len(ours)
    first, *others = answers["vllm"]
    assert all(sum(first[key] != other[key] for key in first) > 0.3 * len(first) for other in others)


def test_one_engine_serves_three_checkpoints(both):
    engines = [summary["engine"] for summary in both["vllm"]]
    assert [e["reused"] for e in engines] == [False, True, True]
    assert len({e["start_seconds"] for e in engines}) == 1
    assert all(s["backend_gate"]["passed"] for s in both["vllm"])
    assert all(s["backend_gate"] is None and s["scorer"] == "hf" for s in both["hf"])


def test_an_answer_longer_than_the_limit_is_cut_and_counted(both):
    for ours, theirs in zip(both["vllm"], both["hf"], strict=True):
        cut = {task: row["truncated"] for task, row in ours["scores"].items()}
        assert cut == {task: row["truncated"] for task, row in theirs["scores"].items()}
    tokenizer = AutoTokenizer.from_pretrained(asset("suites") / "pocket" / "model")
    for summary in both["vllm"]:
        long = {key: len(tokenizer(text)["input_ids"]) for key, (text, _) in items(summary).items() if "reverse" in key}
        assert max(long.values()) == CUT
        assert summary["scores"]["reverse"]["truncated"] == sum(n == CUT for n in long.values())
    trained = both["vllm"][0]["scores"]
    assert trained["reverse"]["truncated"] > LIMIT / 2
    assert trained["larger"]["truncated"] == 0


def test_a_killed_engine_is_one_line_and_scored_tasks_are_kept(checkpoints, suite, both, tmp_path):
    asked = ("score", checkpoints[0], "--suite", suite, "--limit", LIMIT, "--scorer", "vllm", "--runs", tmp_path)
    killed = harness(*asked, HARNESS_FAULT="kill@scored:3")
    assert killed.returncode == 1
    line = killed.stderr.strip().splitlines()[-1]
    assert line.startswith("harness: scoring failed: vllm at lookup: its process was killed by SIGKILL")
    (work,) = (tmp_path / "scores").iterdir()
    assert not (work / "scores.json").exists()
    before = {p.name: p.stat().st_mtime_ns for p in (work / "items").iterdir()}
    assert sorted(before) == ["larger.jsonl", "last.jsonl", "lookup.jsonl"]
    again = harness(*asked)
    assert again.returncode == 0, again.stderr
    after = {p.name: p.stat().st_mtime_ns for p in (work / "items").iterdir()}
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == {"reverse.jsonl"}
    undisturbed = both["vllm"][0]
    found = json.loads((work / "scores.json").read_text())
    assert {k: found[k] for k in ("scores", "test_sha256")} == {k: undisturbed[k] for k in ("scores", "test_sha256")}


@pytest.mark.gpu
def test_gpu_memory_returns(checkpoints, suite, tmp_path):
    """To within 1 % of before, once the service is closed."""
    import torch

    torch.cuda.init()
    before, total = torch.cuda.mem_get_info()
    with score.Service("vllm") as service:
        for checkpoint in checkpoints:
            service.score(checkpoint, str(suite), tmp_path / checkpoint.name, limit=LIMIT)
        assert torch.cuda.mem_get_info()[0] < before
    after, _ = torch.cuda.mem_get_info()
    assert abs(after - before) <= 0.01 * total
