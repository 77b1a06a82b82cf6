"""The ranks of one run: processes that torchrun or accelerate launch starts, each with the same program and values.

Strategy and lab run on every rank. What the engine computes is dealt out and joined again, so that all ranks hold the same
results; what could differ is taken from rank 0 (`first`), which alone has files and a voice. In one process every name
here gives back what it was given, and nothing is imported. See docs/adr/0011-ranks.md.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from harness.errors import HarnessError, RunFailed
from harness.rendezvous import fresh

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SECONDS = 1800.0  # that a rank waits for the others before it gives the run up
FAREWELL = 20.0  # seconds in which rank 0 may say what ended all ranks
GLOO = "gloo_in_order"  # the name of torch's gloo as `_gloo` sets it up
GONE = "the same command, with any number of ranks, goes on from the newest snapshot"


class RankLost(RunFailed):
    """Another rank of this run has ended, or does not answer."""


class _World:
    """This process' place among the ranks, the group for values in host memory, and the store for last words."""

    def __init__(self, rank: int = 0, count: int = 1, host: Any = None, store: Any = None) -> None:
        self.rank, self.count, self.host, self.store = rank, count, host, store
        self.size = count  # also when their work is done
        self.leaving = False  # by itself: a SIGTERM changes nothing any more


_world = _World()


def count() -> int:
    """How many ranks work together."""
    return _world.count


def main() -> bool:
    """Whether this is rank 0, or the only process."""
    return _world.rank == 0


def gpu() -> bool:
    """Whether this process computes on a GPU: there is one, and HARNESS_DEVICE=cpu does not leave it alone."""
    import torch

    return os.environ.get("HARNESS_DEVICE") != "cpu" and torch.cuda.is_available()


def number() -> int:
    """This process' rank, from 0."""
    return _world.rank


def sharded() -> bool:
    """Whether weights, gradients and optimizer are to be cut over the ranks (FSDP2)."""
    return count() > 1 and os.environ.get("HARNESS_FSDP", "").lower() in ("1", "true", "yes")


# --- values


def first(value: T) -> T:
    """Rank 0's value, on every rank."""
    if _world.count == 1:
        return value
    box: list[Any] = [value if main() else None]
    _collective(lambda dist: dist.broadcast_object_list(box, src=0, group=_world.host))
    found: T = box[0]
    return found


def gather(value: T) -> list[T]:
    """Every rank's value, by rank."""
    if _world.count == 1:
        return [value]
    found: list[Any] = [None] * _world.count
    _collective(lambda dist: dist.all_gather_object(found, value, group=_world.host))
    return found


def same(what: str, value: object, error: type[HarnessError] = HarnessError) -> None:
    """Raise `error` on all ranks unless every rank has this value."""
    if _world.count > 1 and (values := gather(value)) != [values[0]] * len(values):
        other = next(r for r, v in enumerate(values) if v != values[0])
        raise error(f"{what}: rank 0 has {values[0]!r}, rank {other} has {values[other]!r}; all ranks do the same")


def share(costs: Sequence[int]) -> list[int]:
    """Which of these pieces of work are this rank's, in order: the longest first to whoever has least."""
    if _world.count == 1:
        return list(range(len(costs)))
    loads, mine = [0] * _world.count, []
    for i in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        rank = loads.index(min(loads))
        loads[rank] += costs[i]
        if rank == _world.rank:
            mine.append(i)
    return sorted(mine)


def joined(found: list[T | None], hardware: int) -> tuple[list[T], int]:
    """Results by item, each from the rank that has it; second: the hardware FLOPs of all ranks."""
    parts = gather(({i: value for i, value in enumerate(found) if value is not None}, hardware))
    values = {i: value for part, _ in parts for i, value in part.items()}
    return [values[i] for i in range(len(found))], sum(flops for _, flops in parts)


@contextmanager
def apart() -> Iterator[None]:
    """Within it this rank is one process: nothing that it calls waits for another one."""
    together, _world.count = _world.count, 1
    try:
        yield
    finally:
        _world.count = together


# --- tensors


def spread(tensor: torch.Tensor) -> torch.Tensor:
    """Rank 0's numbers into this tensor, in place."""
    if _world.count > 1:
        _collective(lambda dist: dist.broadcast(tensor, src=0, group=_group(tensor)))
    return tensor


def everywhere(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rank 0's tensors, in host memory, on every rank."""
    if _world.count == 1:
        return tensors
    import torch

    kinds = first({name: (t.shape, t.dtype) for name, t in tensors.items()})
    return {
        name: spread(tensors[name] if main() else torch.empty(kind[0], dtype=kind[1])) for name, kind in kinds.items()
    }


def total(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over ranks, in place; bitwise the same on all of them."""
    if _world.count > 1:
        _collective(lambda dist: dist.all_reduce(tensor, group=_group(tensor)))
    return tensor


def _group(tensor: torch.Tensor) -> Any:
    return _world.host if tensor.device.type == "cpu" else None


def _collective(call: Callable[[Any], object]) -> None:
    import torch.distributed as dist

    try:
        call(dist)
    except RuntimeError as error:
        raise RankLost(f"another rank of this run has ended or does not answer; {GONE}") from error


def lost(error: BaseException) -> bool:
    """Whether this error, of a collective within a model, says that another rank is gone."""
    return isinstance(error, RankLost) or (
        _world.count > 1
        and isinstance(error, RuntimeError)
        and (type(error).__name__.startswith("Dist") or "gloo" in str(error) or "onnection" in str(error))
    )


# --- beginning and end


@contextmanager
def together() -> Iterator[None]:
    """Within it the ranks that a launcher has started work together; one process goes on as it is.

    Raises HarnessError where the launcher has left something out or asked for what is not supported.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        if "WORLD_SIZE" in os.environ:  # a launcher's only rank is one process, not a group of one
            for variable in VARIABLES:
                os.environ.pop(variable, None)
        yield
        return
    _supported()
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    limit = timedelta(seconds=float(os.environ.get("HARNESS_RANKS_SECONDS", SECONDS)))
    if gpu():
        there, place = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if place >= there:
            raise HarnessError(f"LOCAL_RANK={place}, but this process sees {there} GPUs; expected one for each rank")
        torch.cuda.set_device(place)
    store, rank, size = next(iter(rendezvous("env://", timeout=limit)))
    store.set_timeout(limit)
    store = fresh(store, rank, size, limit)
    dist.Backend.register_backend(GLOO, _gloo, devices=["cpu"])
    dist.init_process_group("nccl" if gpu() else GLOO, store=store, rank=rank, world_size=size, timeout=limit)
    host = dist.new_group(backend=GLOO, timeout=limit) if gpu() else None
    _world.rank, _world.host, _world.store = rank, host, store
    _world.count = _world.size = size
    _listen()
    yield
    leave()


def _gloo(store: Any, rank: int, size: int, timeout: timedelta) -> Any:
    """A group of gloo with one worker thread.

    Two, its default, note the name of what they ended last in one string without a lock (torch 2.13, `runLoop`), after the
    waiter has gone on: now and then a process dies of a double free. In one, what is asked for is done in order.
    GLOO_SOCKET_IFNAME names network interfaces, as for torch's own groups.
    """
    import torch.distributed as dist

    gloo: Any = dist.ProcessGroupGloo
    options = gloo._Options()
    cards = [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]
    devices = [gloo.create_device(interface=name) for name in cards] or [gloo.create_default_device()]
    options._devices, options._timeout, options._threads = devices, timeout, 1
    return gloo(store, rank, size, options)


def _supported() -> None:
    if missing := [name for name in VARIABLES if name not in os.environ]:
        asked = f"WORLD_SIZE={os.environ['WORLD_SIZE']} without {', '.join(missing)}"
        raise HarnessError(f"{asked}; start ranks with torchrun or accelerate launch")
    for kind in ("DEEPSPEED", "MEGATRON_LM"):
        if os.environ.get(f"ACCELERATE_USE_{kind}", "false") == "true":
            raise HarnessError(f"accelerate asks for {kind}; expected plain data parallelism or --use_fsdp")
    if os.environ.get("ACCELERATE_USE_FSDP", "false") == "true":
        if os.environ.get("FSDP_VERSION", "1") != "2":
            raise HarnessError(f"FSDP version {os.environ.get('FSDP_VERSION', '1')}; expected --fsdp_version 2")
        os.environ["HARNESS_FSDP"] = "1"
        del os.environ["ACCELERATE_USE_FSDP"]  # the harness cuts the weights itself


def alone(environment: Mapping[str, str]) -> dict[str, str]:
    """Environment variables of a process that rank 0 starts and that is no rank."""
    if _world.store is None:
        return dict(environment)
    ours = (*VARIABLES, "LOCAL_WORLD_SIZE", "GROUP_", "ROLE_", "TORCHELASTIC_", "ACCELERATE_", "FSDP_")
    return {name: value for name, value in environment.items() if not name.startswith(ours)}


@contextmanager
def main_first() -> Iterator[None]:
    """Rank 0 does what is within, then the others: what it downloads is there for them."""
    if not main():
        first(None)
    yield
    if main():
        first(None)


def leave() -> None:
    """The work of the ranks is done; what follows is for rank 0 alone, and the others may end."""
    if _world.count > 1:
        import torch.distributed as dist

        first(None)  # nobody tears down what another still waits for
        dist.destroy_process_group()
        _world.count = 1


def speaks() -> bool:
    """At the end of a failed run: whether this rank has to say why. Rank 0 does, and the others if it does not.

    Rank 0 is given the time to write its record: a launcher ends all ranks as soon as one has failed.
    """
    if _world.store is None:
        return True
    _world.leaving = True
    try:
        if not main():
            _world.store.wait(["said"], timedelta(seconds=FAREWELL))
            _world.store.set(f"heard {_world.rank}", "")
            return False
        _world.store.set("said", "")
        # This process may be the one that holds the store.
        _world.store.wait([f"heard {rank}" for rank in range(1, _world.size)], timedelta(seconds=2))
    except RuntimeError:  # nobody answered
        pass
    return True


def name() -> str:
    """`rank 3: ` before what another rank than 0 has to say."""
    return "" if main() else f"rank {_world.rank}: "


def _listen() -> None:
    """End with a line when the launcher says so, also while a collective waits: handlers run between bytecodes only."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)

    def wait() -> None:
        while signal.SIGTERM not in os.read(read, 64) or _world.leaving:
            pass
        if _world.rank < 2:  # 1 speaks for 0, which may be the one that is gone
            line = f"harness: {name()}told to stop (SIGTERM), as when another rank has ended; {GONE}\n"
            os.write(2, line.encode())
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
