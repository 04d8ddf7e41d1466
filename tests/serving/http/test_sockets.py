"""Sockets to listen on."""

import socket
from pathlib import Path

import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.http.sockets import bind, url_of


def test_any_free_port() -> None:
    (one,) = bind(["127.0.0.1"], 0)
    with one:
        port = one.getsockname()[1]
        assert port > 0
        assert url_of(one) == f"http://127.0.0.1:{port}"
        with pytest.raises(PowerInferError, match=f"port {port}: Address already in use"):
            bind(["127.0.0.1"], port)


def test_one_that_fails_closes_all() -> None:
    (one,) = bind(["127.0.0.1"], 0)
    port = one.getsockname()[1]
    one.close()
    with pytest.raises(PowerInferError, match=r"/nowhere/x\.sock"):
        bind(["127.0.0.1", "/nowhere/x.sock"], port)
    bind(["127.0.0.1"], port)[0].close()


def test_a_path(tmp_path: Path) -> None:
    path = tmp_path / "x.sock"
    for _ in range(2):  # the second takes the place of what the first has left behind
        (one,) = bind([str(path)], 8080)
        assert url_of(one) == f"unix://{path}"
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
        one.close()


def test_a_path_in_use(tmp_path: Path) -> None:
    path, file = tmp_path / "x.sock", tmp_path / "file.sock"
    (one,) = bind([str(path)], 8080)
    with one, pytest.raises(PowerInferError, match=r"x\.sock: Address already in use"):
        bind([str(path)], 8080)
    file.write_text("precious")
    with pytest.raises(PowerInferError, match=r"file\.sock"):
        bind([str(file)], 8080)
    assert file.read_text() == "precious"


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*kind: int) -> socket.socket:
        raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(PowerInferError, match=r"cannot listen on ::1 port 0: Address family not supported"):
        bind(["::1"], 0)
