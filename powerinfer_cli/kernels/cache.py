"""The KV cache as kernels see it: the layout of one layer, and how a position's key and value get there.

Keys lie in blocks of 16 positions, [n_head_kv, n_ctx / 16, head_dim, 16], so that 16 scores are 16 lanes and need no
sum across lanes. Values lie as they come, [n_head_kv, n_ctx, head_dim rounded up to 16], zeros behind head_dim.
q8_0 holds int8 with a float16 scale for every 32 dimensions of a position: [n_head_kv, n_ctx / 16, head_dim / 32, 16]
for keys, [n_head_kv, n_ctx, head_dim / 32] for values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.vectors import aligned
from powerinfer_cli.kernels.jit import helper, kernel, types
from powerinfer_cli.kernels.simd import calling, f32, i8, store_half, u16

__all__ = ["GROUP", "PAGE", "STORE", "CacheType", "KeysValues", "Shape", "put_key", "put_value", "value_stride"]

Floats = npt.NDArray[np.float32]
Cells = npt.NDArray[np.int64]

PAGE = 128  # positions that attention reads at a time; n_ctx is a multiple
GROUP = 32  # dimensions that share a scale in q8_0


class CacheType(StrEnum):
    F32 = "f32"
    F16 = "f16"
    Q8_0 = "q8_0"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype({CacheType.F32: np.float32, CacheType.F16: np.float16, CacheType.Q8_0: np.int8}[self])

    def position_bytes(self, head_dim: int) -> int:
        """Of one position of one head."""
        return head_dim * self.dtype.itemsize + (head_dim // GROUP * 2 if self is CacheType.Q8_0 else 0)


def value_stride(head_dim: int) -> int:
    """Numbers from one position's value to the next."""
    return -(-head_dim // 16) * 16


@dataclass(frozen=True)
class Shape:
    """Of one layer's cache, and of the queries that read it."""

    n_head: int
    n_head_kv: int
    head_dim: int
    n_ctx: int  # cells, each for a position; a multiple of PAGE

    @property
    def value_stride(self) -> int:
        return value_stride(self.head_dim)


@dataclass(frozen=True)
class KeysValues:
    """One layer's cache. Scales are empty where the type has none. origin: cells below that number lie elsewhere, so
    that this one is the first here; a multiple of PAGE. states [sequences, numbers of a state]: of a layer that keeps
    these instead.
    """

    shape: Shape
    type_k: CacheType
    type_v: CacheType
    k: npt.NDArray[Any]
    k_scales: npt.NDArray[np.float16]
    v: npt.NDArray[Any]
    v_scales: npt.NDArray[np.float16]
    states: Floats
    origin: int = 0

    @classmethod
    def make(
        cls,
        shape: Shape,
        type_k: CacheType,
        type_v: CacheType,
        origin: int = 0,
        states: tuple[int, int] = (0, 0),
    ) -> "KeysValues":
        """Zeros: memory that is not written to costs nothing."""
        heads, blocks, scales = shape.n_head_kv, shape.n_ctx // 16, shape.head_dim // GROUP
        return cls(
            shape,
            type_k,
            type_v,
            _zeros((heads, blocks, shape.head_dim, 16), type_k.dtype),
            _zeros((heads, blocks, scales if type_k is CacheType.Q8_0 else 0, 16), np.float16),
            _zeros((heads, shape.n_ctx, shape.value_stride), type_v.dtype),
            _zeros((heads, shape.n_ctx, scales if type_v is CacheType.Q8_0 else 0), np.float16),
            _zeros(states, np.float32),
            origin,
        )

    def read_by(self, n_head: int) -> "KeysValues":
        """The same, for other queries."""
        return replace(self, shape=replace(self.shape, n_head=n_head))

    def behind(self, origin: int) -> "KeysValues":
        """The part of all cells from `origin` on."""
        k, k_scales = (part[:, origin // 16 :] for part in (self.k, self.k_scales))
        return replace(
            self, k=k, k_scales=k_scales, v=self.v[:, origin:], v_scales=self.v_scales[:, origin:], origin=origin
        )

    def read(self, cells: Cells) -> tuple[Floats, Floats]:
        """Keys and values in these cells, float32 [n, n_head_kv, head_dim]."""
        blocks, lanes = np.divmod(cells, 16)
        k = self.k[:, blocks, :, lanes].astype(np.float32)
        v = self.v[:, cells, : self.shape.head_dim].astype(np.float32)
        if self.type_k is CacheType.Q8_0:
            k *= self.k_scales[:, blocks, :, lanes].astype(np.float32).repeat(GROUP, 2)
        if self.type_v is CacheType.Q8_0:
            v *= self.v_scales[:, cells].astype(np.float32).repeat(GROUP, 2)
        return k, np.ascontiguousarray(v.transpose(1, 0, 2))

    def write_keys(self, cells: Cells, k: Floats) -> None:
        """Put keys [n, n_head_kv, head_dim] into these cells."""
        blocks, lanes = np.divmod(cells, 16)
        if self.type_k is CacheType.Q8_0:
            k, self.k_scales[:, blocks, :, lanes] = _rounded(k)
        self.k[:, blocks, :, lanes] = k

    def write_values(self, cells: Cells, v: Floats) -> None:
        """Put values [n, n_head_kv, head_dim] into these cells."""
        if self.type_v is CacheType.Q8_0:
            v, scales = _rounded(v)
            self.v_scales[:, cells] = scales.swapaxes(0, 1)
        self.v[:, cells, : self.shape.head_dim] = v.swapaxes(0, 1)

    def move_values(self, cells: Cells, to: Cells) -> None:
        """Copy the values of cells to others, which may be among them."""
        for part in (self.v, self.v_scales):
            part[:, to] = part[:, cells]

    def stored(self, cells: Cells) -> dict[str, npt.NDArray[Any]]:
        """What is in these cells, as it is stored: arrays [n, n_head_kv, ...] by part."""
        blocks, lanes = np.divmod(cells, 16)
        keys = {"k": self.k[:, blocks, :, lanes], "k_scales": self.k_scales[:, blocks, :, lanes]}
        v = self.v[:, cells, : self.shape.head_dim]
        values = {"v": v.swapaxes(0, 1), "v_scales": self.v_scales[:, cells].swapaxes(0, 1)}
        return {name: np.ascontiguousarray(part) for name, part in (keys | values).items() if part.size}

    def check(self, cells: Cells, parts: Mapping[str, npt.NDArray[Any]]) -> None:
        """Raises ValueError: other parts, shapes or types than `stored` gives for as many cells."""
        wanted = {name: (len(cells), *part.shape[1:], part.dtype) for name, part in self.stored(cells[:1]).items()}
        given = {name: (*part.shape, part.dtype) for name, part in parts.items()}
        if given != wanted:
            raise ValueError(f"{given} instead of {wanted}")

    def store(self, cells: Cells, parts: Mapping[str, npt.NDArray[Any]]) -> None:
        """Put back what `stored` gave, and `check` has found to fit."""
        blocks, lanes = np.divmod(cells, 16)
        for name, part in parts.items():
            if name.startswith("k"):
                getattr(self, name)[:, blocks, :, lanes] = part
            else:
                getattr(self, name)[:, cells, : part.shape[2]] = part.swapaxes(0, 1)

    @property
    def n_bytes(self) -> int:
        return self.k.nbytes + self.k_scales.nbytes + self.v.nbytes + self.v_scales.nbytes + self.states.nbytes


def _rounded(x: Floats) -> tuple[Floats, Floats]:
    """Keys or values [n, n_head_kv, head_dim] as whole numbers of their groups' scales, [n, n_head_kv, groups]."""
    groups = x.reshape(*x.shape[:2], x.shape[-1] // GROUP, GROUP)
    scales = np.abs(groups).max(-1) / np.float32(127)
    return np.rint(groups / np.maximum(scales, np.float32(1e-32))[..., None]).reshape(x.shape), scales


def _zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return aligned(size).view(dtype).reshape(shape)


# How numbers get into a cache of a type: (numbers, head_dim, target, at, step, scales, scales_at, scales_step), called
# by address. head_dim float32 go to every step-th place from `at` on of the target, and their scales likewise.
_STORE = types.void(*[types.int64] * 8)
_store = calling(types.void, *[types.int64] * 8)


@kernel(_STORE)
def store_f32(numbers_address, head_dim, target, at, step, scales, scales_at, scales_step):
    numbers, out = f32(numbers_address), f32(target)
    for d in range(head_dim):
        out[at + d * step] = numbers[d]


@kernel(_STORE)
def store_f16(numbers_address, head_dim, target, at, step, scales, scales_at, scales_step):
    numbers, out = f32(numbers_address), u16(target)
    for d in range(head_dim):
        store_half(out, at + d * step, numbers[d])


@kernel(_STORE)
def store_q8_0(numbers_address, head_dim, target, at, step, scales, scales_at, scales_step):
    numbers, out, d_out = f32(numbers_address), i8(target), u16(scales)
    for g in range(head_dim // GROUP):
        peak = np.float32(0.0)
        for d in range(g * GROUP, (g + 1) * GROUP):
            peak = max(peak, abs(numbers[d]))
        store_half(d_out, scales_at + g * scales_step, peak / np.float32(127.0))
        inverse = np.float32(127.0) / peak if peak > np.float32(1e-30) else np.float32(0.0)
        for d in range(g * GROUP, (g + 1) * GROUP):
            scaled = numbers[d] * inverse
            away = np.float32(0.5) if scaled >= np.float32(0.0) else np.float32(-0.5)
            out[at + d * step] = np.int8(np.int32(scaled + away))


STORE = {CacheType.F32: store_f32, CacheType.F16: store_f16, CacheType.Q8_0: store_q8_0}


@helper
def put_key(store, numbers, head_dim, n_ctx, keys, scales, head, position):
    """Put a key into a layer's cache; `store`: the address of its type's kernel."""
    block, lane, groups = head * (n_ctx // 16) + position // 16, position % 16, head_dim // GROUP
    at, scales_at = block * head_dim * 16 + lane, block * groups * 16 + lane
    _store(store, numbers, head_dim, keys, at, 16, scales, scales_at, 16)


@helper
def put_value(store, numbers, head_dim, n_ctx, values, scales, head, position):
    """Put a value into a layer's cache; `store` as for keys."""
    row, stride, groups = head * n_ctx + position, (head_dim + 15) // 16 * 16, head_dim // GROUP
    _store(store, numbers, head_dim, values, row * stride, 1, scales, row * groups, 1)
