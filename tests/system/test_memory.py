"""How much memory there is: the machine's, and a control group's in each of the two versions; what is done about it."""

import ctypes
import mmap
import os
import platform
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.runtime import Engine, EngineOptions, available_memory
from powerinfer_cli.runtime.cpu import packer
from powerinfer_cli.system import memory
from tests.helpers.tiny_models import tiny_model

MIB = 1 << 20


class Machine:
    """Stands for /proc and /sys/fs/cgroup."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        monkeypatch.setattr(memory, "_PROC", folder / "proc")
        monkeypatch.setattr(memory, "_CGROUPS", folder / "cgroup")
        self.write("proc/meminfo", f"MemTotal: 9999999 kB\nMemAvailable:    {8000 * 1024} kB\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def group_v2(self, path: str, most: str, used: int, cached: int) -> None:
        self.write(f"cgroup{path}/memory.max", most + "\n")
        self.write(f"cgroup{path}/memory.current", f"{used}\n")
        stat = f"anon 5\nfile 7\ninactive_file {cached - MIB}\nactive_file {MIB}\n"
        self.write(f"cgroup{path}/memory.stat", stat)

    def group_v1(self, path: str, most: int, used: int, cached: int) -> None:
        self.write(f"cgroup/memory{path}/memory.limit_in_bytes", f"{most}\n")
        self.write(f"cgroup/memory{path}/memory.usage_in_bytes", f"{used}\n")
        stat = f"inactive_file 3\ntotal_inactive_file {cached}\ntotal_active_file 0\n"
        self.write(f"cgroup/memory{path}/memory.stat", stat)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_without_groups_it_is_the_machines(machine: Machine) -> None:
    assert available_memory() == 8000 * MIB
    machine.write("proc/self/cgroup", "0::/\n")
    assert available_memory() == 8000 * MIB


def test_a_group_of_version_2(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "0::/user/job\n")
    machine.group_v2("/user/job", "max", 100 * MIB, 20 * MIB)
    assert available_memory() == 8000 * MIB
    machine.group_v2("/user/job", str(500 * MIB), 100 * MIB, 20 * MIB)
    assert available_memory() == 420 * MIB
    machine.group_v2("/user", str(300 * MIB), 150 * MIB, 30 * MIB)  # it has other jobs, too
    assert available_memory() == 180 * MIB
    machine.group_v2("/user", str(300 * MIB), 350 * MIB, 30 * MIB)
    assert available_memory() == 0


def test_a_group_of_version_1(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "12:cpu,cpuacct:/a\n5:memory:/docker/abc\n0::/\n")
    machine.group_v1("/docker/abc", 1 << 62, 100 * MIB, 0)
    assert available_memory() == 8000 * MIB
    machine.group_v1("/docker/abc", 900 * MIB, 100 * MIB, 50 * MIB)
    assert available_memory() == 850 * MIB


def test_a_container_sees_its_own_group_only(machine: Machine) -> None:
    machine.write("proc/self/cgroup", "5:memory:/docker/of-the-host\n")
    machine.group_v1("", 700 * MIB, 100 * MIB, 0)
    assert available_memory() == 600 * MIB


def test_a_machine_that_says_nothing(machine: Machine) -> None:
    (machine.folder / "proc" / "meminfo").unlink()
    assert available_memory() > 64 * MIB


def test_weights_that_do_not_fit_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = tiny_model("llama").file.stored_as(GGMLType.Q8_0).open(tmp_path)
    for free, repack, advice in (
        (1000, True, "try --no-repack, which leaves weights in the file, or a smaller model"),
        (MIB, True, "try a smaller -c or --no-repack, which leaves weights in the file, or a smaller model"),
        (1000, False, "try a smaller -c or a smaller model"),
    ):
        monkeypatch.setattr(packer, "available_memory", lambda free=free: free)
        with pytest.raises(PowerInferError) as error:
            Engine.load(gguf, EngineOptions(n_ctx=1 << 14, repack=repack))
        assert str(error.value).endswith(f" are free: {advice}")
        assert "\n" not in str(error.value)
        assert ("and the context" in str(error.value)) == ("-c" in advice.split())


def test_code_that_is_dropped_comes_back(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b"\xff\f\n x")  # mapped, too
    with odd.open("wb+") as file, mmap.mmap(file.fileno(), file.truncate(8)):
        memory.forget_code("libc")
    memory.forget_code("libc")
    memory.forget_code("libm")
    assert ctypes.CDLL("libm.so.6").abs(-5) == 5
    assert sorted([3, 1, 2]) == [1, 2, 3]


def test_an_emulator_lists_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "maps").touch()
    monkeypatch.setattr(memory, "_PROC", tmp_path)
    memory.forget_code("libm")


ONE_HEAP = """
import ctypes, threading
from powerinfer_cli.system.memory import one_heap
if {one}:
    one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
found = []
thread = threading.Thread(target=lambda: found.append(libc.malloc(ctypes.c_size_t(1000))))
thread.start()
thread.join()
places = [line.split()[0] for line in open("/proc/self/maps") if line.rstrip().endswith("[heap]")]
print(any(int(begin, 16) <= found[0] < int(end, 16) for begin, end in (place.split("-") for place in places)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has a heap for each thread")
def test_threads_share_one_heap() -> None:
    for one in (False, True):
        command = [sys.executable, "-c", ONE_HEAP.format(one=one)]
        assert subprocess.check_output(command, text=True).strip() == str(one)


def test_memory_is_returned_with_what_is_in_cycles() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.itself = self

    gone = weakref.ref(Cycle())
    memory.return_memory()
    assert gone() is None
