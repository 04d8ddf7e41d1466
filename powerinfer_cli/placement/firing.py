"""Firing traces: which neurons of a sparse model each token at a text's end needed, in order. They lie beside its
activation statistics, and tell what counts do not: how long a neuron that was needed stays so.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing
from powerinfer_cli.number_files import load_arrays

__all__ = ["FiringTrace", "find_firing", "load_firing", "save_firing", "traced_tokens"]

NAME = "firing.npz"
WHAT = "a firing trace"
MOST_TOKENS = 1024
MOST_BYTES = 32 << 20  # of a trace: Llama-2-70B's layers take 280 KiB a token
OVERHEAD = 1 << 20  # bytes of a file besides

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FiringTrace:
    """n_ff: neurons by layer. bits: of each layer [tokens, bytes], a token's neurons, the first in the lowest bit.
    model: the fingerprint of whose trace it is. Raises ValueError: anything else.
    """

    n_ff: tuple[int, ...]
    bits: tuple[Bits, ...]
    model: str = ""

    def __post_init__(self) -> None:
        if not self.n_ff or len(self.n_ff) != len(self.bits):
            raise ValueError("not one part for each layer")
        shapes = [(len(self.bits[0]), -(-n // 8)) for n in self.n_ff]
        if not len(self.bits[0]) or [one.shape for one in self.bits] != shapes:
            raise ValueError("not a bit for each neuron and token")

    @property
    def tokens(self) -> int:
        return len(self.bits[0])

    def fired(self, layer: int) -> npt.NDArray[np.bool_]:
        """[tokens, n_ff]"""
        return np.unpackbits(self.bits[layer], axis=1, count=self.n_ff[layer], bitorder="little").astype(np.bool_)


def traced_tokens(n_ff: Sequence[int], tokens: int) -> int:
    """Of so many tokens of a text, how many are kept, the last."""
    return min(tokens, MOST_TOKENS, max(1, MOST_BYTES // sum(-(-n // 8) for n in n_ff)))


def save_firing(folder: Path, trace: FiringTrace) -> None:
    """Write the file that lies beside the `activation` folder in `folder`. Raises PowerInferError."""
    with replacing(make_folder(folder) / NAME) as temporary, temporary.open("wb") as out:
        n_ff = np.array(trace.n_ff, np.int32)
        np.savez_compressed(out, model=np.array(trace.model), n_ff=n_ff, bits=np.concatenate(trace.bits, axis=1))


def find_firing(folder: Path) -> Path | None:
    """The trace in `folder`, that is beside an `activation` folder there, if there is one."""
    path = folder / NAME
    return path if path.is_file() else None


def load_firing(path: Path, n_ff: Sequence[int]) -> FiringTrace:
    """A trace of a model with so many neurons by layer.

    Raises:
        PowerInferError: a file that is not what it should be, or a trace of another model.
    """
    widths = [-(-n // 8) for n in n_ff]
    found = load_arrays(path, ("model", "n_ff", "bits"), max(MOST_BYTES, sum(widths)) + OVERHEAD, WHAT)
    model, told, bits = found["model"], found["n_ff"], found["bits"]
    if model.shape != () or model.dtype.kind != "U" or told.ndim != 1 or told.dtype != np.int32:
        raise PowerInferError(f"{path}: not {WHAT}: whose it is is not said")
    if told.tolist() != list(n_ff):
        raise PowerInferError(f"{path}: {WHAT} of another model: of other layers, or neurons")
    if bits.ndim != 2 or bits.dtype != np.uint8 or bits.shape[1] != sum(widths) or not len(bits):
        raise PowerInferError(f"{path}: not {WHAT}: not a bit for each neuron and token")
    return FiringTrace(tuple(n_ff), tuple(np.split(bits, np.cumsum(widths)[:-1], axis=1)), str(model))
