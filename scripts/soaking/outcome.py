"""What happened while a server was under load, and whether that is well."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Outcome", "Tally", "flat", "problems"]


@dataclass
class Tally:
    """How often something was done, how often it went wrong, and what was wrong first."""

    times: int = 0
    wrong: int = 0
    first_wrong: str = ""


@dataclass
class Outcome:
    """memory: (seconds since the beginning, bytes). busy_slots: those that work when nobody waits any more."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    memory: list[tuple[float, int]] = field(default_factory=list)
    busy_slots: int = 0
    exit_code: int = 0

    def count(self, name: str, wrong: str) -> None:
        """One more; `wrong` is "" where all was well."""
        tally = self.tallies.setdefault(name, Tally())
        tally.times += 1
        if wrong:
            tally.wrong += 1
            tally.first_wrong = tally.first_wrong or wrong


def flat(memory: Sequence[tuple[float, int]], warm_up: float) -> tuple[float, float]:
    """Bytes just after the warm-up and at the end: medians of a fifth of the samples each."""
    counted = [size for seconds, size in memory if seconds >= warm_up] or [size for _, size in memory]
    part = max(len(counted) // 5, 1)
    return statistics.median(counted[:part]), statistics.median(counted[-part:])


def problems(outcome: Outcome, warm_up: float, growth: float) -> list[str]:
    """A line for each thing that is not as it must be."""
    lines = [
        f"{name}: {tally.wrong} of {tally.times} wrong, first: {tally.first_wrong}"
        for name, tally in sorted(outcome.tallies.items())
        if tally.wrong
    ]
    early, late = flat(outcome.memory, warm_up)
    if late > early * (1 + growth):
        lines.append(f"memory grew by {late / early - 1:.1%}, more than {growth:.1%}")
    if outcome.busy_slots:
        lines.append(f"{outcome.busy_slots} slots are still busy, and nobody is there")
    if outcome.exit_code:
        lines.append(f"the server ended with code {outcome.exit_code} on SIGTERM")
    return lines
