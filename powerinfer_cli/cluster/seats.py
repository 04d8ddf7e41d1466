"""Which rank of how many this process is, and where rank 0 is met."""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from powerinfer_cli.errors import UsageError

__all__ = ["PORT", "Seat", "seat_of"]

PORT = 29500  # as torchrun's
MOST_PORT = (1 << 16) - 1
MOST_RANKS = 64


@dataclass(frozen=True)
class Seat:
    """host, port: where rank 0 listens for the others; hosts: of all ranks, in order, where they are known."""

    rank: int
    n_ranks: int
    host: str
    port: int
    hosts: tuple[str, ...] = ()

    def name(self, rank: int) -> str:
        """A rank's, for people."""
        return f"rank {rank} ({self.hosts[rank]})" if self.hosts else f"rank {rank}"


def seat_of(
    rank: int | None,
    n_ranks: int | None,
    master: str | None,
    hosts: Sequence[str],
    environment: Mapping[str, str],
) -> Seat:
    """By the flags; what they do not say, by torchrun's variables. hosts: of all ranks, in order; of one that is not
    named by its rank, the one whose address is this machine's.

    Raises UsageError.
    """
    known = {name: environment[name] for name in ("MASTER_ADDR", "MASTER_PORT") if environment.get(name)}
    host, port = known.get("MASTER_ADDR", "127.0.0.1"), _port(known.get("MASTER_PORT", str(PORT)), "MASTER_PORT")
    if "MASTER_PORT" in known and environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        port += 1 if port < MOST_PORT else -1  # torchrun itself listens at its own
    if hosts:
        if n_ranks not in (None, len(hosts)):
            raise UsageError(f"--world-size {n_ranks}, but --hosts names {len(hosts)}")
        n_ranks, host = len(hosts), hosts[0]
    if master is not None:
        host, port = _place(master, port)
    if n_ranks is None:
        n_ranks = _of_environment(environment, "WORLD_SIZE", "--world-size")
    if rank is None:
        rank = _own(hosts) if hosts else _of_environment(environment, "RANK", "--rank")
    if not 2 <= n_ranks <= MOST_RANKS:
        raise UsageError(f"--world-size must be 2 to {MOST_RANKS}, got {n_ranks}: one machine needs `powerinfer main`")
    if not 0 <= rank < n_ranks:
        raise UsageError(f"--rank must be 0 to {n_ranks - 1} of {n_ranks} ranks, got {rank}")
    return Seat(rank, n_ranks, host, port, tuple(hosts))


def _place(words: str, port: int) -> tuple[str, int]:
    """HOST, HOST:PORT, [ADDRESS]:PORT, or an address of IPv6 alone. port: where none is said. Raises UsageError."""
    if words.count(":") > 1 and not words.startswith("["):
        return words, port
    host, colon, behind = words.rpartition(":")
    if not colon or words.endswith("]"):
        host, colon = words, ""
    host = host.removeprefix("[").removesuffix("]")
    if not host:
        raise UsageError(f"--master: a host is missing, got {words[:40]!r}")
    return host, _port(behind, "--master") if colon else port


def _own(hosts: Sequence[str]) -> int:
    """The rank whose host's address is one of this machine's. Raises UsageError: not exactly one is."""
    found = [rank for rank, host in enumerate(hosts) if _is_here(host)]
    if len(found) != 1:
        said = "none of these hosts is" if not found else f"{len(found)} of these hosts are"
        raise UsageError(f"--hosts: {said} this machine: say which one with --rank")
    return found[0]


def _is_here(host: str) -> bool:
    """Whether a socket can be bound to it."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, proto) as sock:
            sock.bind(address)
    except (OSError, UnicodeError):
        return False
    return True


def _of_environment(environment: Mapping[str, str], name: str, flag: str) -> int:
    if not environment.get(name):
        raise UsageError(f"which rank is this? {flag} (or {name}) is missing; --hosts A,B says it all")
    return _number(environment[name], name)


def _port(words: str, name: str) -> int:
    port = _number(words, name)
    if not 0 < port <= MOST_PORT:
        raise UsageError(f"{name}: a port is 1 to {MOST_PORT}, got {port}")
    return port


def _number(words: str, name: str) -> int:
    if not words.isdecimal() or len(words) > 5:
        raise UsageError(f"{name}: a whole number is missing, got {words[:40]!r}")
    return int(words)
