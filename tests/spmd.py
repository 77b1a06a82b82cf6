"""Runs on several ranks: forked from one process that has imported torch once, under a launcher of a few lines.

`torchrun ... -m tests.spmd ARGS` is `harness ARGS` on each rank, with scoring replaced as in `tests.quick`.
`python -m tests.spmd` reads one JSON job a line, {args, ranks, env}, and answers {status: [one a rank], stderr, stdout}.
As torchrun does, it ends the ranks that are left when one has failed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

from tests.forks import Server


class Ranks(Server):
    """Runs on several ranks, each a forked child."""

    def __init__(self):
        super().__init__("tests.spmd", HARNESS_RANKS_SECONDS="120")

    def run(self, args, ranks=2, **env):
        """`harness run ARGS` on this many ranks: what they printed, how each ended, and the record."""
        found = self.ask({"args": ["run", *map(str, args)], "ranks": ranks, "env": env})
        path = found["stdout"].split()[-1:]
        return found | {
            "record": json.loads(Path(path[0]).read_text()) if path else None,
            "folder": path and Path(path[0]).parent,
        }


def rank(job, number, port, out, err):
    """One rank, in a child."""
    place = {
        "RANK": number,
        "LOCAL_RANK": number,
        "WORLD_SIZE": job["ranks"],
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({k: str(v) for k, v in place.items()} | job["env"])
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.argv = ["harness", *job["args"]]
    from harness.cli import main

    code = 1
    try:
        main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.stdout.flush()
        os._exit(code)


def launch(job):
    """All ranks; when one fails, the others are told to end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        pids = []
        for number in range(job["ranks"]):
            pids.append(os.fork())
            if pids[-1] == 0:
                rank(job, number, port, out, err)
        status = {}
        while len(status) < len(pids):
            pid, code = os.wait()
            status[pid] = os.waitstatus_to_exitcode(code)
            if status[pid]:
                for other in set(pids) - set(status):
                    os.kill(other, signal.SIGTERM)
        out.seek(0)
        err.seek(0)
        return {"status": [status[pid] for pid in pids], "stdout": out.read(), "stderr": err.read()}


def serve():
    import torch
    import transformers.models.qwen2.modeling_qwen2  # noqa: F401

    import harness.lab
    import harness.setup  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(launch(json.loads(line))), flush=True)


if __name__ == "__main__":  # scoring is replaced in this process, and not in one that imports `Ranks`
    import harness.score
    import tests.quick  # noqa: F401

    harness.score.begin_ahead = lambda *_: None
    if len(sys.argv) > 1:
        from harness.cli import main

        main()
    serve()
