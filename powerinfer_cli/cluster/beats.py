"""That a rank is there: each tells rank 0 each second, and rank 0 tells them, from when all have come."""

import threading
import time
from collections.abc import Sequence

from powerinfer_cli.cluster.messages import Message, Op
from powerinfer_cli.cluster.wires import Lost, Wire

__all__ = ["BEAT_S", "SILENCE_S", "beat"]

BEAT_S = 1.0
SILENCE_S = 6.0  # after which a rank counts as gone; all others have ended within 10


def beat(wires: Sequence[Wire]) -> None:
    """Tell who is at the other ends, until they have ended, by a thread of its own."""

    def tell() -> None:
        left = list(wires)
        while left:
            time.sleep(BEAT_S)
            for wire in list(left):
                try:
                    Message(Op.BEAT).send(wire)
                except Lost:
                    left.remove(wire)

    threading.Thread(target=tell, name="beats", daemon=True).start()
