"""Windows' streams, consoles, names and files, called on Linux with stand-ins for what it has."""

import asyncio
import contextlib
import errno
import io
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from powerinfer_cli.commands.shared.text_file import read_stdin
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import replacing
from powerinfer_cli.gguf_io import GGUFError, open_gguf
from powerinfer_cli.hub.choice import is_safe
from powerinfer_cli.kernels.jit import ahead
from powerinfer_cli.kernels.jit import files as kept_code
from powerinfer_cli.router import process as routed
from powerinfer_cli.serving.slots.slot_files import read_slot, write_slot
from powerinfer_cli.system import consoles, drivers, files, signals, sockets, watchdog, windows
from powerinfer_cli.system.processes import python_program


def test_streams_of_windows(kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe there is cp1252: what it lacks must come out all the same."""
    written, typed = io.BytesIO(), io.BytesIO("größer ∑\r\n".encode())
    for name, pipe in (("stdout", written), ("stdin", typed)):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(pipe, encoding="cp1252", newline=""))
    monkeypatch.setattr(sys, "stderr", SimpleNamespace())  # somebody else's
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    consoles.use_utf8()
    assert sys.stdout.encoding == "cp1252"
    monkeypatch.delenv("PYTHONIOENCODING")
    consoles.use_utf8()
    print("größer ∑", flush=True)
    assert written.getvalue() == "größer ∑\n".encode()
    assert read_stdin() == "größer ∑"
    for gone, error in (
        (True, OSError(errno.EINVAL, "Invalid argument")),
        (True, BrokenPipeError()),
        (False, OSError(errno.EINVAL, "Invalid argument", "a file")),
        (False, OSError(errno.ENOSPC, "No space left")),
    ):
        assert consoles.reader_gone(error) is gone


def test_a_console_is_asked_to_take_sequences(kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    mode, told = 3, []

    def get(handle: Any, found: Any) -> bool:
        found._obj.value = mode
        return handle.value == 101

    kernel32.GetConsoleMode = get
    kernel32.SetConsoleMode = lambda handle, wanted: told.append((handle.value, wanted.value)) or known
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(get_osfhandle=lambda descriptor: descriptor + 100))
    console, file = (SimpleNamespace(isatty=lambda: True, fileno=lambda n=n: n) for n in (1, 2))
    for known in (True, False):
        assert consoles.shows_colours(console) is known
    assert told == [(101, 7)] * 2
    assert not consoles.shows_colours(file)  # a terminal to the C library, none to the system
    mode = 7
    assert consoles.shows_colours(console)
    assert not consoles.shows_colours(SimpleNamespace(isatty=lambda: False))
    assert len(told) == 2


def test_ctrl_c_passes_by_what_is_started_on_windows(kernel32: SimpleNamespace) -> None:
    told: list[int] = []
    kernel32.SetConsoleCtrlHandler = lambda handler, ignored: told.append(ignored.value)
    with contextlib.suppress(KeyError), signals.without_interrupts():
        assert told == [1]
        raise KeyError
    assert told == [1, 0]


@pytest.mark.parametrize("name", ["aux.gguf", "COM1", "lpt9 .x", "a.", "a ", "a:b", "a?", "con", "NUL.tar.gz", "x\ny"])
def test_names_that_windows_has_not(kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert not files.takes_name(name)
    assert not is_safe(f"folder/{name}")
    assert files.takes_name("console.gguf")
    assert is_safe("auxiliary/com10.gguf")
    monkeypatch.setattr(files, "WINDOWS", False)
    assert files.takes_name(name)


def test_names_that_are_too_long_for_windows(
    kernel32: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(path: str, flags: int) -> int:
        raise FileNotFoundError(errno.ENOENT, "The system cannot find the path specified", path)

    def fail(temporary: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory")

    monkeypatch.setattr(windows, "open_shared", missing)
    deep, told = tmp_path.joinpath(*["folder"] * 40), "longer than 259 characters: .* LongPathsEnabled is 1"
    with pytest.raises(GGUFError, match=f"model.gguf: cannot be opened: The system cannot .*{told}"):
        open_gguf(deep / "model.gguf")
    with pytest.raises(PowerInferError, match=told), replacing(deep / "model.gguf") as temporary:
        fail(temporary)
    with pytest.raises(GGUFError, match=r"cannot be opened: The system cannot find the path specified$"):
        open_gguf(tmp_path / "model.gguf")
    assert not files.name_advice(Path("\\\\?\\C:\\" + "folder\\" * 40))
    monkeypatch.setattr(files, "WINDOWS", False)
    assert not files.name_advice(deep)


def test_ports_that_nobody_else_takes_on_windows(kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", ~socket.SO_REUSEADDR, raising=False)
    told = []
    sockets.keep_port(SimpleNamespace(setsockopt=lambda *what: told.append(what)))  # type: ignore[arg-type]  # a stand-in
    assert told == [(socket.SOL_SOCKET, ~socket.SO_REUSEADDR, 1)]


def test_pieces_pass_a_windows_socket(kernel32: SimpleNamespace) -> None:
    """It sends one part at a time, and refuses to wait for all where it has a time limit."""
    ours, theirs = socket.socketpair()
    sent: list[int] = []

    def send(piece: memoryview) -> int:
        sent.append(len(piece))
        return ours.send(piece[:50_000])

    def receive(room: memoryview, n: int, flags: int) -> int:
        if flags:
            raise OSError(10045, "WSAEOPNOTSUPP")
        return theirs.recv_into(room[:30_000])

    large = bytes(range(256)) * 1000
    with ours, theirs:
        for sock in (ours, theirs):
            sock.settimeout(20.0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        sockets.send_parts(SimpleNamespace(send=send), [b"head", b"", b"small"])  # type: ignore[arg-type]  # stand-ins
        assert sent == [9]
        sockets.send_parts(SimpleNamespace(send=send), [b"head", large])  # type: ignore[arg-type]  # stand-ins
        assert sent[1:3] == [4, len(large)]
        sockets.send_parts(SimpleNamespace(send=send), [])  # type: ignore[arg-type]  # stand-ins
        wanted = b"headsmallhead" + large
        found = bytearray(len(wanted))
        view, at = memoryview(found), 0
        while at < len(wanted):
            at += sockets.receive_some(SimpleNamespace(recv_into=receive), view[at:])  # type: ignore[arg-type]  # stand-ins
        assert found == wanted


CHILD = """
import socket
from powerinfer_cli.system import sockets
sockets.WINDOWS = True
socket.fromshare = lambda told: socket.socket(fileno=int(told))
requests, replies = sockets.input_streams()
with requests, replies:
    replies.write(requests.readline().upper())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="hands over by number, as a stand-in")
def test_a_socket_is_handed_over_on_windows(kernel32: SimpleNamespace) -> None:
    """By what `share` makes of it for the child's number, through the child's standard input."""
    ours, theirs = socket.socketpair()
    shared: list[int] = []
    given: Any = SimpleNamespace(share=lambda number: shared.append(number) or str(theirs.fileno()).encode())
    stdin = sockets.as_input(given)
    assert stdin == subprocess.PIPE
    with ours, theirs:
        ours.settimeout(60.0)
        with subprocess.Popen([sys.executable, "-c", CHILD], stdin=stdin, pass_fds=[theirs.fileno()]) as child:
            sockets.hand_over(given, child)
            ours.sendall(b"told\n")
            assert ours.recv(64) == b"TOLD\n"
            assert child.wait(60) == 0
    assert shared == [child.pid]


def test_what_is_not_counted_or_watched_on_windows(kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptors have no limit that a process could ask for, and nobody else can have its signals."""
    monkeypatch.setitem(sys.modules, "resource", None)
    assert sockets.open_descriptors() == (None, None)
    monkeypatch.setattr(watchdog, "WINDOWS", True)
    monkeypatch.delattr(signal, "SIGHUP")
    with watchdog.watchdog(60.0, "late"):
        assert signal.set_wakeup_fd(-1) == -1


def test_drivers_of_windows(kernel32: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMROOT", str(tmp_path))
    (tmp_path / "System32").mkdir()
    assert not drivers.has_gpu_driver()
    for name in ("nvcuda.dll", "amdhip64_6.dll"):
        (tmp_path / "System32" / name).touch()
        assert drivers.has_gpu_driver()
        (tmp_path / "System32" / name).unlink()


def test_slots_and_compiled_kernels_are_kept_on_windows(
    kernel32: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_NONBLOCK")
    monkeypatch.setattr(windows, "open_shared", os.open)
    for ids in ([1, 2], [3]):
        write_slot(tmp_path / "slot", "model", ids, {})
        assert read_slot(tmp_path / "slot", "model", 8, 8).ids == ids
    monkeypatch.setattr(kept_code, "_folder", lambda: tmp_path)
    monkeypatch.setattr(kept_code, "_FAILURES", [])

    def taken(new: Path, path: Path) -> None:
        raise PermissionError(13, "another process reads it")

    kept_code.save_code("kernel", b"code")
    monkeypatch.setattr(kept_code, "replace", taken)
    kept_code.save_code("kernel", b"code")
    assert kept_code.not_kept() is None
    kept_code.save_code("kernel", b"other code")
    assert str(kept_code.not_kept()).endswith("another process reads it")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kernel.o", "slot"]


@pytest.mark.parametrize("fault", [OSError(6, "The handle is invalid"), SystemError("no result"), ValueError("?")])
def test_a_model_that_no_console_can_tell_to_end(fault: Exception) -> None:
    """Its standard input ends instead, by which it ends in order."""

    async def run() -> int | None:
        program = [sys.executable, "-c", "import sys; sys.exit(3 if sys.stdin.read() == '' else 4)"]
        model = routed.ModelProcess(program, Path("none.sock"), dict(os.environ), lambda line: None)
        await model.start()
        assert model._process is not None

        def fail(number: int) -> None:
            raise fault

        model._process.send_signal = fail  # type: ignore[method-assign]
        await model.stop(20.0)
        return model.exit_code

    assert asyncio.run(run()) == 3


def test_in_a_virtual_environment_the_real_python_is_started(
    kernel32: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A socket is given to a process by its number, which a launcher's is not."""
    monkeypatch.setattr(sys, "executable", r"C:\own\Scripts\python.exe")
    monkeypatch.setattr(sys, "_base_executable", r"C:\Python\python.exe")
    assert python_program() == (r"C:\Python\python.exe", {"__PYVENV_LAUNCHER__": r"C:\own\Scripts\python.exe"})
    monkeypatch.setattr(sys, "_base_executable", sys.executable)
    assert python_program() == (sys.executable, {})


def test_no_more_processes_compile_than_a_pool_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    kernels: Any = [SimpleNamespace(name=str(n)) for n in range(400)]
    monkeypatch.setattr(ahead, "_by_processes", lambda names, jobs: asked.append(jobs) or names)
    for on_windows in (True, False):
        monkeypatch.setattr(ahead, "WINDOWS", on_windows)
        assert len(list(ahead._compiled(kernels, 96))) == 400
    assert asked == [61, 96]


def test_a_routed_server_keeps_its_input_from_its_children() -> None:
    """They would wait for who reads it. Its end still ends the server."""
    code = (
        "import subprocess, sys, time\n"
        "from powerinfer_cli.commands.server.input_end import end_with_input\n"
        "end_with_input()\n"
        "subprocess.run([sys.executable, '-c', 'import sys; print(len(sys.stdin.read()))'], timeout=30, check=True)\n"
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        process.stdin.close()
        assert process.wait(30) == -signal.SIGTERM
