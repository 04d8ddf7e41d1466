"""Which instructions are used, and the cache of compiled kernels: shared, private, damaged, written by two at once."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from llvmlite.binding.targets import FeatureMap

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels import jit
from powerinfer_cli.kernels.jit import Kernel, Rung, cache_folder, files, prepare, types
from powerinfer_cli.kernels.jit import rung as rungs
from powerinfer_cli.kernels.jit.rung import choose_rung, possible_rungs
from powerinfer_cli.system import cpu

AVX2 = {"avx2": True, "fma": True, "f16c": True}
NEON = {"neon": True, "dotprod": True}
VNNI = dict.fromkeys(("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"), True) | AVX2


@pytest.mark.parametrize(
    ("features", "forced", "rung"),
    [
        (VNNI, None, Rung.VNNI),
        (VNNI, "", Rung.VNNI),
        (VNNI, "avx2", Rung.AVX2),
        (VNNI, "AVX2", Rung.AVX2),
        (VNNI, " Any ", Rung.ANY),
        (VNNI, "avxvnni", Rung.AVX_VNNI),
        (AVX2 | {"avxvnni": True}, None, Rung.AVX_VNNI),
        (NEON, None, Rung.NEON),
        (NEON | {"i8mm": True}, None, Rung.I8MM),
        (NEON | {"i8mm": True}, "neon", Rung.NEON),
        (NEON | {"dotprod": False}, None, Rung.ANY),
        (NEON, "any", Rung.ANY),
        (VNNI | {"avx512vnni": False}, None, Rung.AVX2),
        (AVX2, None, Rung.AVX2),
        (AVX2 | {"f16c": False}, None, Rung.ANY),
        ({}, None, Rung.ANY),
    ],
)
def test_rung(features: dict[str, bool], forced: str | None, rung: Rung) -> None:
    chosen, reason = choose_rung(features, forced)
    assert chosen is rung
    assert reason == (f"POWERINFER_CPU={rung}" if forced else f"the CPU has {rung.label}")


@pytest.mark.parametrize(
    ("features", "forced", "reason"),
    [
        (VNNI, "sse9", "unknown; choose vnni, avxvnni, avx2, any"),
        (VNNI, "avx2,any", "unknown"),
        (AVX2, "VNNI", "not what this CPU has; choose avx2, any"),
        ({}, "avx2", "not what this CPU has; choose any"),
    ],
)
def test_a_rung_that_is_not_there_is_an_error(features: dict[str, bool], forced: str, reason: str) -> None:
    with pytest.raises(PowerInferError) as error:
        choose_rung(features, forced)
    assert str(error.value).startswith(f"POWERINFER_CPU={forced}: {reason}")
    assert "\n" not in str(error.value)


def test_rungs_that_a_cpu_has() -> None:
    """The first is its best; scripts/test tries the others as well."""
    assert possible_rungs(VNNI) == [Rung.VNNI, Rung.AVX_VNNI, Rung.AVX2, Rung.ANY]
    assert possible_rungs(NEON) == [Rung.NEON, Rung.ANY]
    assert possible_rungs(AVX2) == [Rung.AVX2, Rung.ANY]
    assert possible_rungs({}) == [Rung.ANY]


@pytest.mark.parametrize(
    ("system", "told", "best"),
    [
        ("LINUX", "Features\t: fp asimd asimddp i8mm bf16\n", [Rung.I8MM, Rung.NEON]),
        ("LINUX", "Features\t: fp asimd asimddp svei8mm\n", [Rung.NEON]),
        ("LINUX", "Features\t: fp asimd\n", []),
        ("LINUX", None, []),
        ("MACOS", None, [Rung.I8MM, Rung.NEON]),
        ("MACOS", "an M1", [Rung.NEON]),
        ("WINDOWS", None, [Rung.I8MM, Rung.NEON]),
        ("WINDOWS", "one with dot products alone", [Rung.NEON]),
    ],
)
def test_arm_is_asked_for_its_products_of_bytes(
    system: str, told: str | None, best: list[Rung], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of NEON, LLVM tells on Linux alone.
    told_by_llvm = FeatureMap({"neon": True} if system == "LINUX" else {})
    monkeypatch.setattr(cpu.windows, "has_feature", lambda number: told is None or number == 43)
    monkeypatch.setattr(cpu.macos, "sysctl_number", lambda name: int(told is None and name.endswith("FEAT_I8MM")))
    if told is not None:
        (tmp_path / "cpuinfo").write_text(told)
    monkeypatch.setattr(cpu, "_CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(rungs.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(cpu, system, True, raising=False)
    monkeypatch.setattr(rungs.llvmlite.binding, "get_host_cpu_features", lambda: told_by_llvm)
    features = rungs.cpu_features()
    assert possible_rungs(features) == [*best, Rung.ANY]
    for rung in best:  # what LLVM compiles for says so itself
        target = rungs._target_cpu(rung, features)
        assert target is not None
        wanted = {"+neon", "+dotprod"} | ({"+i8mm"} if rung is Rung.I8MM else set())
        assert set(target.features.split(",")) == wanted


@pytest.mark.parametrize("command", ["main", "bench", "perplexity", "warmup"])
def test_commands_refuse_an_unknown_rung(command: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("word " * 600)
    flags = {"main": ["-p", "a", "-n", "1"], "perplexity": ["-f", str(text)]}.get(command, [])
    done = subprocess.run(
        [sys.executable, "-m", "powerinfer_cli", command, *flags],
        env=os.environ | {"POWERINFER_CPU": "nonsense"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: POWERINFER_CPU=nonsense: unknown; choose")
    assert done.stdout == ""


# --- where compiled kernels are kept -------------------------------------------------------------------------------


def test_cache_is_where_the_user_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("POWERINFER_CACHE", raising=False)
    assert cache_folder().is_relative_to(tmp_path / "xdg" / "powerinfer")
    monkeypatch.setenv("POWERINFER_CACHE", str(tmp_path / "own"))
    assert cache_folder().is_relative_to(tmp_path / "own" / "powerinfer")
    monkeypatch.delenv("POWERINFER_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder().is_relative_to(tmp_path / "home" / ".cache" / "powerinfer")


def test_private_folder_where_the_cache_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("POWERINFER_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path))
    folder = cache_folder()
    assert folder.parent == tmp_path
    assert folder.stat().st_mode & 0o077 == 0
    assert cache_folder() == folder
    # Somebody else could have made it first, to have us load what they compiled.
    folder.chmod(0o777)
    other = cache_folder()
    assert other != folder
    assert other.stat().st_mode & 0o077 == 0


# --- what is in the cache ------------------------------------------------------------------------------------------


def triple(x):
    return 3 * x


def made() -> Kernel:
    """A kernel as a new process has it: neither compiled nor loaded."""
    return Kernel(triple, types.int64(types.int64), "test_triple")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(files, "_folder", lambda: tmp_path)
    monkeypatch.setattr(files, "_FAILURES", [])
    return tmp_path


def test_second_process_compiles_nothing(cache: Path) -> None:
    first = made()
    assert not first.ready
    assert not first.load()
    assert first.call(14) == 42
    assert first.ready
    second = made()
    assert second.load()
    assert second.call(14) == 42


def test_prepare_counts_what_it_compiles(cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    one = made()
    prepare([one, one], lambda done, total: seen.append((done, total)))
    assert one.ready
    assert seen == [(0, 1), (1, 1)]
    prepare([one, made()], lambda done, total: seen.append((done, total)))
    assert seen == [(0, 1), (1, 1)]


DAMAGE = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "one bit": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "one bit of the checksum": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "other bytes": lambda data: os.urandom(len(data)),
    "longer": lambda data: data + b"\0",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_made_anew(cache: Path, damage) -> None:
    made().call(1)
    (path,) = cache.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    kernel = made()
    assert not kernel.load()
    assert kernel.call(5) == 15
    assert made().load()


def test_machine_code_of_something_else_is_made_anew(cache: Path) -> None:
    made().call(1)
    code = files.load_code("test_triple")
    assert code is not None
    files.save_code("test_other_triple", code)
    other = Kernel(triple, types.int64(types.int64), "test_other_triple")
    assert not other.load()
    assert other.call(5) == 15


def test_a_full_disk_is_not_fatal(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.tempfile, "NamedTemporaryFile", full)
    assert jit.not_kept() is None
    kernel = made()
    assert kernel.call(14) == 42
    assert kernel.ready
    assert jit.not_kept() == f"{cache}: No space left on device"
    assert not made().load()


def test_a_file_that_cannot_be_replaced_is_not_fatal(cache: Path) -> None:
    (cache / "test_triple.o").mkdir()
    assert made().call(14) == 42
    assert jit.not_kept() == f"{cache}: Is a directory"
    assert [path.name for path in cache.iterdir()] == ["test_triple.o"]


def test_no_folder_at_all_is_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_FAILURES", [])
    monkeypatch.setattr(files, "_folder", full)
    assert made().call(14) == 42
    assert "No space left on device" in str(jit.not_kept())


def test_two_processes_at_once(tmp_path: Path) -> None:
    program = (
        "import numpy as np\n"
        "from powerinfer_cli.gguf_io import GGMLType\n"
        "from powerinfer_cli.kernels.formats import FORMATS\n"
        "x, y = np.arange(5, dtype=np.float32), np.ones(5, np.float32)\n"
        "print(FORMATS[GGMLType.F32].dot.call(x.ctypes.data, y.ctypes.data, 5, 0))\n"
    )
    environment = os.environ | {"POWERINFER_CACHE": str(tmp_path)}
    both = [
        subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=100)[0] for process in both] == ["10.0\n", "10.0\n"]
    assert [process.returncode for process in both] == [0, 0]
    assert len(list(tmp_path.rglob("*.o"))) == 1
    assert not list(tmp_path.rglob("*.tmp.*"))


def test_names_are_unique() -> None:
    jit.kernel(types.int64(types.int64), "test_unique")(triple)
    with pytest.raises(ValueError, match="two kernels are named test_unique"):
        jit.kernel(types.int64(types.int64), "test_unique")(triple)


def test_a_helper_is_compiled_once_whatever_its_constants(cache: Path) -> None:
    """Numba would do so for each of them, and make machine code that nobody calls: half of the time in all."""
    from powerinfer_cli.kernels.jit.compiler import real

    add = jit.helper(_add)
    made = Kernel(lambda n: add(add(n, 1), 2), types.int64(types.int64), "test_three_more")
    assert made.call(4) == 7
    (overload,) = real(add).overloads.values()
    assert overload.library.get_pointer_to_function(overload.fndesc.mangled_name) == 0


def _add(n, more):
    return n + more


def test_kernels_that_were_compiled_need_no_compiler(tmp_path: Path) -> None:
    """Numba takes half a second and 70 MB of every start."""
    program = (
        "import sys\n"
        "import numpy as np\n"
        "from powerinfer_cli.gguf_io import GGMLType\n"
        "from powerinfer_cli.kernels.formats import FORMATS\n"
        "from powerinfer_cli.kernels.cpu import gemm\n"
        "from powerinfer_cli.kernels.cpu.attention import operation\n"
        "from powerinfer_cli.kernels.cpu.sparse import few\n"
        "x, y = np.arange(5, dtype=np.float32), np.ones(5, np.float32)\n"
        "print(FORMATS[GGMLType.F32].dot.call(x.ctypes.data, y.ctypes.data, 5, 0), 'numba' in sys.modules)\n"
    )
    environment = os.environ | {"POWERINFER_CACHE": str(tmp_path)}
    told = [
        subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True, check=True)
        for _ in range(2)
    ]
    assert [one.stdout for one in told] == ["10.0 True\n", "10.0 False\n"]


def test_what_kernels_refer_to_is_there_without_the_compiler(cache: Path) -> None:
    """Machine code that would call into Numba or Python could not be loaded without them."""
    made().call(1)
    code = files.load_code("test_triple")
    assert code is not None
    assert b"test_triple" in code
    assert not [word for word in (b"numba", b"PyErr", b"NRT_") if word in code]
