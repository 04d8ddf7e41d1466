"""States of recurrent layers, which each rank keeps of its own layers: rank 0 has numbers for what others keep."""

import itertools
import weakref
from collections import deque
from collections.abc import Callable, ItemsView, Iterable, Iterator, Mapping
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.cluster.wires import Lost

__all__ = ["KeptNumbers", "KeptStates", "LayerStates", "StateShelf"]

LayerStates: TypeAlias = Mapping[int, npt.NDArray[np.float32]]  # [numbers of its state], by layer

LATE = 64  # states that rank 0 needs no more, and has not said so yet


class KeptStates(Mapping[int, npt.NDArray[np.float32]]):
    """Of a sequence, as they were. own: of rank 0's layers. Those of the others are under `number` there, and are
    fetched whenever they are read here.
    """

    def __init__(self, own: LayerStates, number: int, fetch: Callable[[int], LayerStates]) -> None:
        self.own, self.number, self._fetch = own, number, fetch

    def _all(self) -> LayerStates:
        return dict(self.own) | dict(self._fetch(self.number))

    def __getitem__(self, layer: int) -> npt.NDArray[np.float32]:
        return self.own[layer] if layer in self.own else self._all()[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def items(self) -> ItemsView[int, npt.NDArray[np.float32]]:
        """Fetched once."""
        return self._all().items()


class KeptNumbers:
    """At rank 0: numbers for what others keep, and which of them are not needed any more."""

    def __init__(self) -> None:
        self._next, self._dropped = itertools.count(), deque[int]()

    def keep(self, own: LayerStates, fetch: Callable[[int], LayerStates]) -> KeptStates:
        """Under a new number, until nobody has it any more."""
        found = KeptStates(own, next(self._next), fetch)
        weakref.finalize(found, self._dropped.append, found.number).atexit = False
        return found

    def dropped(self) -> list[int]:
        """Since it was asked last."""
        return [self._dropped.popleft() for _ in range(len(self._dropped))]


class StateShelf:
    """At another rank. most: that rank 0 can need at once."""

    def __init__(self, most: int) -> None:
        self._most, self._kept = most + LATE, dict[int, LayerStates]()

    def keep(self, number: int, states: LayerStates) -> None:
        """Raises Lost: more than there can be."""
        if number in self._kept or len(self._kept) >= self._most:
            raise Lost("has more states kept than there can be")
        self._kept[number] = states

    def get(self, number: int) -> LayerStates:
        """Raises Lost: there are none."""
        if number not in self._kept:
            raise Lost("names states that are none")
        return self._kept[number]

    def drop(self, numbers: Iterable[int]) -> None:
        """Raises Lost: there are none."""
        for number in numbers:
            self.get(number)
            del self._kept[number]
