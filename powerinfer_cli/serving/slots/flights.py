"""Steps that are begun and not ended: with layers on several machines up to as many as there are machines, else one."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.serving.slots.slot import Running, Slot

__all__ = ["Carried", "Flight", "Flights"]

Carried = tuple[Slot, Running, int]  # tokens of what runs in a slot


@dataclass(frozen=True)
class Flight:
    """A step on its way. take: waits for its answers; began: in seconds on the thread's clock."""

    carried: tuple[Carried, ...]
    take: Callable[[], Sequence[npt.NDArray[np.float32] | None]]
    began: float


class Flights:
    """In the order in which they began and will end."""

    def __init__(self) -> None:
        self._flights: deque[Flight] = deque()

    def __len__(self) -> int:
        return len(self._flights)

    def add(self, flight: Flight) -> None:
        """It has begun."""
        self._flights.append(flight)

    def next(self) -> Flight:
        """The one to end first, which is none any more."""
        return self._flights.popleft()

    def clear(self) -> None:
        """Nobody waits for any of them."""
        self._flights.clear()

    def free(self, slots: Sequence[Slot]) -> list[tuple[Slot, Running]]:
        """Those that run, and wait for no step."""
        waiting = {id(running) for _, running, _ in self._carried()}
        pairs = [(slot, slot.running) for slot in slots]
        return [(slot, running) for slot, running in pairs if running is not None and id(running) not in waiting]

    @property
    def is_reading(self) -> bool:
        """Whether one has more of a prompt than its last token."""
        return any(n > 1 for _, _, n in self._carried())

    @property
    def spoken_for(self) -> int:
        """Tokens that the context is to have room for besides, when these have ended: of prompts, or the next one."""
        return sum(max(1, running.n_left - n) for slot, running, n in self._carried() if slot.running is running)

    def _carried(self) -> Iterator[Carried]:
        for flight in self._flights:
            yield from flight.carried
