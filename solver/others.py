"""How busy other programs keep the cores that this one may use, while something is measured."""

import time
from dataclasses import dataclass

from powerinfer_cli.system.cores import busy_seconds, usable_cores

__all__ = ["BUSY", "OtherPrograms", "busy_warning"]

BUSY = 0.15  # of the cores in use by others, from which on measured costs are not the machine's


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
        return cls(time.monotonic(), busy_seconds(), time.process_time())

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
