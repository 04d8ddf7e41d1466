"""`powerinfer warmup` and what is said while kernels are compiled, each with a cache of its own."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.kernels import jit
from powerinfer_cli.kernels.jit import ahead
from powerinfer_cli.system.signals import without_interrupts
from tests.helpers.interrupts import ctrl_c_counts
from tests.helpers.main_cli import Process, powerinfer

ROOT = Path(__file__).resolve().parents[2]


def run(*args: str, cwd: Path = ROOT, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, which has compiled nothing."""
    done = subprocess.run(
        [sys.executable, "-m", "powerinfer_cli", *args],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **env},
    )
    assert done.returncode == code, done
    return done


LACKING = "matvec"


def fill(folder: Path, words: str) -> Path:
    """A folder of compiled kernels in which one is lacking: to compile all would take every test many seconds."""
    assert powerinfer("warmup", "-m", words).code == 0
    shutil.copytree(jit.cache_folder(), folder, ignore=shutil.ignore_patterns(f"{LACKING}.*", f"{LACKING}-*"))
    folder.chmod(0o700)
    return folder


@pytest.fixture
def cache(words: str, tmp_path: Path) -> dict[str, str]:
    """The same as a setting for another process."""
    fill(tmp_path / "cache" / "powerinfer" / "kernels" / jit.cache_folder().name, words)
    return {"POWERINFER_CACHE": str(tmp_path / "cache")}


def test_a_model_is_compiled_for_once(words: str, tmp_path: Path, cache: dict[str, str]) -> None:
    first = run("warmup", "-m", words, **cache)
    assert first.stdout == ""
    said = first.stderr.splitlines()
    assert said[0].startswith(f"rung:    {jit.RUNG} (")
    assert said[1] == "compiling kernels (once)"
    assert said[2].startswith("kernels: 1 compiled, in ")
    assert said[3].startswith(f"cache:   {tmp_path / 'cache'}")
    assert run("warmup", "-m", words, **cache).stderr.splitlines()[1] == "kernels: nothing to compile"
    text = run("main", "-m", words, "-p", "Once upon a time", "-n", "4", **cache)
    assert "compiling" not in text.stderr


def test_another_cache_needs_other_kernels(words: str, tmp_path: Path, cache: dict[str, str]) -> None:
    """Which `main` then does not compile."""
    for pattern in ("attention_*_f32*", "store_f32*"):
        for file in tmp_path.rglob(pattern):
            file.unlink()
    types = ("-ctk", "f32", "-ctv", "f32")
    assert "kernels: 1 compiled" in run("warmup", "-m", words, **cache).stderr
    assert "kernels: 3 compiled" in run("warmup", "-m", words, *types, **cache).stderr
    text = run("main", "-m", words, "-p", "Once upon a time", "-n", "4", *types, **cache)
    assert "compiling" not in text.stderr


def test_everything_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the kernels as many as there are in a small house."""
    kernels = [one for one in ahead.every_kernel() if one.name.startswith(("repack_q4", "unpack_q4_0", "unpack_q8_0"))]
    assert len(kernels) >= 4
    monkeypatch.setenv("POWERINFER_CACHE", str(tmp_path))
    monkeypatch.setattr(jit.files, "_folder", jit.cache_folder)
    monkeypatch.setattr(ahead, "FEW", 1)
    fresh = [jit.Kernel(one.function, one.signature, one.name) for one in kernels]
    monkeypatch.setattr(ahead, "every_kernel", lambda: fresh)
    told: list[tuple[int, int]] = []
    assert ahead.compile_all(2, lambda done, total: told.append((done, total))) == (len(fresh), len(fresh))
    assert told == [(done, len(fresh)) for done in range(len(fresh) + 1)]
    assert not any(one.ready for one in fresh)  # others compiled them
    assert ahead.compile_all(2, lambda done, total: None) == (0, len(fresh))
    assert all(one.ready for one in fresh)


def test_every_kernel_of_every_kind() -> None:
    names = {one.name for one in ahead.every_kernel()}
    parts = {"attention", "attention_scores_q8_0", "attention_sums_f32", "rope", "store_f16"}
    assert parts | {"dot_iq4_xs", "matvec", "embed", "follow"} <= names


def test_processes_that_compile_load_no_torch() -> None:
    look = "from powerinfer_cli.kernels.jit.ahead import every_kernel; every_kernel(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"import sys; {look}"], capture_output=True, check=True, cwd=ROOT)
    assert done.stdout == b"False\n"


def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    with Process("warmup", "-j", "2", env={"POWERINFER_CACHE": str(tmp_path)}) as process:
        process.wait_for("compiling kernels")
        process.interrupt()
        result = process.wait()
    assert result.code == 130
    assert "Traceback" not in result.err


def test_ctrl_c_waits_while_processes_start() -> None:
    """Also where a thread of a library takes the signal, since that is blocked in the first alone."""
    ended = threading.Event()
    library = threading.Thread(target=ended.wait)
    library.start()
    started: list[int] = []

    def start() -> None:
        with without_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
            started.append(1)

    try:
        with ctrl_c_counts(), pytest.raises(KeyboardInterrupt):
            start()
    finally:
        ended.set()
        library.join()
    assert started


def test_a_bar_at_a_terminal(words: str, tmp_path: Path) -> None:
    with Process("warmup", "-m", words, terminal=True, env={"POWERINFER_CACHE": str(tmp_path)}) as process:
        process.wait_for("compiling kernels (once) ")
        process.wait_for("\u2501\u2501\u2501")
        process.wait_for("1/")
        process.interrupt()
        assert process.wait().code == 130


def test_nothing_is_said_where_nothing_is_wanted(words: str, cache: dict[str, str]) -> None:
    done = run("main", "-m", words, "-n", "1", "--log-disable", **cache)
    assert done.stderr == ""


def test_a_home_that_cannot_be_written(words: str, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file: not even root makes folders in it")
    (tmp_path / "tmp").mkdir()
    folder = fill(tmp_path / "tmp" / f"powerinfer-kernels-{jit.cache_folder().name}-{os.getuid()}", words)
    done = run("main", "-m", words, "-n", "1", HOME=str(tmp_path / "home"), TMPDIR=str(tmp_path / "tmp"))
    assert "compiling kernels (once)" in done.stderr
    assert list(folder.glob(f"{LACKING}.*"))


def test_a_package_that_cannot_be_written(words: str, tmp_path: Path, cache: dict[str, str]) -> None:
    package = tmp_path / "site" / "powerinfer_cli"
    shutil.copytree(ROOT / "powerinfer_cli", package, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
        folder.chmod(0o555)
    try:
        before = sorted(package.rglob("*"))
        done = run("warmup", "-m", words, cwd=package.parent, PYTHONDONTWRITEBYTECODE="1", **cache)
        assert "compiled, in" in done.stderr
        assert sorted(package.rglob("*")) == before
    finally:
        for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]:
            folder.chmod(0o755)


def test_wrong_usage(tmp_path: Path) -> None:
    result = powerinfer("warmup", "-m", str(tmp_path / "none.gguf"))
    assert result.code == 1
    assert "none.gguf" in result.error
    assert powerinfer("warmup", "-j", "-1").code == 2


# --- what is shown of loading --------------------------------------------------------------------------------------


def test_elsewhere_than_at_a_terminal_compiling_is_one_line_and_weights_none() -> None:
    lines: list[str] = []
    with Loading(lines.append) as events:
        for done in range(3):
            events.progress("compiling kernels (once)", done, 3)
        events.note("IQ1_S converted to Q8_0")
        for done in range(3):
            events.progress("loading weights", done, 3)
    assert lines == ["compiling kernels (once)", "IQ1_S converted to Q8_0"]
    quiet: list[str] = []
    with Loading(quiet.append, quiet=True) as events:
        events.progress("compiling kernels (once)", 0, 3)
    assert quiet == []
