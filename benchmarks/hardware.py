"""What a benchmark ran on: the processor or GPU by its name, never a host, a user or a path.

`python benchmarks/hardware.py --name` prints it as part of a file's name; `--summary FILE NAME=STATUS:SECONDS...` writes what
checks came to, and exits with 1 if one of them failed; with `--add` other checks that the file knows stay in it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path


def hardware() -> dict[str, str | int]:
    """`kind` (cpu or cuda), the device's name, cores, memory in bytes."""
    import torch

    if torch.cuda.is_available() and os.environ.get("HARNESS_DEVICE") != "cpu":
        found = torch.cuda.get_device_properties(0)
        return {"kind": "cuda", "name": found.name, "cores": os.cpu_count() or 1, "memory": found.total_memory}
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {"kind": "cpu", "name": _processor(), "cores": os.cpu_count() or 1, "memory": memory}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Of those that are installed, and of Python."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def name() -> str:
    """The hardware in lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", str(hardware()["name"]).lower()).strip("-")


def summary(file: Path, checks: list[str], add: bool = False) -> bool:
    """Write statuses and seconds of checks beside the hardware; whether all of them passed.

    `add`: to what an earlier run on the same hardware with the same versions left there.
    """
    rows = []
    for check in checks:
        label, _, rest = check.partition("=")
        status, _, seconds = rest.partition(":")
        rows.append({"check": label, "status": int(status), "seconds": int(seconds)})
        said = {0: "passed", 124: "took too long"}.get(int(status), f"failed ({status})")
        print(f"{label:24}{said:>16}{seconds:>6} s")
    packages = ("torch", "transformers", "accelerate", "peft", "trl", "liger-kernel")
    about = {"hardware": hardware(), "versions": versions(packages)}
    before = json.loads(file.read_text(encoding="utf-8")) if add and file.exists() else {}
    kept = before.get("checks", []) if {key: before.get(key) for key in about} == about else []
    kept = [row for row in kept if row["check"] not in {row["check"] for row in rows}]
    file.write_text(json.dumps(about | {"checks": kept + rows}, indent=1) + "\n", encoding="utf-8")
    return all(row["status"] == 0 for row in rows)


def main() -> None:
    """For benchmarks/gpu.sh."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", action="store_true")
    parser.add_argument("--summary", type=Path, metavar="FILE")
    parser.add_argument("--add", action="store_true")
    parser.add_argument("checks", nargs="*", metavar="NAME=STATUS:SECONDS")
    args = parser.parse_args()
    if args.name:
        print(name())
    if args.summary and not summary(args.summary, args.checks, args.add):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
