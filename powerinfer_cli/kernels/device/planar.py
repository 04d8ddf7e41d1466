"""Weight rows as GPU kernels read them: every kind of number in a plane of its own, so that neighbours load together.

A quantised weight is scale * level + minimum, level = quant - offset or codebook[quant]:
  quants        a byte each, signed and without offset, [n_rows, n_cols]; or two to a byte, [n_rows, n_cols / 2]: of
                each group the first half's quants low, the second half's high
  scales, mins  one for each group of 16 or 32, [n_rows, n_cols / group]: floats; or, in superblocks, small integers
  super_scales, super_mins   float16 [n_rows, n_cols / 256]: what superblocks' scales and mins are multiplied by
  codebook      float32 [16]
Rows of floats are one plane, [n_rows, n_cols].
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from math import prod

import torch
from torch import Tensor

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError
from powerinfer_cli.kernels.formats.convert import conversion

__all__ = ["LAYOUTS", "SUPERBLOCK", "Layout", "PlanarRows", "planar_bytes", "planar_type", "planes"]

SUPERBLOCK = 256

_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_E2M1_DOUBLED = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)


@dataclass(frozen=True)
class Layout:
    """A type's planes. `group` 0: floats of `quants`; else `quants` is uint8 for two to a byte, int8 for one."""

    quants: torch.dtype
    group: int = 0
    scales: torch.dtype = torch.float16
    has_min: bool = False
    offset: int = 0
    codebook: tuple[int, ...] | None = None

    @property
    def is_float(self) -> bool:
        return self.group == 0

    @property
    def packed(self) -> bool:
        """Two quants to a byte."""
        return self.quants is torch.uint8

    @property
    def in_superblocks(self) -> bool:
        return self.scales is torch.int8


_NIBBLES, _BYTES = torch.uint8, torch.int8

LAYOUTS: dict[GGMLType, Layout] = {
    GGMLType.F32: Layout(torch.float32),
    GGMLType.F16: Layout(torch.float16),
    GGMLType.BF16: Layout(torch.bfloat16),
    GGMLType.Q4_0: Layout(_NIBBLES, 32, offset=8),
    GGMLType.Q4_1: Layout(_NIBBLES, 32, has_min=True),
    GGMLType.Q5_0: Layout(_BYTES, 32),
    GGMLType.Q5_1: Layout(_BYTES, 32, has_min=True),
    GGMLType.Q8_0: Layout(_BYTES, 32),
    GGMLType.Q2_K: Layout(_NIBBLES, 16, torch.int8, has_min=True),
    GGMLType.Q3_K: Layout(_NIBBLES, 16, torch.int8, offset=4),
    GGMLType.Q4_K: Layout(_NIBBLES, 32, torch.int8, has_min=True),
    GGMLType.Q5_K: Layout(_BYTES, 32, torch.int8, has_min=True),
    GGMLType.Q6_K: Layout(_BYTES, 16, torch.int8),
    GGMLType.IQ4_NL: Layout(_NIBBLES, 32, codebook=_IQ4),
    GGMLType.IQ4_XS: Layout(_NIBBLES, 32, torch.int8, codebook=_IQ4),
    # Its scales are powers of two from 2**-128 to 2**127: bfloat16 has them all, float16 does not.
    GGMLType.MXFP4: Layout(_NIBBLES, 32, torch.bfloat16, codebook=_E2M1_DOUBLED),
}
"""The types that have kernels. All others are converted to one of them."""


@dataclass(frozen=True, eq=False)
class PlanarRows:
    """[n_rows, n_cols] weights, all tensors contiguous and on one device. None where the type has no such plane."""

    kind: GGMLType
    n_rows: int
    n_cols: int
    quants: Tensor
    scales: Tensor | None = None
    mins: Tensor | None = None
    super_scales: Tensor | None = None
    super_mins: Tensor | None = None
    codebook: Tensor | None = None

    @property
    def layout(self) -> Layout:
        return LAYOUTS[self.kind]

    @property
    def device(self) -> torch.device:
        return self.quants.device

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self._tensors().values())

    def slice(self, begin: int, end: int) -> "PlanarRows":
        """Rows begin to end - 1, without a copy."""
        parts = {name: t if name == "codebook" else t[begin:end] for name, t in self._tensors().items()}
        return PlanarRows(self.kind, len(parts["quants"]), self.n_cols, **parts)

    def copy_from(self, rows: "PlanarRows") -> None:
        """Become rows of the same kind and number."""
        new = rows._tensors()
        for name, t in self._tensors().items():
            if name != "codebook":
                t.copy_(new[name])

    def exchange(self, rows: "PlanarRows") -> None:
        """Become rows of the same kind and number, and these what these were."""
        kept = self._tensors()
        for name, t in rows._tensors().items():
            if name != "codebook":
                old = kept[name].clone()
                kept[name].copy_(t)
                t.copy_(old)

    def chunk_at(self, place: Tensor, n_chunks: int) -> "PlanarRows":
        """A copy of one of n_chunks equal chunks of rows; place int64 [1], which is not asked back."""
        parts = {}
        for name, t in self._tensors().items():
            chunks = t.view(n_chunks, -1, t.shape[-1]) if name != "codebook" else None
            parts[name] = t if chunks is None else chunks.index_select(0, place)[0]
        return PlanarRows(self.kind, len(parts["quants"]), self.n_cols, **parts)

    def _tensors(self) -> dict[str, Tensor]:
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in values if isinstance(value, Tensor)}


def planar_type(kind: GGMLType) -> GGMLType:
    """The type that rows of a type have on a device: itself, or what it is converted to. GGUFError: no weights."""
    return kind if kind in LAYOUTS else conversion(kind)


def planes(kind: GGMLType, n_rows: int, n_cols: int) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """Name, shape and number type of each plane of rows of a planar type. GGUFError if rows are no whole blocks."""
    layout = LAYOUTS[kind]
    if n_cols % BLOCK[kind][0]:
        raise GGUFError(f"rows of {n_cols} numbers are no whole {kind.name} blocks of {BLOCK[kind][0]}")
    yield "quants", (n_rows, n_cols // 2 if layout.packed else n_cols), layout.quants
    if layout.is_float:
        return
    for name in ("scales", "mins") if layout.has_min else ("scales",):
        yield name, (n_rows, n_cols // layout.group), layout.scales
        if layout.in_superblocks:
            yield f"super_{name}", (n_rows, n_cols // SUPERBLOCK), torch.float16
    if layout.codebook:
        yield "codebook", (16,), torch.float32


def planar_bytes(kind: GGMLType, n_rows: int, n_cols: int) -> int:
    """The bytes that all tensors of such rows take on a device; `kind` is the file's, any type of weights."""
    parts = planes(planar_type(kind), n_rows, n_cols)
    return sum(prod(shape) * dtype.itemsize for _, shape, dtype in parts)
