"""How to divide layers among machines: what a range of them costs on each, and what it takes to go on at the next.

Ranges follow each other in the machines' order, and so do the machines that are used, of which the first is always one.
A step computes one group of texts; there are as many groups on their way as keep all ranks busy. So the period, in
which all groups get a token, is the longest of

    the way of one group through all ranges, over all borders, and of its logits back to the first machine
    for each machine, and each border's wire: the time of one group there, as many times as there are groups

With one group the first of them is the longest, and all there is to make small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

__all__ = ["Divided", "Division", "Floats", "Options", "Site"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """What may be done with a layer on a machine, [K] each: the seconds of a step, bytes of main memory and of GPUs."""

    seconds: Floats
    main: Floats
    gpu: Floats


@dataclass(frozen=True)
class Site:
    """A machine, with the options of each layer; those of the last have the head. memory, gpu: bytes for layers there.
    fixed: seconds of a step that any range costs there.
    """

    layers: tuple[Options, ...]
    memory: float
    gpu: float = 0.0
    fixed: float = 0.0


@dataclass(frozen=True)
class Division:
    """The problem. border [M, M]: seconds from one machine to the next; carried [M, M]: of them, those in which
    the wire is busy; back [M]: seconds from the last machine to the first.
    """

    sites: tuple[Site, ...]
    border: Floats
    carried: Floats
    back: Floats
    n_groups: int = 1

    @property
    def n_layer(self) -> int:
        return len(self.sites[0].layers)

    def period(self, machines: Sequence[int], stages: Sequence[float]) -> float:
        """Seconds, with ranges on these machines, in order, that take so long each."""
        pairs = list(pairwise(machines))
        way = sum(stages) + sum(float(self.border[pair]) for pair in pairs)
        if pairs:
            way += float(self.back[machines[-1]])
        busiest = max([*stages, *(float(self.carried[pair]) for pair in pairs)])
        return max(way, self.n_groups * busiest)


@dataclass(frozen=True)
class Divided:
    """machines: those that are used. cuts: where their ranges begin, and the last one ends. stages: seconds of each.
    period: in which all groups get a token. bound: that no division goes below, as far as it is known.
    """

    machines: tuple[int, ...]
    cuts: tuple[int, ...]
    stages: tuple[float, ...]
    period: float
    bound: float = 0.0
