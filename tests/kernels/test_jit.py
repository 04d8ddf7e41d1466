"""Which instructions are used, and the cache of compiled kernels: shared, private, damaged, written by two at once."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from numba import types

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels import jit
from powerinfer_cli.kernels.jit import Kernel, Rung, cache_folder, prepare
from powerinfer_cli.kernels.rung import choose_rung

AVX2 = {"avx2": True, "fma": True, "f16c": True}
VNNI = dict.fromkeys(("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"), True) | AVX2


@pytest.mark.parametrize(
    ("features", "forced", "rung"),
    [
        (VNNI, None, Rung.VNNI),
        (VNNI, "", Rung.VNNI),
        (VNNI, "avx2", Rung.AVX2),
        (VNNI, "AVX2", Rung.AVX2),
        (VNNI, " Any ", Rung.ANY),
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
        (VNNI, "sse9", "unknown; choose vnni, avx2, any"),
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
    monkeypatch.setattr(jit.tempfile, "tempdir", str(tmp_path))
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
    monkeypatch.setattr(jit, "_folder", lambda: tmp_path)
    monkeypatch.setattr(jit.numba.config, "CACHE_DIR", jit.numba.config.CACHE_DIR)
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


def files(cache: Path, suffix: str) -> list[Path]:
    found = sorted(cache.rglob(f"*{suffix}"))
    assert found
    return found


DAMAGE = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[: len(data) // 2],
    "one bit": lambda data: data[:-20] + bytes([data[-20] ^ 1]) + data[-19:],
    "other bytes": lambda data: os.urandom(len(data)),
    "another pickle": lambda data: pickle.dumps({"not": "a cache"}),
    "a pickle of a lost class": lambda data: b"cnowhere.at_all\nThing\n.",
}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_damaged_files_are_made_anew(cache: Path, suffix: str, damage) -> None:
    made().call(1)
    for path in files(cache, suffix):
        path.write_bytes(damage(path.read_bytes()))
    kernel = made()
    assert not kernel.load()
    assert kernel.call(5) == 15
    assert made().load()


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_not_fatal(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_FAILURES", [])
    monkeypatch.setattr(jit.IndexDataCacheFile, "_save_data", full)
    assert jit.not_kept() is None
    kernel = made()
    assert kernel.call(14) == 42
    assert kernel.ready
    assert jit.not_kept() == f"{cache}: No space left on device"
    monkeypatch.undo()
    assert not made().load()  # an index that names a file which is not there


def test_a_file_that_cannot_be_replaced_is_not_fatal(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_FAILURES", [])
    assert made().call(14) == 42
    (index,) = files(cache, ".nbi")
    index.unlink()
    index.mkdir()
    assert made().call(14) == 42
    assert jit.not_kept() == f"{cache}: Is a directory"
    assert not [path for path in cache.iterdir() if ".tmp." in path.name]


def test_no_folder_at_all_is_not_fatal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jit, "_FAILURES", [])
    monkeypatch.setattr(jit, "_folder", full)
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
    assert len(files(tmp_path, ".nbi")) == 1


def test_names_are_unique() -> None:
    jit.kernel(types.int64(types.int64), "test_unique")(triple)
    with pytest.raises(ValueError, match="two kernels are named test_unique"):
        jit.kernel(types.int64(types.int64), "test_unique")(triple)


def test_a_helper_is_compiled_once_whatever_its_constants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba would do so for each of them, and make machine code that nobody calls: half of the time in all."""
    monkeypatch.setattr(jit, "_folder", lambda: tmp_path)
    add = jit.helper(_add)
    made = Kernel(lambda n: add(add(n, 1), 2), types.int64(types.int64), "test_three_more")
    assert made.call(4) == 7
    (overload,) = add.overloads.values()
    assert overload.library.get_pointer_to_function(overload.fndesc.mangled_name) == 0


def _add(n, more):
    return n + more
