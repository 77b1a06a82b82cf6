"""The wheel carries strategies, suites, site and the embedded model: it runs from a venv outside the clone."""

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from harness import record
from tests.conftest import ROOT


def test_the_wheel_runs_outside_the_clone(tmp_path):
    out = tmp_path / "wheel"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", out, ROOT], check=True, capture_output=True
    )
    (wheel,) = out.glob("*.whl")
    assert wheel.stat().st_size < 12e6
    home = tmp_path / "venv"
    venv.create(home, with_pip=False)
    site = next(home.glob("lib/python*/site-packages"))
    subprocess.run(
        [*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True, capture_output=True
    )
    # The dependencies come from the environment of the tests, after the venv's own; its editable harness does not.
    (site / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HARNESS_THREADS": "1"}
    python = home / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import harness; print(harness.__file__)"], capture_output=True, text=True, env=env, cwd=tmp_path
    )
    assert Path(where.stdout.strip()).is_relative_to(site)
    args = ["run", "--strategy", "msft", "--limit", "8", "--budget", "0.5x"]
    done = subprocess.run([python, "-m", "harness", *args], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = record.read(tmp_path / done.stdout.strip().splitlines()[-1])
    assert found.environment.git.commit is None
    assert not found.official
    assert "the harness is of no clean commit" in found.doubts
    site_done = subprocess.run([python, "-m", "harness", "site"], capture_output=True, text=True, env=env, cwd=tmp_path)
    assert site_done.returncode == 0, site_done.stderr
    assert (tmp_path / "dist" / "index.html").exists()
