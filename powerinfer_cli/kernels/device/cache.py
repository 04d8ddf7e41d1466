"""One layer's keys and values on a device: [n_head_kv, n_cells, head_dim], q8_0 with a float16 scale for every 32.

Position p of a sequence lies in cell pages[p // PAGE] * PAGE + p % PAGE, whose pages are the sequence's own. A cache
may hold the first pages only, as many as PAGE divides its cells into, and SPARE cells more: what belongs into pages
that lie elsewhere goes to the last of these, and nobody reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.kernels.cache import GROUP, PAGE, CacheType

__all__ = [
    "SPARE",
    "DeviceCache",
    "cache_bytes",
    "cells_of",
    "make_cache",
    "put_back",
    "read_rows",
    "stored",
    "write_rows",
]

Arrays = Mapping[str, npt.NDArray[Any]]

SPARE = 16  # cells, of which one is needed: rows stay aligned

_DTYPES = {CacheType.F32: torch.float32, CacheType.F16: torch.float16, CacheType.Q8_0: torch.int8}


@dataclass(frozen=True, eq=False)
class DeviceCache:
    """Numbers as they are stored; scales [n_head_kv, n_cells, head_dim / 32] where the type is q8_0, else None. states
    float32 [sequences, numbers of a state]: of a layer that keeps these instead, else None.
    """

    type_k: CacheType
    type_v: CacheType
    k: Tensor
    k_scales: Tensor | None
    v: Tensor
    v_scales: Tensor | None
    states: Tensor | None = None

    @property
    def n_head_kv(self) -> int:
        return self.k.shape[0]

    @property
    def n_cells(self) -> int:
        return self.k.shape[1]

    @property
    def n_pages(self) -> int:
        """Pages from this number on lie elsewhere."""
        return self.n_cells // PAGE

    @property
    def head_dim(self) -> int:
        return self.k.shape[2]

    def heads(self, part: slice) -> tuple[tuple[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]:
        """Keys and values of some heads, each with their scales; no copies."""
        scales = [None if s is None else s[part] for s in (self.k_scales, self.v_scales)]
        return (self.k[part], scales[0]), (self.v[part], scales[1])

    @property
    def parts(self) -> dict[str, Tensor]:
        """All keys and values that are here, by name."""
        found = {"k": self.k, "k_scales": self.k_scales, "v": self.v, "v_scales": self.v_scales}
        return {name: part for name, part in found.items() if part is not None and self.n_head_kv}

    @property
    def nbytes(self) -> int:
        kept = 0 if self.states is None else self.states.nbytes
        return kept + sum(part.nbytes for part in self.parts.values())


def make_cache(
    n_head_kv: int,
    n_cells: int,
    head_dim: int,
    type_k: CacheType,
    type_v: CacheType,
    device: torch.device | str,
    states: tuple[int, int] = (0, 0),
) -> DeviceCache:
    """Zeros. n_cells is a multiple of PAGE, or so many and SPARE; head_dim is a multiple of 32 for q8_0. states:
    sequences, and numbers of a state, 0: there are none.
    """

    def numbers(kind: CacheType) -> Tensor:
        return torch.zeros(n_head_kv, n_cells, head_dim, dtype=_DTYPES[kind], device=device)

    def scales(kind: CacheType) -> Tensor | None:
        if kind is not CacheType.Q8_0:
            return None
        return torch.zeros(n_head_kv, n_cells, head_dim // GROUP, dtype=torch.float16, device=device)

    kept = torch.zeros(states, device=device) if states[1] else None
    return DeviceCache(type_k, type_v, numbers(type_k), scales(type_k), numbers(type_v), scales(type_v), kept)


def cache_bytes(n_head_kv: int, n_cells: int, head_dim: int, type_k: CacheType, type_v: CacheType) -> int:
    """What `make_cache` takes on the device."""
    return n_head_kv * n_cells * (type_k.position_bytes(head_dim) + type_v.position_bytes(head_dim))


def cells_of(pages: Tensor, n: int) -> Tensor:
    """Where positions 0 to n - 1 of a sequence lie, int64 [n]. pages: as of the module; below 0 there is none, and the
    cell is below 0 as well.
    """
    positions = torch.arange(n, device=pages.device)
    return pages.index_select(0, positions // PAGE) * PAGE + positions % PAGE


def read_rows(numbers: Tensor, scales: Tensor | None, cells: Tensor) -> Tensor:
    """Keys or values of cells int64 [N], float32 [n_head_kv, N, head_dim]."""
    found = numbers.index_select(1, cells).float()
    if scales is None:
        return found
    groups = found.view(*found.shape[:2], scales.shape[-1], GROUP) * scales.index_select(1, cells).float().unsqueeze(-1)
    return groups.view(found.shape)


def write_rows(numbers: Tensor, scales: Tensor | None, cells: Tensor, x: Tensor) -> None:
    """Put keys or values x float32 [n_head_kv, T, head_dim] into cells int64 [T]; the last takes what is for others
    behind it.
    """
    cells = cells.clamp(max=numbers.shape[1] - 1)
    if scales is not None:
        groups = x.reshape(*x.shape[:2], scales.shape[-1], GROUP)
        peaks = groups.abs().amax(-1)
        scales.index_copy_(1, cells, (peaks / 127).to(scales.dtype))
        x = (groups * torch.where(peaks > 1e-30, 127 / peaks, 0).unsqueeze(-1)).round().view(x.shape)
    numbers.index_copy_(1, cells, x.to(numbers.dtype))


def stored(cache: DeviceCache, cells: Tensor) -> dict[str, npt.NDArray[Any]]:
    """What is in cells int64 [N], as it is stored: arrays [N, n_head_kv, ...] by part. Waits for the device."""
    rows = {name: part.index_select(1, cells).transpose(0, 1) for name, part in cache.parts.items()}
    return {name: part.cpu().contiguous().numpy() for name, part in rows.items()}


def put_back(cache: DeviceCache, cells: Tensor, parts: Arrays) -> None:
    """Put what `stored` gave into as many cells."""
    for name, part in cache.parts.items():
        part.index_copy_(1, cells, torch.from_numpy(parts[name]).to(part.device).transpose(0, 1))
