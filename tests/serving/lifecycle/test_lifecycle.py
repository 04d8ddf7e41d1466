"""A real server from its first moment to its last: loading, signals, what it cannot start with."""

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from powerinfer_cli.runtime.cpu.packer import PACKING
from powerinfer_cli.runtime.cpu.side import COMPILING
from powerinfer_cli.serving.load_progress import LoadProgress
from tests.helpers.main_cli import Process
from tests.helpers.server_process import RunningServer
from tests.helpers.word_model import word_model

FLAGS = ("-t", "1", "-c", "256", "-np", "1", "--ctx-shift", "--ignore-eos")
ENDLESS = {"prompt": "Once upon a time", "n_predict": -1, "stream": True}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that loads at once."""
    return str(word_model().write(tmp_path_factory.mktemp("lifecycle") / "words.gguf"))


class Endless:
    """A client that reads a text without end."""

    def __init__(self, server: RunningServer) -> None:
        self._client = server.new_client()
        self.began, self.ended = threading.Event(), threading.Event()
        self.last = ""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self.began.wait(30)

    def _read(self) -> None:
        try:
            with self._client.stream("POST", "/completion", json=ENDLESS) as answer:
                for line in answer.iter_lines():
                    self.last = line or self.last
                    self.began.set()
        except httpx.HTTPError:
            pass  # the server may close the connection
        finally:
            self.began.set()
            self.ended.set()

    def close(self) -> None:
        self._thread.join(20)
        self._client.close()


def test_the_port_is_open_while_the_model_loads() -> None:
    """The bundled model, and the program as `python -m` starts it, its standard input and output closed."""
    command = [sys.executable, "-m", "powerinfer_cli", "server", "--port", "0", *FLAGS]
    process = subprocess.Popen(
        ["/bin/sh", "-c", 'exec "$0" "$@" <&- >&-', *command],
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stderr is not None
    try:
        url = process.stderr.readline().split()[3]
        answers = [httpx.get(f"{url}/health", timeout=20)]
        completion = httpx.post(f"{url}/completion", json={"prompt": "x"}, timeout=20)
        while answers[-1].status_code == 503:
            answers.append(httpx.get(f"{url}/health", timeout=20))
            time.sleep(0.02)
        errors = [answer.json()["error"] for answer in answers[:-1]]
        steps = [LoadProgress.read(error.pop("progress")) for error in errors]
        assert errors == [{"code": 503, "message": "Loading model", "type": "unavailable_error"}] * len(errors)
        assert steps[0] is not None
        assert {step.what for step in steps if step} <= {"starting", COMPILING, PACKING}
        assert completion.status_code == 503
        assert answers[-1].json() == {"status": "ok"}
        process.send_signal(signal.SIGTERM)
        assert process.wait(5) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_also_while_it_writes(story: str, number: signal.Signals) -> None:
    with RunningServer("-m", story, *FLAGS) as server:
        client = Endless(server)
        idle = server.new_client()
        idle.get("/health")  # a connection that stays open
        began = time.monotonic()
        server.signal(number)
        result = server.wait()
        took = time.monotonic() - began
        idle.close()
        client.close()
    assert result.code == 0
    assert took < 5
    assert client.ended.is_set()
    assert '"message":"the server is stopping"' in client.last
    assert "Traceback" not in result.err
    assert "POST /completion 200" in result.err


def test_a_second_signal_ends_it_at_once(story: str) -> None:
    with RunningServer("-m", story, *FLAGS) as server:
        client = Endless(server)
        server.signal(signal.SIGTERM)
        time.sleep(0.3)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        result = server.wait()
        assert time.monotonic() - began < 1
        client.close()
    assert result.code == 1
    assert "Traceback" not in result.err


def test_a_signal_while_the_model_loads() -> None:
    with RunningServer(*FLAGS, wait=False) as server:
        began = time.monotonic()
        server.signal(signal.SIGINT)
        result = server.wait()
        assert (result.code, time.monotonic() - began < 5) == (0, True)
        assert "Traceback" not in result.err


def test_a_model_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"nonsense")
    with Process("server", "--port", "0", "-m", str(path)) as process:
        result = process.wait()
    assert result.code == 1
    loading, error = result.err.splitlines()
    assert loading.startswith("loading the model: http://127.0.0.1:")
    assert error.startswith(f"error: {path}")


def test_a_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with Process("server", "--port", str(port)) as process:
            result = process.wait()
    assert (result.code, result.err) == (
        1,
        f"error: cannot listen on 127.0.0.1 port {port}: Address already in use (--host)\n",
    )


def test_several_addresses(story: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", port))
    except OSError:
        pytest.skip("no IPv6 here")
    with Process("server", "-m", story, *FLAGS, "--host", "127.0.0.1,::1", "--port", str(port)) as process:
        process.wait_for(f"server is listening on http://[::1]:{port}")
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{port}/health").json() == {"status": "ok"}


def test_more_idle_connections_than_it_may_have_descriptors(story: str) -> None:
    """It once logged 50,000 lines, and let nobody in."""
    command = [sys.executable, "-m", "powerinfer_cli", "server", "--port", "0", "-m", story, *FLAGS]
    root = Path(__file__).parents[2]
    limited = ["/bin/sh", "-c", 'ulimit -n 64; exec "$0" "$@"', *command]
    with contextlib.ExitStack() as opened:
        process = opened.enter_context(subprocess.Popen(limited, stderr=subprocess.PIPE, text=True, cwd=root))
        opened.callback(process.kill)
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        while "listening" not in lines[-1]:
            assert lines[-1]
            lines.append(process.stderr.readline())
        host, _, port = lines[-1].split()[-1].removeprefix("http://").partition(":")
        for _ in range(120):
            opened.enter_context(socket.create_connection((host, int(port)), timeout=20))
        for _ in range(3):
            assert httpx.get(f"http://{host}:{port}/health", timeout=20).status_code == 200
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read().splitlines()
        assert process.wait(20) == 0
    assert sum("connections (ulimit -n)" in line for line in rest) == 1
    assert len(rest) < 10
