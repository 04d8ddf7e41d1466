"""Whether this machine has a driver for GPUs, to be asked before torch is loaded, which takes a second and 200 MB."""

import os
from pathlib import Path

from powerinfer_cli.system.which import WINDOWS

__all__ = ["has_gpu_driver"]

# What the drivers make: NVIDIA's, also under WSL; AMD's.
_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg", "/dev/kfd")
_LIBRARIES = ("nvcuda.dll", "amdhip64*.dll")


def has_gpu_driver() -> bool:
    """Of NVIDIA's or AMD's GPUs."""
    if WINDOWS:
        folder = Path(os.environ.get("SYSTEMROOT", "C:\\Windows")) / "System32"
        return any(any(folder.glob(name)) for name in _LIBRARIES)
    return any(Path(device).exists() for device in _DEVICES)
