"""The sides of macOS and Windows, called on Linux with stand-ins for what those systems have."""

import asyncio
import ctypes
import mmap
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llvmlite.binding as llvm
import pytest
from llvmlite import ir

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.jit.machine_code import assembled, load
from powerinfer_cli.kernels.simd.semaphores import DISPATCH, KERNEL32, SemaphoreCalls
from powerinfer_cli.router import process as routed
from powerinfer_cli.runtime import threads
from powerinfer_cli.serving.http import sockets as listening
from powerinfer_cli.system import (
    cores,
    cpu,
    files,
    limits,
    memory,
    processes,
    signals,
    windows,
)

GIB = 1 << 30


def of(reference: Any) -> Any:
    """What a `byref` refers to."""
    return reference._obj


def test_memory_of_windows(kernel32: SimpleNamespace) -> None:
    def status(found: Any) -> int:
        assert of(found).length == ctypes.sizeof(of(found)) == 64
        of(found).physical_left, of(found).committable_left = 5 * GIB, 3 * GIB
        return 1

    def used(handle: Any, found: Any, size: int) -> int:
        assert size == ctypes.sizeof(of(found)) == 72
        of(found).now, of(found).peak = (2 * GIB, 3 * GIB) if handle.value == 77 else (GIB, 4 * GIB)
        return 1

    kernel32.GlobalMemoryStatusEx, kernel32.K32GetProcessMemoryInfo = status, used
    assert memory.available_memory() == 3 * GIB
    assert memory.peak_memory() == 4 * GIB
    assert memory.resident_memory() == limits.memory_now() == GIB
    assert memory.resident_memory(5) == 2 * GIB
    assert kernel32.closed == [77]
    assert memory.resident_memory(6) is None


def test_locking_on_windows_makes_room_for_it_first(kernel32: SimpleNamespace) -> None:
    sizes = []

    def have(process: Any, least: Any, most: Any) -> int:
        of(least).value, of(most).value = 200, 1000
        return 1

    kernel32.GetProcessWorkingSetSize = have
    kernel32.SetProcessWorkingSetSize = lambda process, least, most: sizes.append((least.value, most.value)) or 1
    kernel32.VirtualLock = lambda address, size: (address.value, size.value) == (4096, 50)
    assert memory.lock_memory(4096, 50)
    assert sizes == [(250, 1050)]
    assert not memory.lock_memory(4096, 51)


def test_pages_on_windows(kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    dropped = []
    kernel32.VirtualUnlock = lambda address, size: dropped.append((address.value, size.value))
    with memory.private_pages(8192, huge=True) as pages:
        memory.drop_pages(pages, 4096, 100, 1 << 40)
    assert dropped == [((1 << 40) + 4096, 100)]
    monkeypatch.delattr(mmap, "MAP_PRIVATE")
    monkeypatch.delattr(ctypes, "CDLL")  # what is Linux's own is in its C library
    memory.one_heap()
    memory.forget_code("libc")
    memory.return_memory()


def test_memory_of_macos(libsystem: SimpleNamespace) -> None:
    def statistics(host: int, flavour: int, counts: Any, n: Any) -> int:
        assert (host, flavour, of(n).value) == (3, 4, 38)
        counts[0], counts[1], counts[2] = 10, 20, 30
        return 0

    def info(process: int, flavour: int, more: Any, found: Any, size: int) -> int:
        assert (flavour, size) == (4, ctypes.sizeof(found))
        if process == 6:
            return 0
        found[0], found[1] = 9 * GIB, 2 * GIB
        return size

    released = []
    libsystem.mach_host_self, libsystem.host_statistics64, libsystem.proc_pidinfo = lambda: 3, statistics, info
    libsystem.malloc_zone_pressure_relief = lambda zone, goal: released.append((zone, goal.value))
    assert memory.available_memory() == 40 * mmap.PAGESIZE
    assert memory.resident_memory() == 2 * GIB
    assert memory.resident_memory(6) is None
    memory.return_memory()
    assert released == [(None, 0)]
    resource = pytest.importorskip("resource")
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert memory.peak_memory() == limits.memory_now() == used  # bytes there


def test_cores_of_windows(kernel32: SimpleNamespace) -> None:
    def masks(process: Any, own: Any, machine: Any) -> int:
        of(own).value, of(machine).value = 0b1101, 0b1111
        return 1

    def processors(found: Any, size: Any) -> int:
        of(size).value = 3 * 32
        for one, (relation, mask) in zip(found or (), ((0, 0b0011), (3, 0b1111), (0, 0b1100)), strict=False):
            one.relation, one.mask = relation, mask
        return found is not None

    pinned = []
    kernel32.GetProcessAffinityMask, kernel32.GetLogicalProcessorInformation = masks, processors
    kernel32.SetThreadAffinityMask = lambda thread, mask: pinned.append(mask.value) or 1
    assert cores.usable_cores() == {0, 2, 3}
    assert cores.physical_cores({0, 2, 3}) == 2
    assert cores.physical_cores({2, 3}) == 1
    cores.pin_thread(frozenset({0, 3}))
    assert pinned == [0b1001]
    kernel32.SetThreadAffinityMask = lambda thread, mask: 0
    with pytest.raises(OSError, match="SetThreadAffinityMask"):
        cores.pin_thread(frozenset({1}))


def test_macs_count_their_fast_cores(libsystem: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[bytes, Any] = {b"hw.physicalcpu": 8, b"machdep.cpu.brand_string": b"Apple M4"}

    def by_name(name: bytes, found: Any, size: Any, new: None, n: Any) -> int:
        if name not in settings:
            return -1
        (found if isinstance(settings[name], bytes) else of(found)).value = settings[name]
        return 0

    libsystem.sysctlbyname = by_name
    assert cores.physical_cores(range(10)) == 8
    settings[b"hw.perflevel0.physicalcpu"] = 4
    assert cores.physical_cores(range(10)) == 4
    assert cores.physical_cores([0]) == 1
    assert cpu.processor_name() == "Apple M4"
    monkeypatch.setattr(threads, "PINS", False)
    with pytest.raises(PowerInferError, match=r"^--cpu-mask 1: this system lets nobody choose the cores of a thread$"):
        threads.parse_cpu_mask("1")


def test_processor_and_age_on_windows(kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def times(process: Any, begun: Any, *others: Any) -> int:
        of(begun).value = int((windows.time.time() + 11644473600 - 3.0) * 1e7)
        return 1

    class Key:
        def __enter__(self) -> str:
            return "key"

        def __exit__(self, *what: object) -> None:
            pass

    registry = SimpleNamespace(HKEY_LOCAL_MACHINE=1, OpenKey=lambda root, path: Key())
    registry.QueryValueEx = lambda key, name: (" A CPU ", 1)
    monkeypatch.setitem(sys.modules, "winreg", registry)
    kernel32.GetProcessTimes, kernel32.IsProcessorFeaturePresent = times, lambda number: number == 43
    assert processes.seconds_since_start() == pytest.approx(3.0, abs=0.5)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "resource", None)
        assert not processes.had_children()
    assert cpu.processor_name() == "A CPU"
    assert cpu.has_arm_dot_products()


def test_files_are_locked_and_replaced_on_windows(
    kernel32: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = SimpleNamespace(LK_NBLCK=2, at=[], taken=False)

    def locking(descriptor: int, mode: int, n: int) -> None:
        runtime.at.append(os.lseek(descriptor, 0, os.SEEK_CUR))
        if runtime.taken:
            raise PermissionError(13, "taken")

    runtime.locking = locking
    monkeypatch.setitem(sys.modules, "msvcrt", runtime)
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_text("old")
    new.write_text("new")
    with old.open("rb") as file:
        file.read(2)
        files.lock_file(file)
        runtime.taken = True
        with pytest.raises(BlockingIOError):
            files.lock_file(file)
        assert file.read() == b"d"
    assert runtime.at == [1 << 43] * 2
    opened: list[int] = []
    open_file = os.open
    with monkeypatch.context() as patched:
        patched.setattr(os, "open", lambda path, flags: opened.append(flags) or open_file(path, flags))
        files.to_disk(old)
    assert opened == [os.O_RDWR]  # what is open to be read alone is not written out there

    replace = Path.replace

    def mapped(self: Path, target: Path) -> Path:
        if target.exists():
            raise PermissionError(13, "mapped")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", mapped)
    files.replace(new, old)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("old", "new")]
    assert files.own_folder(tmp_path, "mine") == tmp_path / "mine"
    (tmp_path / "mine").chmod(0o755)  # rights of others say nothing there
    assert files.own_folder(tmp_path, "mine") == tmp_path / "mine"


def test_files_are_opened_so_that_they_can_be_renamed(
    kernel32: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    kernel32.CreateFileW = lambda path, *rest: calls.append((path.value, *rest)) or 9
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(open_osfhandle=lambda handle, flags: handle + 1))
    assert files.open_to_map(Path("a")) == windows.open_shared("b", os.O_RDWR | os.O_CREAT) == 10
    assert calls == [("a", 1 << 31, 7, None, 3, 128, None), ("b", 3 << 30, 7, None, 4, 128, None)]
    monkeypatch.delattr(os, "fchmod")
    with open(tmp_path / "secret", "w", encoding="utf-8", opener=files.open_private) as file:
        file.write("key")
    assert (tmp_path / "secret").read_text("utf-8") == "key"


def test_limits_of_a_process_on_windows(kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def limit(job: Any, kind: int, found: Any, size: Any) -> int:
        assert (job.value, kind, size.value, of(found).flags) == (8, 9, 144, 0x100)
        return of(found).process_memory == 160 << 20

    kernel32.CreateJobObjectW, kernel32.SetInformationJobObject = lambda *none: 8, limit
    kernel32.AssignProcessToJobObject = lambda job, process: 1
    monkeypatch.setattr(limits, "_limit", None)  # there is none that could be told of files
    limits.limit_memory(160 << 20)
    limits.forbid_files()
    with pytest.raises(OSError, match="no job"):
        limits.limit_memory(1)


def test_memory_is_watched_on_macos(libsystem: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, used = threading.Event(), iter((GIB, GIB + 1))
    told: list[int] = []
    monkeypatch.setattr(limits, "memory_now", lambda: next(used))
    monkeypatch.setattr(limits.os, "_exit", lambda code: told.append(code) or ended.set())
    limits.limit_memory(GIB)
    assert ended.wait(10)
    assert told == [1]
    assert next(used, None) is None


def test_the_end_that_is_not_waited_for(kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(signals.os, "_exit", lambda code: ended.set())
    with monkeypatch.context() as patched, signals.exit_later() as start:
        patched.delattr(signals.signal, "SIGALRM")
        start(0.01)
        assert ended.wait(5)
        start(60.0)
    assert not any(
        isinstance(thread, threading.Timer) and not thread.finished.is_set() for thread in threading.enumerate()
    )


def test_without_sockets_at_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (routed, listening):
        monkeypatch.setattr(module, "path_family", lambda: None)
    with pytest.raises(PowerInferError, match="no sockets with paths: give an address"):
        listening.bind(["a.sock"], 0)
    model = routed.ModelProcess(["server"], Path("a.sock"), {"A": "b"}, lambda line: None)
    host, address, flag, port = model._where
    assert (host, address, flag) == ("--host", "127.0.0.1", "--port")
    request = model.client.build_request("GET", "/health")
    assert str(request.url) == f"http://127.0.0.1:{port}/health"
    assert request.headers["authorization"] == f"Bearer {model._environment['LLAMA_API_KEY']}"
    asyncio.run(model.client.aclose())


@pytest.mark.parametrize(
    ("calls", "names"),
    [
        (DISPATCH, ("dispatch_semaphore_create", "dispatch_semaphore_signal", "dispatch_semaphore_wait")),
        (KERNEL32, ("CreateSemaphoreW", "ReleaseSemaphore", "WaitForSingleObject")),
    ],
)
def test_semaphores_of_others(calls: SemaphoreCalls, names: tuple[str, ...]) -> None:
    """With functions of those names that a Python semaphore stands behind."""
    made = threading.Semaphore(0)
    signature = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    told = []
    functions = (
        lambda *_: 0x1234567890,
        lambda at, _: told.append(at) or made.release(),
        lambda at, _: made.acquire() * 1,
    )
    kept = [signature(function) for function in functions]
    for name, function in zip(names, kept, strict=True):
        llvm.add_symbol(name, ctypes.cast(function, ctypes.c_void_p).value)
    slot = ctypes.create_string_buffer(32)
    for called, code in zip(names, (calls.init, calls.post, calls.wait), strict=True):
        module, name = ir.Module(), f"calls_{called}"
        module.triple = llvm.get_process_triple()
        function = ir.Function(module, ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer()]), name)
        builder = ir.IRBuilder(function.append_basic_block())
        code(builder, function.args[0])
        builder.ret_void()
        address = load(assembled(llvm.parse_assembly(str(module))), name)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)(ctypes.addressof(slot))
    assert int.from_bytes(slot.raw[:8], "little") == 0x1234567890
    assert told == [0x1234567890]
