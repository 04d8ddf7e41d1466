"""In which order a layer's neurons lie in memory, and are added up: those that fire often beside each other.

Memory reads long runs of rows faster than rows here and there, and of the most used neurons a token needs whole runs.
Each part of the neurons that a thread takes gets its share of them, so that all parts have as much to do.
"""

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.sparse.asking import NEVER
from powerinfer_cli.kernels.cpu.sparse.token import borders_of

__all__ = ["neuron_order"]


def neuron_order(uses: npt.NDArray[np.float64], modes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """The numbers of neurons in the order in which they are to lie, [n_ff]: in each part the most used first.

    uses [n_ff]: how often a token uses each. Those whose mode is NEVER are in no part and lie behind all.
    """
    asked = np.flatnonzero(modes != NEVER)
    ranked = asked[np.argsort(-uses[asked], kind="stable")]
    # Dealt like cards: a part's j-th of n places has its turn when (j + 1/2) / n of all have had theirs.
    turns = np.concatenate([(np.arange(n) + 0.5) / n for n in np.diff(borders_of(len(ranked)))])
    order = np.empty_like(ranked)
    order[np.argsort(turns, kind="stable")] = ranked
    return np.concatenate([order, np.flatnonzero(modes == NEVER)]).astype(np.int32)
