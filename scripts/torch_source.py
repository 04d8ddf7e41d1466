"""Print pip's option for the torch that suits this machine, or nothing where pip finds it itself; say on stderr which.

    pip install -c constraints.txt torch $(python scripts/torch_source.py)

On Linux, PyPI's torch brings CUDA's libraries along. Builds for CPUs alone lie elsewhere, as versions like 2.13.0+cpu,
which pip prefers to 2.13.0 wherever it finds both. TORCH_INDEX names a mirror of that place.
"""

import contextlib
import http.client
import os
import sys
import threading
import urllib.request
from collections.abc import Iterable
from pathlib import Path

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# What NVIDIA's driver puts there; the last under WSL.
DRIVER = ("/dev/nvidiactl", "/dev/nvidia0", "/usr/lib/wsl/lib/libcuda.so.1")
PATIENCE = 5.0  # seconds
CPU_SIZE = "about 0.2 GB to fetch, 0.9 GB on the disk"
CUDA_SIZE = "about 2.7 GB to fetch, 4.7 GB on the disk"


def answers(index: str, patience: float = PATIENCE) -> bool:
    """Whether an index has torch. Name servers keep to no time limit: a thread asks, whose end nobody awaits."""
    found: list[int] = []

    def ask() -> None:
        with (
            contextlib.suppress(OSError, ValueError, http.client.HTTPException),
            urllib.request.urlopen(f"{index.rstrip('/')}/torch/", timeout=patience) as answer,
        ):
            found.append(answer.status)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return bool(found)


def choose(platform: str, driver: Iterable[str], index: str | None) -> tuple[str, str]:
    """(pip's option or nothing, a line for people or nothing). `index`: the user's own place of CPU builds."""
    if platform != "linux":
        return "", ""
    if any(Path(path).exists() for path in driver):
        return "", f"torch for NVIDIA GPUs: {CUDA_SIZE}"
    place = index or CPU_INDEX
    if index or answers(place):
        return f"--extra-index-url={place}", f"no NVIDIA GPU here: torch for CPUs alone, from {place}: {CPU_SIZE}"
    return "", (
        f"no NVIDIA GPU here, but {place} does not answer: torch from where pip finds it, which is {CUDA_SIZE} "
        "if that is PyPI; TORCH_INDEX=URL names a mirror of the builds for CPUs"
    )


if __name__ == "__main__":
    option, line = choose(sys.platform, DRIVER, os.environ.get("TORCH_INDEX"))
    print(line, file=sys.stderr, end="\n" if line else "")
    print(option)
