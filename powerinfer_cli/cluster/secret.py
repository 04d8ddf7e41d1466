"""The shared secret: both ends of a connection prove that they know it before either listens to the other."""

import hashlib
import hmac
import os
import stat
from collections.abc import Callable
from pathlib import Path

from powerinfer_cli.cluster.wires import Lost, Wire
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.system.files import open_to_map
from powerinfer_cli.system.which import WINDOWS

__all__ = ["OTHER_KEY", "prove_called", "prove_calling", "read_key"]

MAGIC = b"PIRANKS1"
NONCE = 32
OTHERS = 0o077  # the rights of all but the owner
LEAST, MOST = 16, 4096  # bytes of a key: shorter ones are guessed
OTHER_KEY = "has another key (--cluster-key-file)"


def read_key(path: Path | None, note: Callable[[str], None]) -> bytes:
    """What is in the file, without white space around it; empty without a file. note: is told where others can read it.

    Raises PowerInferError.
    """
    if path is None:
        return b""
    try:
        with os.fdopen(open_to_map(path), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode):
                raise PowerInferError(f"--cluster-key-file {path}: is no file with a key")
            key = file.read(MOST + 1).strip()
    except IsADirectoryError as error:
        raise PowerInferError(f"--cluster-key-file {path}: is no file with a key") from error
    except (OSError, ValueError) as error:
        raise PowerInferError(f"--cluster-key-file {path}: {getattr(error, 'strerror', None) or error}") from error
    if mode & OTHERS and not WINDOWS:
        note(f"warning: --cluster-key-file {path}: other users can read it: chmod 600")
    if not LEAST <= len(key) <= MOST:
        raise PowerInferError(
            f"--cluster-key-file {path}: {LEAST} to {MOST} bytes make a key, as `openssl rand -hex 32` writes them"
        )
    return key


def prove_calling(wire: Wire, key: bytes) -> None:
    """As who has called. Raises Lost: the other end does not know the key, or is no rank."""
    own = os.urandom(NONCE)
    wire.send(MAGIC, own)
    theirs = bytes(wire.receive(NONCE))
    if not hmac.compare_digest(bytes(wire.receive(NONCE)), _proof(key, b"called", own, theirs)):
        raise Lost(OTHER_KEY)
    wire.send(_proof(key, b"calling", theirs, own))
    wire.receive(1)


def prove_called(wire: Wire, key: bytes) -> None:
    """As who was called. Raises Lost: as above."""
    if bytes(wire.receive(len(MAGIC))) != MAGIC:
        raise Lost("is no rank")
    theirs, own = bytes(wire.receive(NONCE)), os.urandom(NONCE)
    wire.send(own, _proof(key, b"called", theirs, own))
    if not hmac.compare_digest(bytes(wire.receive(NONCE)), _proof(key, b"calling", own, theirs)):
        raise Lost(OTHER_KEY)
    wire.send(b"\1")


def _proof(key: bytes, role: bytes, first: bytes, second: bytes) -> bytes:
    """Each role has its own, so that neither can be answered with the other's."""
    return hmac.new(key, MAGIC + role + first + second, hashlib.sha256).digest()
