"""The command line as tests of the real vLLM engine call it."""

import json
import os
import subprocess
import sys
from pathlib import Path


def harness(*args, **env):
    done = subprocess.run(
        [sys.executable, "-m", "harness", *map(str, args)],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "VLLM_CPU_OMP_THREADS_BIND": "nobind"} | env,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def items(summary):
    """(response, verdict) by item."""
    files = sorted((Path(summary["path"]).parent / "items").iterdir())
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    return {row["id"]: (row["response"], row["correct"]) for row in rows}
