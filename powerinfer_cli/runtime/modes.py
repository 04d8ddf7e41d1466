"""What statistics say of a layer's neurons, as both tiers' kernels take it."""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.sparse.asking import ALWAYS, ASK, NEVER
from powerinfer_cli.placement import LayerActivity

__all__ = ["modes_of"]


def modes_of(activity: LayerActivity | None, n_ff: int) -> npt.NDArray[np.uint8]:
    """ALWAYS, NEVER or ASK of each neuron, [n_ff]; ASK of all where statistics settle nothing."""
    modes = np.full(n_ff, ASK, np.uint8)
    if activity is not None:
        modes[:] = NEVER
        modes[activity.undecided] = ASK
        modes[activity.always] = ALWAYS
    return modes
