"""Final scoring: lm-eval over checkpoints, in processes of their own, which are the first to read the test split.

A `Service` holds a process for each backend that it needs (`harness.scorer`) and keeps it from one checkpoint to the next,
so that an engine starts once. With vLLM, HF runs the gate's items too. What was scored before a failure is kept.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from harness import ranks, stock
from harness.errors import HarnessError, RunFailed
from harness.interpreter import Interpreter, vllm_interpreter
from harness.paths import digest, file_digest, write_atomic
from harness.suite import load_suite

Say = Callable[[str], None]
KINDS = {".safetensors", ".json", ".model", ".txt", ".jinja"}  # a checkpoint's files that a score can depend on


class _Unstarted(Exception):
    """The backend cannot be used here; the message says why."""


class _Process:
    """A scoring process of one backend. Started before it is needed, its imports cost no time."""

    def __init__(self, backend: str, interpreter: Interpreter) -> None:
        self.backend = backend
        self._shelf = tempfile.TemporaryDirectory(prefix="harness-scorer-")
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        self._seen = 0
        self._replies, theirs = os.pipe()
        self._unread = b""
        try:
            self._process = subprocess.Popen(
                [interpreter.path, "-m", "harness.scorer", backend, str(theirs)],
                stdin=subprocess.PIPE,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=interpreter.environment(Path(self._shelf.name)),
                pass_fds=[theirs],
            )
        finally:
            os.close(theirs)

    def do(self, job: Path, log: Path) -> dict[str, Any]:
        """Do a job: how it ended, and where (`at`) it was. What the process printed meanwhile is in `log`."""
        at = "starting"
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(f"{job}\n".encode())
            self._process.stdin.flush()
        try:
            while (message := self._message()) is not None:
                at = message.get("at", at)
                if "end" in message:
                    return {**message, "at": at}
            return {"end": "died", "at": at, "why": self._death()}
        finally:
            self._copy(log)

    def _message(self) -> dict[str, Any] | None:
        """The next message; None once the process has ended. A descendant may hold the pipe longer than it."""
        while b"\n" not in self._unread:
            ended = self._process.poll() is not None
            if select.select([self._replies], [], [], 0 if ended else 0.5)[0]:
                piece = os.read(self._replies, 1 << 16)
                if piece:
                    self._unread += piece
                    continue
                self._process.wait()
                return None
            if ended:
                return None
        line, self._unread = self._unread.split(b"\n", 1)
        message: dict[str, Any] = json.loads(line)
        return message

    def _death(self) -> str:
        code = self._process.returncode
        if code < 0:
            return f"its process was killed by {signal.Signals(-code).name}"
        lines = [line for line in self._printed(self._seen).decode(errors="replace").splitlines() if line.strip()]
        return f"its process ended with status {code}" + (f": {lines[-1][:160]}" if lines else "")

    def _printed(self, start: int) -> bytes:
        """What was printed from byte `start` on; the file's position is the process's and stays where it is."""
        return os.pread(self._log.fileno(), max(0, os.fstat(self._log.fileno()).st_size - start), start)

    def _copy(self, log: Path) -> None:
        printed = self._printed(self._seen)
        self._seen += len(printed)
        log.write_bytes(printed)

    def close(self) -> None:
        """End the process, and with it what it holds of a GPU."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.communicate()
        self._log.close()
        os.close(self._replies)
        self._shelf.cleanup()


class Service:
    """Scores checkpoints with the backend that was asked for: `hf`, `vllm`, or `auto`, vLLM where it and a GPU are.

    `say` is told what takes long. Raises HarnessError where vLLM was asked for and is not there.
    """

    def __init__(self, scorer: str = "hf", vllm_python: Path | None = None, say: Say = lambda _: None) -> None:
        self.asked, self.say = scorer, say
        self.instead: str | None = None  # why `auto` does not score with vLLM
        self._interpreters = {"hf": Interpreter()}
        self.backend = self._choose(vllm_python)
        self._processes: dict[str, _Process] = {}

    def _choose(self, vllm_python: Path | None) -> str:
        if self.asked == "hf" or (self.asked == "auto" and not ranks.gpu()):
            return "hf"
        try:
            self._interpreters["vllm"] = vllm_interpreter(vllm_python)
        except HarnessError:
            if self.asked == "vllm":
                raise
            self.instead = "vLLM is not installed"
            return "hf"
        return "vllm"

    def begin(self) -> None:
        """Start the backend's process, so that its imports run beside whatever else goes on."""
        self._process(self.backend)

    def _process(self, backend: str) -> _Process:
        if backend not in self._processes:
            self._processes[backend] = _Process(backend, self._interpreters[backend])
        return self._processes[backend]

    def score(
        self, folder: Path, suite: str, work: Path, *, mirror: Path | None = None, limit: int | None = None
    ) -> dict[str, Any]:
        """Score a checkpoint folder into `work` (lm_eval/, items/, scores.json) and return the summary.

        Raises RunFailed with one line; what the process printed is `work`/lm_eval/log.txt.
        """
        (work / "lm_eval").mkdir(parents=True, exist_ok=True)
        (work / "scores.json").unlink(missing_ok=True)
        job = {
            "folder": str(folder.resolve()),
            "weights": checkpoint_digest(folder),
            "suite": suite,
            "work": str(work.resolve()),
            "mirror": str(mirror.resolve()) if mirror else None,
            "limit": limit,
        }
        if self.backend == "vllm":
            try:
                self._equipped(suite)
                self._gated(job, work)
            except _Unstarted as error:
                self._without_vllm(error)
        if self.backend == "hf":
            self._do("hf", job | {"kind": "score", "gate": None}, work, "log.txt")
        summary: dict[str, Any] = json.loads((work / "scores.json").read_text(encoding="utf-8"))
        summary["backend"] |= {"name": summary["scorer"], "instead_of_vllm": self.instead}
        return summary

    def _equipped(self, suite: str) -> None:
        """vLLM's environment may be another one; what the suite is scored with must be there."""
        interpreter = self._interpreters["vllm"]
        if missing := stock.lacking(load_suite(suite), interpreter):
            raise _Unstarted(f"{missing}, in vLLM's environment")

    def _gated(self, job: dict[str, Any], work: Path) -> None:
        """HF first, whose model is gone again before the engine starts."""
        passages = str(work.resolve() / "lm_eval" / "gate-hf.json")
        self._do("hf", job | {"kind": "gate", "gate": passages}, work, "gate-hf.txt")
        self._do("vllm", job | {"kind": "score", "gate": passages}, work, "log.txt")

    def _without_vllm(self, error: _Unstarted) -> None:
        """vLLM did not start: an error, or HF in its place where the choice was ours."""
        self._end("vllm")
        if self.asked != "auto":
            raise RunFailed(f"scoring failed: vLLM did not start: {error} (--scorer hf scores without it)")
        self.instead, self.backend = f"vLLM did not start: {error}", "hf"
        self.say(f"{self.instead}; scoring with HF")

    def _do(self, backend: str, job: dict[str, Any], work: Path, log: str) -> None:
        """Have a job done; by a new process where the old one's engine holds another model."""
        raw = work / "lm_eval"
        path = raw / f"job-{backend}.json"
        write_atomic(path, json.dumps(job, indent=1))
        found = self._process(backend).do(path, raw / log)
        if found["end"] == "other":
            self._end(backend)
            found = self._process(backend).do(path, raw / log)
        if found["end"] == "done":
            return
        self._end(backend)
        if found["end"] == "unstarted" or (backend == "vllm" and found["at"] == "starting"):
            raise _Unstarted(found["why"])
        where = "" if found["at"] in ("starting", "started") else f" at {found['at']}"
        raise RunFailed(f"scoring failed: {backend}{where}: {found['why'][:240]} (see lm_eval/{log})")

    def _end(self, backend: str) -> None:
        process = self._processes.pop(backend, None)
        if process is not None:
            process.close()

    def close(self) -> None:
        """End the processes."""
        for backend in list(self._processes):
            self._end(backend)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def begin_ahead(scorer: str = "hf", vllm_python: Path | None = None, say: Say = lambda _: None) -> Service | None:
    """A service whose process imports beside the training."""
    service = Service(scorer, vllm_python, say)
    service.begin()
    return service


def score(
    folder: Path,
    suite: str,
    work: Path,
    *,
    mirror: Path | None = None,
    limit: int | None = None,
    service: Service | None = None,
) -> dict[str, Any]:
    """`Service.score`, by HF in a process of its own where no service is given."""
    if service is not None:
        return service.score(folder, suite, work, mirror=mirror, limit=limit)
    with Service() as own:
        return own.score(folder, suite, work, mirror=mirror, limit=limit)


def checkpoint_digest(folder: Path) -> str:
    """Digest of a checkpoint's weights, configuration and tokenizer."""
    return digest({p.name: file_digest(p) for p in sorted(folder.iterdir()) if p.suffix in KINDS})
