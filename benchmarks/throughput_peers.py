"""The sides that `throughput.py` compares, each in a process of its own: one step whenever it is asked for one.

A trainer runs its own loop; its callback at the end of a step is where it waits, so that all that the loop does between
two steps - fetching, collating, logging - is inside the clock. Learning rate, clipping, optimizer, precision and rows
are the same for all; activations are not recomputed.
"""

from __future__ import annotations

import importlib.util
import math
import os
import resource
import time
from multiprocessing.connection import Connection
from typing import Any

from benchmarks.throughput_cases import Case

LR = 1e-5
LOGIT_BYTES = {"cpu": 2 * 2**30, "cuda": 24 * 2**30}  # room for a padded micro-batch's logits, which decides its size
BYTES = 12  # a logit as scores, in fp32 for the loss, and its gradient
PACKED = 1024  # tokens of a row that TRL packs
TRAINERS = ("hf", "trl", "trl-padding-free", "trl-packing", "trl-liger")
PEERS = ("harness", *TRAINERS)


def available(peers: list[str], device: str, present: bool) -> list[str]:
    """Those that can run here. Raises SystemExit for one that is not installed, unless only what is `present` is wanted."""
    found = []
    for peer in peers:
        if peer == "trl-liger" and device != "cuda":
            continue
        needs = {"trl-liger": ("trl", "liger_kernel"), "hf": (), "harness": ()}.get(peer, ("trl",))
        missing = [name for name in needs if importlib.util.find_spec(name) is None]
        if missing and peer != "trl-liger" and not present:
            raise SystemExit(f"throughput: {peer} needs {missing[0]}: pip install 'sft-harness[bench]', or --present")
        if missing:
            print(f"throughput: without {peer}: {missing[0]} is not installed", flush=True)
        else:
            found.append(peer)
    return found


class Turns:
    """The worker's end of the pipe: waits until it is its turn, and reports what the turn took."""

    def __init__(self, pipe: Connection) -> None:
        import torch

        self.pipe, self.cuda = pipe, torch.cuda.is_available()
        self.losses: list[float] = []
        self.base = _resident()
        self.filled = False

    def wait(self) -> bool:
        """Whether another step is wanted; the clock starts."""
        go = self.filled or self.pipe.recv() == "step"
        self.started, self.used = time.perf_counter(), time.process_time()
        return go

    def done(self) -> None:
        """The step is over, and on a CPU the turn. On a GPU the allocator's cache was emptied for the others: a turn's first
        step asks the driver for all its memory again, which can take longer than the step, and is not counted."""
        import torch

        if self.cuda:
            torch.cuda.synchronize()
            self.filled = not self.filled
            if self.filled:
                return
        seconds, used = time.perf_counter() - self.started, time.process_time() - self.used
        peak = torch.cuda.max_memory_allocated() if self.cuda else _peak() - self.base
        if self.cuda:
            torch.cuda.empty_cache()  # the others want its room
        self.pipe.send({"seconds": seconds, "cpu": used, "memory": peak})


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve(name: str, case: Case | None, threads: int, pipe: Connection) -> None:
    """A worker process: answers every "step" with its seconds, and "stop" with the losses of its steps."""
    os.environ["HARNESS_THREADS"] = str(threads)
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    turns = Turns(pipe)
    try:
        if case is None:
            multiply(turns)
        elif name == "harness":
            engine(turns, case)
        else:
            trainer(turns, case, name)
        pipe.send({"losses": turns.losses})
    except Exception as error:
        pipe.send({"error": f"{name}: {type(error).__name__}: {error}"})
        raise


def multiply(turns: Turns) -> None:
    """The machine's own limit: a large matrix product in the precision of the training; `losses` holds FLOP/s."""
    import torch

    device = "cuda" if turns.cuda else "cpu"
    n, dtype, repeats = (8192, torch.bfloat16, 20) if turns.cuda else (1024, torch.float32, 8)
    a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    while turns.wait():
        for _ in range(repeats):
            a @ b
        if turns.cuda:
            torch.cuda.synchronize()
        turns.losses.append(2 * n**3 * repeats / (time.perf_counter() - turns.started))
        turns.done()


def engine(turns: Turns, case: Case) -> None:
    """This project's engine."""
    from harness.engine import Engine
    from harness.lora import LoraSpec
    from harness.suite import Optimizer

    lora = LoraSpec(case.rank, case.alpha) if case.mode == "lora" else None
    made = Engine(case.folder, case.sizes, Optimizer(), 0, lora)
    batches = case.effective_batches()
    while turns.wait():
        items = batches[len(turns.losses) % len(batches)]
        nll = made.step(items, LR).nll
        turns.losses.append(sum(nll) / sum(i.supervised for i in items))
        turns.done()


def micro_batch(case: Case, device: str) -> int:
    """Examples of a padded micro-batch: the largest power of two whose logits have room, at most the whole batch."""
    longest = max(p + a for p, a in case.lengths())
    room = LOGIT_BYTES[device] // (longest * int(case.config["vocab_size"]) * BYTES)
    return int(min(case.batch, 2 ** int(math.log2(max(1, room)))))


def trainer(turns: Turns, case: Case, name: str) -> None:
    """A trainer of transformers or TRL, stepping when it is its turn."""
    from transformers import PrinterCallback, TrainerCallback

    class Gate(TrainerCallback):  # type: ignore[misc]
        """Waits at the end of each step."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            """The step that was asked for is over; the loop goes on when the next one is."""
            turns.done()
            control.should_training_stop = not turns.wait()
            return control

    made = (hugging_face if name == "hf" else trl)(case, name, "cuda" if turns.cuda else "cpu")
    made.add_callback(Gate())
    made.remove_callback(PrinterCallback)
    if turns.wait():
        made.train()
    turns.losses = [row["loss"] for row in made.state.log_history if "loss" in row]


def settings(case: Case, device: str, micro: int, accumulate: int) -> dict[str, Any]:
    """What both trainers are told."""
    return {
        "output_dir": str(case.folder / "out"),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulate,
        "max_steps": 10**6,
        "learning_rate": LR,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "disable_tqdm": True,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": device == "cpu",
        "bf16": device == "cuda",
        "gradient_checkpointing": False,
        "dataloader_pin_memory": device == "cuda",
    }


def model_of(case: Case, device: str) -> Any:
    """The same weights in fp32, with adapters on every matrix of the blocks under LoRA."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import is_flash_attn_2_available

    kernel = "flash_attention_2" if device == "cuda" and is_flash_attn_2_available() else "sdpa"
    lm = AutoModelForCausalLM.from_pretrained(case.folder, dtype=torch.float32, attn_implementation=kernel)
    if case.mode == "lora":
        from peft import LoraConfig, get_peft_model

        adapters = LoraConfig(r=case.rank, lora_alpha=case.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
        lm = get_peft_model(lm, adapters)
    return lm


def rows_of(case: Case) -> list[dict[str, list[int]]]:
    """All batches one after the other: token ids, and which of them are the completion."""
    items = [item for batch in case.effective_batches() for item in batch]
    return [
        {
            "input_ids": list(i.ids),
            "completion_mask": [0] * (len(i.ids) - i.supervised) + [1] * i.supervised,
            "labels": [-100] * (len(i.ids) - i.supervised) + list(i.ids[-i.supervised :]),
        }
        for i in items
    ]


def hugging_face(case: Case, name: str, device: str) -> Any:
    """transformers' Trainer: padded micro-batches, labels of -100 at prompts, the model's own loss."""
    from transformers import AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    micro = micro_batch(case, device)
    data: Any = [{k: row[k] for k in ("input_ids", "labels")} for row in rows_of(case)]
    tokenizer = AutoTokenizer.from_pretrained(case.folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return Trainer(
        model=model_of(case, device),
        args=TrainingArguments(**settings(case, device, micro, case.batch // micro)),
        train_dataset=data,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )


def trl(case: Case, name: str, device: str) -> Any:
    """TRL's SFTTrainer with the loss on completions: padded, without padding, packed by TRL, or with Liger's kernels."""
    from datasets import Dataset, concatenate_datasets, disable_progress_bars
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer
    from trl.data_utils import pack_dataset

    disable_progress_bars()
    rows, micro, more = rows_of(case), micro_batch(case, device), {}
    asked: dict[str, Any] = {"completion_only_loss": True, "max_length": None}
    data = Dataset.from_list([{k: row[k] for k in ("input_ids", "completion_mask")} for row in rows])
    accumulate = case.batch // micro
    if name == "trl-padding-free":
        asked["padding_free"] = True
    elif name == "trl-liger":
        asked["use_liger_kernel"] = True
    elif name == "trl-packing":  # each effective batch by itself, so that a step holds the same examples as the others'
        asked |= {"packing": True, "max_length": max(PACKED, *(p + a for p, a in case.lengths()))}
        plain = [{k: row[k] for k in ("input_ids", "labels")} for row in rows]
        parts = [Dataset.from_list(plain[i : i + case.batch]) for i in range(0, len(plain), case.batch)]
        packed = [pack_dataset(part, asked["max_length"], "bfd") for part in parts]
        data, micro, accumulate = concatenate_datasets(packed), 1, len(packed[0])
        more = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    tokenizer = AutoTokenizer.from_pretrained(case.folder)
    args = SFTConfig(**settings(case, device, micro, accumulate), **asked, **more)
    return SFTTrainer(model=model_of(case, device), args=args, train_dataset=data, processing_class=tokenizer)
