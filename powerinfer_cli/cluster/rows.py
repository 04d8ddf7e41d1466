"""Rows of numbers that rank 0 is told by the last rank, on a connection of their own: logits and hidden states."""

import time
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.cluster.messages import Coming, Op
from powerinfer_cli.cluster.usual import Usual
from powerinfer_cli.cluster.wires import Wire

__all__ = ["Asked", "Rows"]


@dataclass
class Asked:
    """Rows [n, width]; None: they have not come yet."""

    n: int
    width: int
    rows: npt.NDArray[np.float32] | None = None


class Rows:
    """At rank 0. They come in the order in which they were asked for, to whoever waits: no thread hands them over.
    wire: from the last rank.
    """

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._asked: deque[Asked] = deque()
        self._usual = Usual()

    def __bool__(self) -> bool:
        """Whether some are still to come."""
        return bool(self._asked)

    def ask(self, n: int, width: int) -> Asked:
        """So many are to come behind those before."""
        found = Asked(n, width)
        self._asked.append(found)
        return found

    def withdraw(self) -> None:
        """What was asked for last does not come."""
        self._asked.pop()

    def receive(self) -> None:
        """The next. Where they do not come, they stay asked for. Raises Lost."""
        asked, begin = self._asked[0], time.monotonic()
        coming = Coming(Op.ROWS, 4 * asked.n * asked.width)
        rows = np.frombuffer(coming.payload, "<f4").reshape(asked.n, asked.width)
        coming.receive(self.wire, self._usual.of(asked.n))
        asked.rows = rows.astype(np.float32, copy=False)
        self._asked.popleft()
        self._usual.note(asked.n, time.monotonic() - begin)
