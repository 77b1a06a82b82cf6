"""What `harness score` takes, and what it makes of a PEFT folder."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM

from harness import models, rescore
from harness.errors import HarnessError


def test_what_is_no_checkpoint_is_one_line(tiny, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("suite: pocket\nlimit: null\n")
    (tmp_path / "empty").mkdir()
    for folder, suite, says in (
        (tmp_path / "none", None, "is not a folder"),
        (run, None, "run 'run' has no final/"),
        (tiny, None, "checkpoint 'tiny': on which suite"),
        (tiny, "pockett", "did you mean 'pocket'"),
        (tmp_path / "empty", "pocket", "has no config.json"),
    ):
        with pytest.raises(HarnessError, match=says):
            rescore.targets([folder], suite, None)


def test_a_run_brings_its_suite_and_limit(tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "config.yaml").write_text("suite: pocket\nlimit: 7\n")
    (plain,) = rescore.targets([tmp_path], None, None)
    assert (plain.folder, plain.suite, plain.limit) == (tmp_path / "final", "pocket", 7)
    (other,) = rescore.targets([tmp_path], "bbh", 3)
    assert (other.suite, other.limit) == ("bbh", 3)


def test_adapters_are_merged_into_their_base(tiny, tmp_path):
    """W + alpha / r B A, worked out by numpy; all other tensors as they were."""
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny), config).save_pretrained(tmp_path / "adapters")
    kept = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert kept["base_model_name_or_path"] == str(tiny)
    (target,) = rescore.targets([tmp_path / "adapters"], "pocket", None)
    assert target.adapters
    rescore.merge(models.resolve(str(tiny)), target.folder, tmp_path / "merged")
    base, merged = load_file(tiny / "model.safetensors"), load_file(tmp_path / "merged" / "model.safetensors")
    low = load_file(tmp_path / "adapters" / "adapter_model.safetensors")
    assert base.keys() == merged.keys()
    for name, weight in base.items():
        stem = f"base_model.model.{name.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in low:
            weight = weight + 6 / 4 * low[f"{stem}.lora_B.weight"] @ low[f"{stem}.lora_A.weight"]
            assert not np.allclose(weight, base[name], atol=1e-3)
        np.testing.assert_allclose(merged[name], weight, atol=1e-6)
    assert (tmp_path / "merged" / "tokenizer.json").is_file()
    with pytest.raises(HarnessError, match="adapters 'adapters' do not fit embedded"):
        rescore.merge(models.resolve("pocket"), target.folder, tmp_path / "wrong")
