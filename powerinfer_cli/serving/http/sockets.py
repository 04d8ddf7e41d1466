"""The sockets that the server listens on: addresses, and paths that end in .sock."""

import contextlib
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.listening import listen_at
from powerinfer_cli.system.sockets import path_family

__all__ = ["BACKLOG", "bind", "url_of"]

BACKLOG = 1024


def bind(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """A socket for each host; port 0: any free one. Raises PowerInferError."""
    n_addresses = sum(not host.endswith(".sock") for host in hosts)
    if port == 0 and n_addresses > 1:
        raise PowerInferError("--port 0 needs a single --host")
    if not hosts:
        raise PowerInferError("--host names no address to listen on")
    with contextlib.ExitStack() as opened:
        sockets = []
        for host in hosts:
            if host.endswith(".sock"):
                sockets.append(_bind_path(Path(host)))
            else:
                only_v6 = n_addresses > 1  # or [::] would take 0.0.0.0, too
                sockets.append(listen_at(host, port, "--host", BACKLOG, only_v6=only_v6))
            opened.callback(sockets[-1].close)
        opened.pop_all()
    return sockets


def _bind_path(path: Path) -> socket.socket:
    """In place of a socket that a server has left behind."""
    if (family := path_family()) is None:
        raise PowerInferError(f"--host {path}: this system's Python has no sockets with paths: give an address")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if _left_behind(path, family):
            path.unlink()
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise PowerInferError(f"cannot listen on {path}: {error.strerror or error}") from error
    return sock


def _left_behind(path: Path, family: int) -> bool:
    """Raises OSError."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return False
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
    return False


def url_of(sock: socket.socket) -> str:
    """Where clients find it."""
    if sock.family == path_family():
        return f"unix://{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
