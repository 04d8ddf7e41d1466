"""A server that is one of a router's: it ends when the router does, however that came about."""

import os
import signal
import threading

from powerinfer_cli.system.which import WINDOWS

__all__ = ["ROUTED", "end_with_input"]

ROUTED = "POWERINFER_ROUTED"  # the variable by which a router says so to its models' servers


def end_with_input() -> None:
    """From now on, the end of the standard input, which is a pipe of the router's, ends this process.

    Its children have an empty one instead: on Windows, who but asks what kind of pipe another reads waits with it.
    """
    pipe = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_watch, args=(pipe,), name="router", daemon=True).start()


def _watch(pipe: int) -> None:
    while os.read(pipe, 4096):
        pass
    if WINDOWS:  # `kill` would not ask
        signal.raise_signal(signal.SIGTERM)
    else:
        os.kill(os.getpid(), signal.SIGTERM)
