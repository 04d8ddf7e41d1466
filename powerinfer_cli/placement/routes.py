"""Route traces: which experts each token of a text needed, in order. They lie beside a mixture's activation statistics.

Counts say which experts are used most; the order says how long one that was needed stays so, which is what a placement
that changes while running lives by.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.files import make_folder, replacing
from powerinfer_cli.number_files import load_arrays

__all__ = ["RouteTrace", "find_routes", "load_routes", "save_routes"]

NAME = "routes.npz"
WHAT = "a route trace"
MAX_FILE_BYTES = 1 << 30  # DeepSeek V3's 58 layers of 8 chosen ones take 464 bytes a token
MOST_EXPERTS = 1 << 16

Experts = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True, eq=False)
class RouteTrace:
    """layers: the numbers of those that have experts, ascending. n_experts: how many each of them has. chosen: of each
    of them, [tokens, n_chosen], a token's experts ascending. model: the fingerprint of whose trace it is.
    Raises ValueError: anything else.
    """

    layers: tuple[int, ...]
    n_experts: tuple[int, ...]
    chosen: tuple[Experts, ...]
    model: str = ""

    def __post_init__(self) -> None:
        if not self.layers or any(a >= b for a, b in pairwise((-1, *self.layers))):
            raise ValueError("layers are not ascending numbers")
        if not len(self.layers) == len(self.n_experts) == len(self.chosen):
            raise ValueError("not one part for each layer")
        if len({len(chosen) for chosen in self.chosen}) != 1:
            raise ValueError("layers of other numbers of tokens")
        for chosen, count in zip(self.chosen, self.n_experts, strict=True):
            if chosen.ndim != 2 or chosen.dtype not in (np.uint8, np.uint16) or not 1 <= chosen.shape[1] <= count:
                raise ValueError("experts are not numbers for each token")
            if chosen.size and int(chosen[:, -1].max()) >= count:
                raise ValueError(f"an expert {int(chosen[:, -1].max())} of {count}")
            if (chosen[:, 1:] <= chosen[:, :-1]).any():
                raise ValueError("a token's experts do not ascend")

    @property
    def tokens(self) -> int:
        return len(self.chosen[0])

    @property
    def n_chosen(self) -> tuple[int, ...]:
        """Of a token, by layer."""
        return tuple(chosen.shape[1] for chosen in self.chosen)

    def counts(self) -> tuple[npt.NDArray[np.float64], ...]:
        """How many tokens chose each expert: for each layer [n_experts]."""
        pairs = zip(self.chosen, self.n_experts, strict=True)
        return tuple(np.bincount(chosen.reshape(-1), minlength=n).astype(np.float64) for chosen, n in pairs)


def save_routes(folder: Path, trace: RouteTrace) -> None:
    """Write the file that lies beside the `activation` folder in `folder`. Raises PowerInferError."""
    make_folder(folder)
    with replacing(folder / NAME) as temporary, temporary.open("wb") as out:
        np.savez_compressed(
            out,
            model=np.array(trace.model),
            layers=np.array(trace.layers, np.int32),
            n_experts=np.array(trace.n_experts, np.int32),
            n_chosen=np.array(trace.n_chosen, np.int32),
            chosen=np.concatenate(trace.chosen, axis=1),
        )


def find_routes(folder: Path) -> Path | None:
    """The trace in `folder`, that is beside an `activation` folder there, if there is one."""
    path = folder / NAME
    return path if path.is_file() else None


def load_routes(path: Path, n_experts: Mapping[int, int]) -> RouteTrace:
    """A trace of a model with so many experts in these layers, by number.

    Raises:
        PowerInferError: a file that is not what it should be, or a trace of another model.
    """
    found = load_arrays(path, ("model", "layers", "n_experts", "n_chosen", "chosen"), MAX_FILE_BYTES, WHAT)
    try:
        trace = _trace(**found)
    except ValueError as error:
        raise PowerInferError(f"{path}: not {WHAT}: {error}") from error
    if dict(zip(trace.layers, trace.n_experts, strict=True)) != dict(n_experts):
        raise PowerInferError(f"{path}: {WHAT} of another model: other layers have experts, or of another number")
    return trace


def _trace(
    model: npt.NDArray[Any],
    layers: npt.NDArray[Any],
    n_experts: npt.NDArray[Any],
    n_chosen: npt.NDArray[Any],
    chosen: npt.NDArray[Any],
) -> RouteTrace:
    """Raises ValueError."""
    for numbers in (layers, n_experts, n_chosen):
        if numbers.ndim != 1 or numbers.shape != layers.shape or numbers.dtype != np.int32 or not numbers.size:
            raise ValueError("layers and their experts are not counted")
    if n_experts.min() < 1 or n_experts.max() > MOST_EXPERTS or n_chosen.min() < 1 or (n_chosen > n_experts).any():
        raise ValueError("experts, and those that are chosen, are of impossible numbers")
    if chosen.ndim != 2 or chosen.dtype not in (np.uint8, np.uint16):
        raise ValueError("experts are not numbers for each token")
    if chosen.shape[1] != int(n_chosen.astype(np.int64).sum()) or not len(chosen):
        raise ValueError("not as many experts as are chosen")
    if model.shape != () or model.dtype.kind != "U":
        raise ValueError("whose it is is not said")
    parts = np.split(chosen, np.cumsum(n_chosen)[:-1], axis=1)
    return RouteTrace(tuple(layers.tolist()), tuple(n_experts.tolist()), tuple(parts), str(model))
