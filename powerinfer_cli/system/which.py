"""Which operating system this is. Others than these three are taken for a Unix without `/proc`."""

import sys

__all__ = ["LINUX", "MACOS", "WINDOWS"]

LINUX: bool = sys.platform.startswith("linux")
MACOS: bool = sys.platform == "darwin"
WINDOWS: bool = sys.platform == "win32"
