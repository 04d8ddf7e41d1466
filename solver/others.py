"""How busy other programs keep the cores that this one may use, while something is measured."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from powerinfer_cli.system.cores import usable_cores

__all__ = ["BUSY", "OtherPrograms", "busy_warning"]

BUSY = 0.15  # of the cores in use by others, from which on measured costs are not the machine's
_STAT = Path("/proc/stat")


@dataclass(frozen=True)
class OtherPrograms:
    """A moment from which on is looked. busy: seconds of all usable cores so far, None where nobody says. own: of this
    process's.
    """

    wall: float
    busy: float | None
    own: float

    @classmethod
    def watch(cls) -> "OtherPrograms":
        return cls(time.monotonic(), _busy_seconds(), time.process_time())

    def cores(self) -> float | None:
        """How many cores others have used since then, on average; None where the system does not say."""
        now = OtherPrograms.watch()
        wall = now.wall - self.wall
        if self.busy is None or now.busy is None or wall <= 0:
            return None
        return min(max(0.0, (now.busy - self.busy - (now.own - self.own)) / wall), float(len(usable_cores())))


def busy_warning(others: float | None, meanwhile: str) -> str | None:
    """What to say of so many cores that others used meanwhile; None: nothing."""
    cores = len(usable_cores())
    if others is None or others < BUSY * cores:
        return None
    return (
        f"warning: other programs used {others:.1f} of {cores} cores while {meanwhile}: speeds are those beside them; "
        "repeat this when they are done"
    )


def _busy_seconds() -> float | None:
    """User, nice, system, interrupts and what a hypervisor took, of the cores that may be used."""
    try:
        lines = _STAT.read_text().splitlines()
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None  # not Linux
    cores = {f"cpu{core}" for core in usable_cores()}
    total = 0
    for line in lines:
        name, *numbers = line.split()
        if name in cores:
            user, nice, system, _idle, _waiting, *rest = (int(number) for number in numbers[:8])
            total += user + nice + system + sum(rest)
    return total / ticks
