"""What is left to do with a head's products before they are logits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model.blocks import Head

__all__ = ["finish_logits"]


def finish_logits(head: Head[Any, Any], logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Scaled and capped, in place; [T, n_vocab]."""
    if head.scale != 1:
        logits *= np.float32(head.scale)
    if head.softcap is not None:
        cap = np.float32(head.softcap)
        logits /= cap
        np.tanh(logits, out=logits)
        logits *= cap
    return logits
