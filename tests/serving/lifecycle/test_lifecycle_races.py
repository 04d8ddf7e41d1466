"""What a server's life holds that no process shows when asked: moments between two others."""

import asyncio
import os
import signal
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from powerinfer_cli.serving import lifecycle
from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.lifecycle import serve
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.running import Running
from powerinfer_cli.serving.service import ServedModel


class Failing(threading.Thread):
    """Fails when somebody looks whether it is still at work."""

    def start(self) -> None:
        """Later."""

    def is_alive(self) -> bool:
        self.run()
        return False


def no_model(watch: Any = None) -> tuple[ServedModel, Any]:
    raise ValueError("what a client wrote")


def test_loading_may_fail_while_a_signal_has_ended_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(os, "_exit", ends.append)
    monkeypatch.setattr(asyncio, "run", lambda main: main.close())
    monkeypatch.setattr(threading, "Thread", Failing)
    serve(ServerOptions(), [], no_model, Log(quiet=True))
    assert ends in ([], [0])


def test_signals_are_handled_as_before_once_loading_failed() -> None:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(ValueError, match="what a client wrote"):
        serve(ServerOptions(), [], no_model, Log(quiet=True))
    assert [signal.getsignal(number) for number in numbers] == before


def test_failures_that_nobody_waits_for_are_told_without_their_words(capsys: pytest.CaptureFixture[str]) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nobody asks")

    server = Running(app, [], 1.0, Log(), end_tasks=lambda: None)

    async def main() -> None:
        server.end()  # once all has begun
        await server._serve()
        asyncio.get_running_loop().call_soon(no_model)
        asyncio.get_running_loop().call_exception_handler({"message": "something was left"})
        await asyncio.sleep(0.01)

    asyncio.run(main())
    told = capsys.readouterr().err
    assert "failure: ValueError in test_lifecycle_races.py" in told
    assert "failure: something was left" in told
    assert "client" not in told


def test_a_signal_may_close_the_sockets_while_the_model_loads(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server listens is told by what was so before."""
    monkeypatch.setattr(asyncio, "run", lambda main: main.close())
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    monkeypatch.setattr(os, "_exit", lambda code: None)
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]

    def load(watch: Any) -> tuple[ServedModel, Any]:
        sock.close()
        return SimpleNamespace(name="a model"), SimpleNamespace(stop=lambda seconds: True)  # type: ignore[return-value]

    class AtOnce(threading.Thread):
        def start(self) -> None:
            self.run()

    monkeypatch.setattr(lifecycle.gc, "freeze", lambda: None)
    monkeypatch.setattr(threading, "Thread", AtOnce)
    serve(ServerOptions(), [sock], load, Log())
    told = capsys.readouterr().err
    assert f"server is listening on http://127.0.0.1:{port}" in told
    assert "Traceback" not in told
