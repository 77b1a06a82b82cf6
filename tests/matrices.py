"""What tests of `harness matrix` share: its command in a process of its own, a file for it, records to compare."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import yaml

from tests.conftest import ROOT

STRATEGY = '''"""Made by the tests."""
import os, time
from dataclasses import dataclass
from pathlib import Path
from harness.api import Lab

@dataclass(frozen=True)
class Mine:
    def run(self, lab: Lab) -> None:
        lab.train(lab.proportional(), "6 step")
        {body}
        lab.train(lab.proportional(), "4 step")
'''


def start(folder, *args, module="tests.quick", **env):
    fixed = {"HARNESS_THREADS": "1", "HARNESS_SNAPSHOT_SECONDS": "0", "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, args)],
        cwd=folder,
        env=os.environ | fixed | env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell without job control starts what runs in its background with SIGINT ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def go(folder, *args, **options):
    process = start(folder, *args, **options)
    out, err = process.communicate(timeout=600)
    assert "Traceback" not in err, err
    return SimpleNamespace(returncode=process.returncode, stdout=out, stderr=err)


def matrix_file(folder, suite, model, *strategies, **keys):
    """A matrix file of these strategies; the path."""
    path = folder / "study.yaml"
    spec = {"strategies": list(strategies), "suites": [str(suite)], "models": [str(model)], **keys}
    path.write_text(yaml.safe_dump(spec, sort_keys=False))
    return path


def comparable(path):
    """All of a record but times, and but the clone's commit, which may move while the tests run."""
    r = json.loads(Path(path).read_text())
    del r["environment"]["git"], r["official"]
    for row in r["ledger"].values():
        row.pop("seconds")
    del r["started"], r["ended"], r["reports"]["seconds_outside_verbs"]
    return r


def by_id(runs):
    return {p.parent.name: comparable(p) for p in Path(runs).glob("*/record.json")}


def until(look, n):
    for _ in range(3000):
        if len(found := look()) >= n:
            return found
        time.sleep(0.1)
    raise AssertionError("waited five minutes")


def free(handle):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
