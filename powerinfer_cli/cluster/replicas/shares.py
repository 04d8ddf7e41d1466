"""How many replicas there are, and what each gets of a machine."""

import math
from dataclasses import dataclass

from powerinfer_cli.errors import PowerInferError

__all__ = ["APPLICATION", "Fleet", "Wanted", "shared"]

APPLICATION = "powerinfer"  # its name in Serve


@dataclass(frozen=True)
class Wanted:
    """least < most: as many as requests need. slots: of each. cpus: cores of each. gpus: of each, None where nobody
    said: they are divided, then. draining_s: that requests may take after a replica, or all, were told to end.
    """

    least: int = 1
    most: int = 1
    slots: int = 4
    cpus: float = 1.0
    gpus: float | None = None
    draining_s: float = 30.0


@dataclass(frozen=True)
class Fleet(Wanted):
    """The same, and all is settled."""

    gpus: float = 0.0


def shared(wanted: Wanted, gpus: float) -> Fleet:
    """gpus: that nobody uses. Raises PowerInferError: there are too few."""
    share = _even(wanted.most, int(gpus)) if wanted.gpus is None else wanted.gpus
    room = _places(share, int(gpus))
    if room < wanted.least:
        raise PowerInferError(
            f"no free GPU for replica {room + 1} of {wanted.least}: each takes {share:g}, and Ray has {gpus:g} free: "
            f"lower --gpus-per-replica or --replicas (0: no GPU)"
        )
    return Fleet(
        wanted.least, max(wanted.least, min(wanted.most, room)), wanted.slots, wanted.cpus, share, wanted.draining_s
    )


def _even(replicas: int, gpus: int) -> float:
    """As many whole GPUs as there are for each, or a part of one."""
    if not gpus:
        return 0.0
    if gpus >= replicas:
        return float(gpus // replicas)
    return math.floor(10_000 / math.ceil(replicas / gpus)) / 10_000  # as exact as Ray counts


def _places(share: float, gpus: int) -> int:
    """Replicas for which there is room."""
    if not share:
        return 1 << 30
    return int(gpus // share) if share >= 1 else gpus * int(1 / share + 1e-9)
