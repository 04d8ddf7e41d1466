"""How fast an engine decodes: measured on a text's own tokens, several engines in alternation."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from powerinfer_cli.runtime import Engine

__all__ = ["DEEPEST", "Decoding", "compare_decoding", "faster", "measure_decoding"]

BEFORE = 8  # tokens that are there when measuring begins
ROUNDS = 6  # of each engine, in alternation
DEEPEST = 256  # tokens of context: speeds are compared where a context is short, whatever an engine has room for
LEAST = 8  # tokens of a round
STRETCH = 0.2  # seconds at least, of whole texts from their beginning


@dataclass(frozen=True)
class Decoding:
    """seconds: of a token, the median of the fastest stretch: on a quiet machine the mean, which benchmarks tell;
    other programs, and a virtual machine's host, take a core away for tenths of seconds. spread: of the middle half
    of all tokens, as a share of their median. tokens: were timed.
    """

    seconds: float
    spread: float
    tokens: int

    @property
    def tokens_per_second(self) -> float:
        return 1.0 / self.seconds


def faster(one: Decoding, *others: Decoding) -> Decoding:
    """Of the same engine: what else the machine does only takes time."""
    return min((one, *others), key=lambda found: found.seconds)


def measure_decoding(engine: Engine, ids: Sequence[int], seconds: float) -> Decoding:
    """For about so long, from an empty context; it is empty after. ids: a text, from which tokens are taken in turn."""
    return _Meter(engine, ids).round(seconds).found()


def compare_decoding(
    engines: Sequence[Engine], ids: Sequence[int], seconds: float, on_round: Callable[[int, int], None]
) -> list[Decoding]:
    """Each for about so long, in alternation, so that what else the machine does befalls all alike."""
    meters = [_Meter(engine, ids) for engine in engines]
    for number in range(ROUNDS):
        for meter in meters if number % 2 == 0 else reversed(meters):
            meter.round(seconds / ROUNDS)
        on_round(number + 1, ROUNDS)
    return [meter.found() for meter in meters]


class _Meter:
    """One engine's times."""

    def __init__(self, engine: Engine, ids: Sequence[int]) -> None:
        self._engine, self._ids = engine, ids[: min(DEEPEST, engine.n_ctx_sequence)]
        self._stretches: list[list[float]] = []

    def round(self, seconds: float) -> "_Meter":
        end, made = time.perf_counter() + seconds, 0
        times, before = list[float](), len(self._stretches)
        self._stretches.append(times)
        self._restart()
        self._engine.decode(self._next())  # compiles
        while made < LEAST or time.perf_counter() < end:
            if self._engine.n_past >= len(self._ids):
                self._restart()
                if sum(times) >= STRETCH:
                    times = []
                    self._stretches.append(times)
            token = self._next()
            begin = time.perf_counter()
            self._engine.decode(token)
            times.append(time.perf_counter() - begin)
            made += 1
        self._engine.reset()
        if len(self._stretches) - before > 1:  # the last is of a text's beginning, where contexts are short
            last = self._stretches.pop()
            self._stretches[-1].extend(last)
        return self

    def _restart(self) -> None:
        self._engine.reset()
        self._engine.prefill(self._ids[: min(BEFORE, len(self._ids) // 2)])

    def _next(self) -> int:
        return self._ids[self._engine.n_past]

    def found(self) -> Decoding:
        times = [one for stretch in self._stretches for one in stretch]
        low, middle, high = statistics.quantiles(times, n=4)
        return Decoding(min(map(statistics.median, self._stretches)), (high - low) / middle, len(times))
