"""Several engines that each hold a whole model: how long requests take, by how many come a second.

Requests come by chance (Poisson) and go to the replica with the fewest. A replica with n requests in work completes
`rates[n - 1]` of them a second: more with more, as weights are read once for all, up to its slots; whoever comes then
waits in line for the first slot that is free anywhere.

`Queue` is the birth and death chain of all requests in the system, whose work varies exponentially and which are spread
evenly. With one slot it is M/M/c (Erlang's C); with one replica, and the same rate whatever n is, M/M/1.
`simulate_queue` plays it through, with requests that stay where they have gone to and work of any spread.
"""

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from solver.machines.problem import Floats

__all__ = ["Queue", "request_rates", "simulate_queue"]


def request_rates(steps: Sequence[float], n_tokens: float, prompt: float) -> tuple[float, ...]:
    """Requests a second of a replica with 1, 2, ... of them in work. steps: seconds of a step of as many texts.
    n_tokens: that a request has written, on the mean. prompt: seconds in which its prompt is read, and nothing else.
    """
    return tuple(1.0 / (prompt + n_tokens * step / n) for n, step in enumerate(steps, start=1))


@dataclass(frozen=True)
class Queue:
    """rates: requests a second of a replica with 1, 2, ... in work; as many as it has slots. arrivals: a second, to all
    replicas together.
    """

    rates: tuple[float, ...]
    n_replicas: int
    arrivals: float

    @property
    def n_slots(self) -> int:
        """Of all replicas."""
        return self.n_replicas * len(self.rates)

    @property
    def capacity(self) -> float:
        """Requests a second with all slots full."""
        return self.n_replicas * self.rates[-1]

    @property
    def saturated(self) -> bool:
        """Whether more come than can be done: the line grows without end."""
        return self.arrivals >= self.capacity

    def rate(self, n: int) -> float:
        """Requests a second with n in work, spread evenly."""
        each, more = divmod(min(n, self.n_slots), self.n_replicas)
        least = (self.n_replicas - more) * self.rates[each - 1] if each else 0.0
        return least + (more * self.rates[each] if more else 0.0)

    @cached_property
    def _shares(self) -> tuple[Floats, float]:
        """Of time with 0 .. n_slots in the system, [n_slots + 1]; and with more, where each is so many times as rare
        as the one before. In logarithms: there may be thousands.
        """
        if self.saturated:
            raise ValueError("more requests come than can be done: there is no mean")
        rates = np.array([self.rate(n) for n in range(1, self.n_slots + 1)])
        steps = np.log(self.arrivals / rates) if self.arrivals else np.full(self.n_slots, -np.inf)
        logs = np.concatenate([[0.0], np.cumsum(steps)])
        weights = np.exp(logs - logs.max())
        ratio = self.arrivals / self.capacity
        tail = weights[-1] * ratio / (1 - ratio)
        return weights / (weights.sum() + tail), ratio

    @property
    def waiting(self) -> float:
        """The share of requests that find no slot free. Raises ValueError where saturated, as all below."""
        shares, ratio = self._shares
        return float(shares[-1] / (1 - ratio))

    @property
    def in_work(self) -> float:
        """Requests, on the mean."""
        shares, ratio = self._shares
        tail = shares[-1] * ratio / (1 - ratio)
        return float(shares @ np.arange(self.n_slots + 1) + tail * self.n_slots)

    @property
    def wait(self) -> float:
        """Seconds in line, on the mean of all requests."""
        return self.waiting / (self.capacity - self.arrivals)

    def wait_below(self, share: float) -> float:
        """Seconds in line that such a share of all requests does not go beyond."""
        late = 1.0 - share
        return max(0.0, math.log(self.waiting / late) / (self.capacity - self.arrivals)) if self.waiting > late else 0.0

    @property
    def seconds(self) -> float:
        """From a request's coming to its end, on the mean (Little's law); of one that is alone where none come."""
        return self.wait + (self.in_work / self.arrivals if self.arrivals else 1.0 / self.rates[0])

    @property
    def utilisation(self) -> float:
        """Arrivals as a share of what can be done."""
        return self.arrivals / self.capacity


@dataclass
class _Replica:
    """Requests share it evenly: all have the same work done since they came, which `done` counts."""

    done: float = 0.0
    at: float = 0.0
    version: int = 0
    ends: list[tuple[float, float]] = field(default_factory=list)  # work done at its end, and when it came

    def advance(self, now: float, rates: Sequence[float]) -> None:
        if self.ends:
            self.done += (now - self.at) * rates[len(self.ends) - 1] / len(self.ends)
        self.at = now

    def next_end(self, rates: Sequence[float]) -> float:
        n = len(self.ends)
        return self.at + (self.ends[0][0] - self.done) * n / rates[n - 1]


def simulate_queue(
    queue: Queue, n_requests: int, *, seed: int = 0, spread: float = 1.0, least_busy: bool = True
) -> Floats:
    """Seconds of each request from coming to end, [n], without those of a tenth at the beginning.

    spread: of the work, its standard deviation as a share of its mean: 1 is exponential, 0 none; gamma between.
    least_busy: each goes to the replica with the fewest, else to any by chance.
    """
    rng = np.random.default_rng(seed)
    comes = np.cumsum(rng.exponential(1 / queue.arrivals, n_requests))
    work = rng.gamma(spread**-2, spread**2, n_requests) if spread else np.ones(n_requests)
    anywhere = None if least_busy else rng.integers(0, queue.n_replicas, n_requests)
    return _Simulation(queue, comes, work, anywhere).run()[n_requests // 10 :]


class _Simulation:
    """comes, work: of each request, seconds and units of work. anywhere: the replica of each, which has a line of its
    own; None: there is one line, and whoever has the fewest takes the next.
    """

    def __init__(self, queue: Queue, comes: Floats, work: Floats, anywhere: npt.NDArray[np.int64] | None) -> None:
        self._rates, self._comes, self._work, self._anywhere = queue.rates, comes, work, anywhere
        self._replicas = [_Replica() for _ in range(queue.n_replicas)]
        self._by_load = [(0, i) for i in range(queue.n_replicas)]  # lazily: an entry may be old
        self._lines: list[deque[int]] = [deque() for _ in range(1 if anywhere is None else queue.n_replicas)]
        self._events: list[tuple[float, int, int]] = []

    def run(self) -> Floats:
        """Seconds of each request, as they end."""
        replicas, events, request, took = self._replicas, self._events, 0, list[float]()
        while len(took) < len(self._comes):
            while events and events[0][2] != replicas[events[0][1]].version:
                heapq.heappop(events)
            if request < len(self._comes) and (not events or self._comes[request] <= events[0][0]):
                self._take(request)
                request += 1
            else:
                now, place, _ = heapq.heappop(events)
                took.append(self._finish(now, place))
        return np.array(took)

    def _take(self, request: int) -> None:
        place = self._freest() if self._anywhere is None else int(self._anywhere[request])
        if len(self._replicas[place].ends) < len(self._rates):
            self._begin(request, place, float(self._comes[request]))
        else:
            self._line(place).append(request)

    def _line(self, place: int) -> deque[int]:
        return self._lines[0 if self._anywhere is None else place]

    def _begin(self, request: int, place: int, now: float) -> None:
        one = self._replicas[place]
        one.advance(now, self._rates)
        heapq.heappush(one.ends, (one.done + float(self._work[request]), float(self._comes[request])))
        self._schedule(place)

    def _schedule(self, place: int) -> None:
        one = self._replicas[place]
        one.version += 1
        heapq.heappush(self._by_load, (len(one.ends), place))
        if one.ends:
            heapq.heappush(self._events, (one.next_end(self._rates), place, one.version))

    def _freest(self) -> int:
        while len(self._replicas[self._by_load[0][1]].ends) != self._by_load[0][0]:
            heapq.heappop(self._by_load)
        return self._by_load[0][1]

    def _finish(self, now: float, place: int) -> float:
        """Seconds that a request took whose end has come; the next in line begins."""
        one = self._replicas[place]
        one.advance(now, self._rates)
        _, came = heapq.heappop(one.ends)
        if line := self._line(place):
            self._begin(line.popleft(), place, now)
        else:
            self._schedule(place)
        return now - came
