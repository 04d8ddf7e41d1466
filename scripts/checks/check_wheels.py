#!/usr/bin/env python3
"""Whether `pip install .[cluster,test]` finds a wheel of every dependency on each system, by the registry's lists.

Versions are those of `constraints.txt`, as in the README, but for macOS 13, for which the pinned torch has no wheels.
Nothing is downloaded but lists and metadata, by uv's resolver, which evaluates markers for a system that is not this
one (pip's --platform does not). Needs `pip install uv`.

    python scripts/checks/check_wheels.py
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHONS = ("3.11", "3.12", "3.13")
SYSTEMS = {
    "Linux, x86-64": "x86_64-manylinux_2_28",
    "Linux, ARM64": "aarch64-manylinux_2_28",
    "macOS 14, Apple Silicon": "aarch64-apple-darwin",
    "macOS 13, Apple Silicon": "aarch64-apple-darwin",
    "Windows, x86-64": "x86_64-pc-windows-msvc",
    # torch has had no wheels for Intel's Macs since 2.2 and has none for Windows on ARM.
    "macOS, Intel": "x86_64-apple-darwin",
    "Windows, ARM64": "aarch64-pc-windows-msvc",
}
UNPINNED = "macOS 13, Apple Silicon"
ABSENT = ("macOS, Intel", "Windows, ARM64")
SHOWN = ("torch", "numba", "llvmlite", "highspy", "ray")


def resolved(name: str, python: str) -> str:
    """Versions of the largest packages, or why there is no set of wheels."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "-q", "--no-header", "--no-annotate"]
    command += ["--only-binary", ":all:", "--python-platform", SYSTEMS[name], "--python-version", python]
    command += ["--extra", "cluster", "--extra", "test", "pyproject.toml"]
    if name != UNPINNED:
        command += ["-c", "constraints.txt"]
    environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": "13.0" if name == UNPINNED else "14.0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return "none: " + " ".join(done.stderr.split())[:200]
    versions = dict(line.split("==") for line in done.stdout.splitlines() if "==" in line and ";" not in line)
    return ", ".join(f"{name} {versions[name]}" for name in SHOWN)


def main() -> None:
    """Print a table in Markdown; the exit code is 1 where a system that should have wheels has none, or the reverse."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    if subprocess.run([sys.executable, "-m", "uv", "--version"], capture_output=True, check=False).returncode:
        sys.exit("error: this needs uv: pip install uv")
    print("| system | Python | wheels |\n| --- | --- | --- |")
    odd = []
    for name in SYSTEMS:
        for python in PYTHONS:
            told = resolved(name, python)
            print(f"| {name} | {python} | {told} |", flush=True)
            if told.startswith("none") != (name in ABSENT):
                odd.append(f"{name}, Python {python}")
    if odd:
        sys.exit(f"error: not as expected: {'; '.join(odd)}")


if __name__ == "__main__":
    main()
