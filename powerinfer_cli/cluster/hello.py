"""What ranks must have in common, and tell each other before any tensor is read."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from powerinfer_cli import __version__
from powerinfer_cli.cluster.messages import Message, Op, words_of
from powerinfer_cli.cluster.seats import MOST_RANKS
from powerinfer_cli.cluster.wires import Address, Lost, Said
from powerinfer_cli.printable import printable

__all__ = ["MOST_BYTES", "Hello", "Plan", "difference"]

MOST_BYTES = 64 << 10  # of either
MOST_TOKENS = 1 << 40
MOST_HOST = 255  # letters


@dataclass(frozen=True)
class Hello:
    """n_ctx: tokens that there is room for here; flags: values by the flags' names; port: where the rank before is to
    call, 0 of rank 0.
    """

    rank: int
    n_ranks: int
    fingerprint: str
    flags: Mapping[str, str]
    n_ctx: int
    port: int = 0
    version: str = __version__

    def message(self) -> Message:
        return Message(Op.HELLO, (), (json.dumps(asdict(self)).encode(),))

    @classmethod
    def of(cls, message: Message) -> "Hello":
        """Raises Lost: it is none."""
        found = _fields(message, Op.HELLO)
        whole = all(type(found.get(name)) is int for name in ("rank", "n_ranks", "n_ctx", "port"))
        words = all(isinstance(found.get(name), str) for name in ("fingerprint", "version"))
        flags = found.get("flags")
        if not whole or not words or not isinstance(flags, dict) or found.keys() != cls.__dataclass_fields__.keys():
            raise Lost("says what no rank says")
        if not 0 < found["port"] < 1 << 16 or not 1 <= found["n_ctx"] <= MOST_TOKENS:
            raise Lost("says what no rank says")
        if not 0 <= found["rank"] < MOST_RANKS or not 2 <= found["n_ranks"] <= MOST_RANKS:
            raise Lost("says what no rank says")
        plain = {printable(str(name)): printable(str(value)) for name, value in flags.items()}
        return cls(**found | {"flags": plain, "version": printable(found["version"])})


@dataclass(frozen=True)
class Plan:
    """What rank 0 has decided: n_ctx, of all; behind: where the next rank is called, None: the last calls rank 0."""

    n_ctx: int
    behind: Address | None

    def message(self) -> Message:
        return Message(Op.PLAN, (), (json.dumps(asdict(self)).encode(),))

    @classmethod
    def of(cls, message: Message, most: int) -> "Plan":
        """most: tokens that there is room for here. Raises Lost: it is none."""
        found = _fields(message, Op.PLAN)
        n_ctx, behind = found.get("n_ctx"), found.get("behind")
        if type(n_ctx) is not int or not 1 <= n_ctx <= most:  # nor a bool
            raise Lost("says what no rank says")
        match behind:
            case None:
                return cls(n_ctx, None)
            case [str(host), int(port)] if type(port) is int and 0 < port < 1 << 16:
                if host.isprintable() and len(host) <= MOST_HOST:
                    return cls(n_ctx, (host, port))
        raise Lost("says what no rank says")


def _fields(message: Message, op: Op) -> dict[str, Any]:
    if message.op in (Op.GONE, Op.LEAVING):
        raise Said(words_of(message))
    try:
        found = json.loads(bytes(message.payload))
    except (ValueError, RecursionError) as error:
        raise Lost("says what no rank says") from error
    if message.op is not op or not isinstance(found, dict):
        raise Lost("says what no rank says")
    return found


def difference(first: Hello, other: Hello) -> str | None:
    """In what a rank differs from rank 0 so that both cannot be of one model; None: in nothing."""
    if other.version != first.version:
        return f"has version {other.version[:40]}, rank 0 has {first.version}: install the same on all"
    if other.n_ranks != first.n_ranks:
        return f"was started with --world-size {other.n_ranks}, rank 0 with {first.n_ranks}"
    if other.fingerprint != first.fingerprint:
        return "has another model file than rank 0: copy the same to all"
    for flag in sorted(first.flags.keys() | other.flags.keys()):
        here, there = first.flags.get(flag), other.flags.get(flag)
        if here != there:
            return f"was started with {flag[:40]} {str(there)[:40]}, rank 0 with {here}: start all ranks alike"
    return None
