"""Runs in forked children of one process that has imported torch once, so that a SIGKILL costs a second, not ten.

`python -m tests.forks` reads one JSON job a line: {request, env}; it forks, runs the request with scoring replaced by a
digest of the answer's weights, and answers with one line: {status, record}.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any


class Server:
    """A module that reads one JSON job a line and answers with one line, from a test's side."""

    def __init__(self, module, **env):
        env = os.environ | {"HARNESS_THREADS": "1", "HARNESS_DEVICE": "cpu"} | env
        self.process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            env=env,
        )
        while self.process.stdout.readline().strip() != "ready":
            pass

    def close(self):
        self.process.kill()
        self.process.wait()

    def ask(self, job):
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


class Forks(Server):
    """Runs, each in a forked child."""

    def __init__(self):
        super().__init__("tests.forks", HARNESS_SNAPSHOT_SECONDS="0")

    def run(self, request, **env):
        job = {
            "request": {k: str(v) if k in ("suite", "model", "runs", "strategy") else v for k, v in request.items()},
            "env": env,
        }
        return self.ask(job)


def comparable(path):
    """A record without its times."""
    r = json.loads(open(path).read())
    for row in r["ledger"].values():
        row.pop("seconds")
    for key in ("started", "ended"):
        r.pop(key)
    r["environment"].pop("git")  # somebody may edit or commit between two runs
    r.pop("official")
    r["reports"].pop("seconds_outside_verbs")
    return r


def damage(path, how, rng: random.Random):
    """Cut a file in half, or flip one bit of it."""
    data = bytearray(path.read_bytes())
    if how == "truncate":
        path.write_bytes(bytes(data[: len(data) // 2]))
    else:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(data))


def fake_score(folder: Path, suite: str, work: Path, **_: Any) -> dict[str, Any]:
    from harness import durable
    from harness.paths import file_digest

    durable.fault("scoring")
    digest = file_digest(folder / "model.safetensors")
    value = int(digest[:8], 16) / 16**8
    row = {"metric": "exact_match", "value": value, "stderr": 0.0, "n": 5, "truncated": 0, "filters": {}}
    return {"scores": {"copy": row | {"items_sha256": digest}}, "overlap": {}, "scorer": "fake"}


def child(job: dict[str, Any], pipe: int) -> None:
    os.environ.update(job["env"])
    import harness.request as request
    import harness.run as run
    import harness.rundir as rundir
    import harness.score

    harness.score.score = fake_score
    harness.score.begin_ahead = lambda *_: None
    run._Run.base_scores = lambda self: {"copy": 0.0}  # type: ignore[method-assign]
    asked = job["request"] | {"runs": Path(job["request"]["runs"])}
    said: list[str] = []
    try:
        plan = request.prepare(request.Request(**asked))
        answer = {"record": str(rundir.finished(plan) or run.execute(plan, say=said.append)), "said": said}
        code = 0
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}", "said": said, "trace": traceback.format_exc()}
        code = 1
    os.write(pipe, json.dumps(answer).encode())
    os._exit(code)


def main() -> None:
    import torch

    import harness.lab
    import harness.setup  # noqa: F401

    torch.set_num_threads(1)
    print("ready", flush=True)
    for line in sys.stdin:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            child(json.loads(line), write)
        os.close(write)
        with os.fdopen(read) as pipe:
            text = pipe.read()
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status), **json.loads(text or "{}")}), flush=True)


if __name__ == "__main__":
    main()
