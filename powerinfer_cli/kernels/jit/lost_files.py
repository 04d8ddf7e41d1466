"""What happens when a mapped file is cut short while it is read: the system sends SIGBUS to whoever reads what is gone.

Kernels and NumPy read maps from native code, so what answers must be native as well, and may call next to nothing.
"""

import ctypes

import llvmlite.binding as llvm

from powerinfer_cli.kernels.jit.machine_code import assembled, load
from powerinfer_cli.system.signals import LOST_PAGE

__all__ = ["report_lost_files"]

_NAME = "report_lost_file"
_HANDLER = """
declare i64 @write(i32, i64, i64)
declare void @_exit(i32)

define void @{name}(i32 %signal) {{
  %written = call i64 @write(i32 2, i64 {address}, i64 {length})
  call void @_exit(i32 1)
  unreachable
}}
"""
_kept: list[ctypes.Array[ctypes.c_char]] = []  # messages that handlers point to


def report_lost_files(message: str) -> None:
    """From now on, reading a lost part of a file ends the process with this line and exit code 1.

    Not on Windows, which lets nobody cut a mapped file short.
    """
    if LOST_PAGE is None:
        return
    line = f"error: {' '.join(message.split())}\n".encode(errors="replace")
    kept = ctypes.create_string_buffer(line, len(line))
    _kept.append(kept)
    source = _HANDLER.format(name=_NAME, address=ctypes.addressof(kept), length=len(line))
    handler = load(assembled(llvm.parse_assembly(source)), _NAME)
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    libc.signal(LOST_PAGE, handler)
