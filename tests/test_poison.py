"""CADFT on a pocket task with 40 % wrong answers: what contradicts the others comes to weigh less."""

import json

import numpy as np
import pytest
import yaml
from scipy.stats import mannwhitneyu

from benchmarks import variants
from harness.api import lens
from harness.paths import asset
from harness.registry import find
from tests.labs import make_lab

TASK, PASSES = "last", 12  # half of a training of 24 passes over 100 examples


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A suite file, and the ids of the task's examples with a wrong target."""
    folder, clean = tmp_path_factory.mktemp("poisoned"), variants.pocket()
    rows = variants.poisoned(clean, TASK)
    for split in rows:
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[split]))
    spec = yaml.safe_load((asset("suites") / "pocket.yaml").read_text())
    path = folder / "poisoned.yaml"
    path.write_text(yaml.safe_dump(spec | {"name": "poisoned", "data": {"files": "{split}.jsonl"}}))
    mine = [[row["target"] for row in made["train"] if row["task"] == TASK] for made in (clean, rows)]
    return path, {f"{TASK}/{i}" for i, (a, b) in enumerate(zip(*mine, strict=True)) if a != b}


@pytest.mark.parametrize("seed", [0, 1])
def test_poisoned_examples_weigh_less_by_mid_training(poisoned, tmp_path, seed):
    suite, wrong = poisoned
    lab, _, _, _ = make_lab(tmp_path, suite, asset("suites") / "pocket" / "model", seed=seed)
    method, weights = find("cadft").cls(rewrite=False), {}

    def weigh(batch):
        w = method.weigh(batch)
        for example, value in zip(batch.ids, w, strict=True):
            weights.setdefault(example, []).append(float(value))
        return w

    through = lens(lab, objective=lambda t: t.p * t.nll, example_weights=weigh)
    through.train(lab.only(TASK), f"{PASSES} epoch", keep="none")
    assert min(len(seen) for seen in weights.values()) == PASSES
    late = {example: np.mean(seen[-3:]) for example, seen in weights.items()}
    bad, good = ([w for example, w in late.items() if (example in wrong) == is_bad] for is_bad in (True, False))
    assert (len(bad), len(good)) == (40, 60)
    auc = mannwhitneyu(good, bad).statistic / (len(good) * len(bad))
    assert auc > 0.8
    assert np.mean(bad) < 0.7 * np.mean(good)
