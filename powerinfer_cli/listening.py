"""Sockets that wait for connections at an address of this machine."""

import contextlib
import socket

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.system.sockets import keep_port

__all__ = ["listen_at"]


def listen_at(host: str, port: int, flag: str, backlog: int, *, only_v6: bool = False) -> socket.socket:
    """A socket; port 0: any free one. flag: what names the address, for messages. only_v6: an address of IPv6 takes
    nothing that comes by IPv4.

    Raises PowerInferError.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise PowerInferError(f"{flag} {host[:80]}: no such address: {error}") from error
    family, kind, proto, _, address = found[0]
    with contextlib.ExitStack() as opened:
        try:
            sock = opened.enter_context(socket.socket(family, kind, proto))  # not every machine has IPv6
            keep_port(sock)
            if family == socket.AF_INET6 and only_v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            sock.listen(backlog)
        except OSError as error:
            raise PowerInferError(f"cannot listen on {host} port {port}: {error.strerror or error} ({flag})") from error
        opened.pop_all()
    return sock
