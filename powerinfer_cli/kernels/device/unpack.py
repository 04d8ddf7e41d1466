"""GGUF blocks to planes, with torch operations on whole rows: on a GPU this is fast. Source: ggml-common.h."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.device.planar import LAYOUTS, PlanarRows, planar_type, planes
from powerinfer_cli.kernels.formats.convert import convert

__all__ = ["CHUNK_BYTES", "to_planar"]

CHUNK_BYTES = 4 << 20
"""Rows are unpacked in pieces of about so many bytes; besides the result they need some ten times that at once."""


def to_planar(raw: Tensor, kind: GGMLType, n_cols: int, device: torch.device | str | None = None) -> PlanarRows:
    """GGUF rows, uint8 [n_rows, row_bytes] on any device, as planes on `device` (without one: where they are).

    Rows of floats that are on the device already are not copied. A type without a layout is converted, by the CPU.

    Raises:
        GGUFError: rows are no whole blocks, or the type's numbers are no weights.
    """
    device = raw.device if device is None else torch.device(device)
    target, n_rows = planar_type(kind), len(raw)
    if LAYOUTS[target].is_float and kind is target:
        return PlanarRows(target, n_rows, n_cols, _numbers(raw.to(device), LAYOUTS[target].quants, n_cols))
    made = {
        name: torch.empty(shape, dtype=dtype, device=device) for name, shape, dtype in planes(target, n_rows, n_cols)
    }
    if codebook := LAYOUTS[target].codebook:
        made["codebook"].copy_(torch.tensor(codebook, dtype=torch.float32))
    step = max(1, CHUNK_BYTES // max(1, raw.shape[1]))
    for begin in range(0, n_rows, step):
        piece = raw[begin : begin + step]
        if kind is not target:
            piece = torch.from_numpy(convert(piece.cpu().contiguous().numpy(), kind))
        for name, part in _unpacked(piece.to(device), target, n_cols).items():
            made[name][begin : begin + step] = part
    return PlanarRows(target, n_rows, n_cols, **made)


def _numbers(raw: Tensor, dtype: torch.dtype, n_cols: int) -> Tensor:
    """Bytes [n_rows, n_cols * size] as floats [n_rows, n_cols]."""
    raw = raw.contiguous()
    if raw.storage_offset() % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype).view(len(raw), n_cols)


def _unpacked(raw: Tensor, kind: GGMLType, n_cols: int) -> dict[str, Tensor]:
    """Planes of a few rows."""
    layout = LAYOUTS[kind]
    if layout.is_float:
        return {"quants": _numbers(raw, layout.quants, n_cols)}
    n_rows, (size, n_bytes) = len(raw), BLOCK[kind]
    blocks = _UNPACK[kind](raw.reshape(n_rows, n_cols // size, n_bytes))
    quants = blocks.quants.reshape(n_rows, n_cols)
    if layout.packed:
        low, high = quants.view(n_rows, -1, 2, layout.group // 2).unbind(2)
        quants = (low | high << 4).view(n_rows, -1)
    parts = {name: getattr(blocks, name) for name in ("scales", "mins", "super_scales", "super_mins")}
    return {"quants": quants} | {name: t.reshape(n_rows, -1) for name, t in parts.items() if t is not None}


@dataclass(frozen=True)
class _Blocks:
    """quants [n_rows, blocks, block], in order of columns; the others [n_rows, blocks, so many to a block]."""

    quants: Tensor
    scales: Tensor
    mins: Tensor | None = None
    super_scales: Tensor | None = None
    super_mins: Tensor | None = None


def _half(field: Tensor) -> Tensor:
    return field.contiguous().view(torch.float16)


def _signed(field: Tensor, offset: int = 0) -> Tensor:
    """Bytes as signed numbers, less an offset."""
    numbers = field.contiguous().view(torch.int8)
    return numbers - offset if offset else numbers


def _fields(packed: Tensor, width: int, run: int) -> Tensor:
    """Fields of `width` bits, lowest first: those of `run` bytes' lowest bits, then their next bits, and so on.

    uint8 [..., size] -> [..., size * 8 / width]. With `run` 1 the fields come byte by byte.
    """
    shifts = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)[:, None]
    runs = packed.reshape(*packed.shape[:-1], packed.shape[-1] // run, 1, run)
    return (runs >> shifts & (1 << width) - 1).flatten(-3)


def _nibbles(packed: Tensor, run: int) -> Tensor:
    return _fields(packed, 4, run)


def _legacy(blocks: Tensor, *, has_min: bool = False, fifth: bool = False) -> _Blocks:
    """d (m) (fifth bits) and nibbles or bytes of 32 weights."""
    d, rest = _half(blocks[..., :2]), blocks[..., 2:]
    m = None
    if has_min:
        m, rest = _half(rest[..., :2]), rest[..., 2:]
    if rest.shape[-1] == 32:
        return _Blocks(_signed(rest), d)
    if not fifth:
        return _Blocks(_nibbles(rest, 16), d, m)
    quants = _nibbles(rest[..., 4:], 16) | _fields(rest[..., :4], 1, 1) << 4
    return _Blocks(_signed(quants, 0 if has_min else 16), d, m)


def _q4_1(blocks: Tensor) -> _Blocks:
    return _legacy(blocks, has_min=True)


def _q5_0(blocks: Tensor) -> _Blocks:
    return _legacy(blocks, fifth=True)


def _q5_1(blocks: Tensor) -> _Blocks:
    return _legacy(blocks, has_min=True, fifth=True)


def _q2_k(blocks: Tensor) -> _Blocks:
    """16 bytes of scale (low half) and minimum (high half), two-bit quants [64], d, dmin."""
    packed, quants, d, dmin = blocks.split([16, 64, 2, 2], -1)
    return _Blocks(_fields(quants, 2, 32), _signed(packed & 15), _signed(packed >> 4), _half(d), -_half(dmin))


def _q3_k(blocks: Tensor) -> _Blocks:
    """Third bits [32], two low bits [64], 16 six-bit scales plus 32 [12], d."""
    high, low, packed, d = blocks.split([32, 64, 12, 2], -1)
    scales = _nibbles(packed[..., :8], 8) | _fields(packed[..., 8:], 2, 4) << 4
    return _Blocks(_fields(low, 2, 32) | _fields(high, 1, 32) << 2, _signed(scales, 32), super_scales=_half(d))


def _q4_k(blocks: Tensor) -> _Blocks:
    """d, dmin, scales and minima [12], nibbles [128]."""
    d, dmin, packed, quants = blocks.split([2, 2, 12, 128], -1)
    return _Blocks(_nibbles(quants, 32), *_scales_and_minima(packed), _half(d), -_half(dmin))


def _q5_k(blocks: Tensor) -> _Blocks:
    """d, dmin, scales and minima [12], fifth bits [32], nibbles [128]."""
    d, dmin, packed, fifth, low = blocks.split([2, 2, 12, 32, 128], -1)
    quants = _signed(_nibbles(low, 32) | _fields(fifth, 1, 32) << 4)
    return _Blocks(quants, *_scales_and_minima(packed), _half(d), -_half(dmin))


def _scales_and_minima(packed: Tensor) -> tuple[Tensor, Tensor]:
    """Eight groups' six-bit numbers: of the last four, the high two bits are on top of the first four's."""
    first, second, rest = packed.split([4, 4, 4], -1)
    scales = torch.cat([first & 63, rest & 15 | first >> 2 & 0x30], -1)
    minima = torch.cat([second & 63, rest >> 4 | second >> 2 & 0x30], -1)
    return _signed(scales), _signed(minima)


def _q6_k(blocks: Tensor) -> _Blocks:
    """Four low bits [128], two high bits plus 32 [64], scales [16], d."""
    low, high, scales, d = blocks.split([128, 64, 16, 2], -1)
    quants = _signed(_nibbles(low, 64) | _fields(high, 2, 32) << 4, 32)
    return _Blocks(quants, _signed(scales), super_scales=_half(d))


def _iq4_xs(blocks: Tensor) -> _Blocks:
    """d, high two bits of eight scales plus 32 [2], their low four [4], nibbles [128]."""
    d, high, low, quants = blocks.split([2, 2, 4, 128], -1)
    scales = _fields(low, 4, 1) | _fields(high, 2, 1) << 4
    return _Blocks(_nibbles(quants, 16), _signed(scales, 32), super_scales=_half(d))


def _mxfp4(blocks: Tensor) -> _Blocks:
    """An exponent e, nibbles [16]. The scale is 2**(e - 128), for the codebook is doubled.

    bfloat16 has 2**(e - 128) as exponent e - 1, and below that as fractions: e = 1 is half, e = 0 a quarter.
    """
    e = blocks[..., :1].to(torch.int16)
    bits = torch.where(e >= 2, e - 1 << 7, torch.where(e == 1, 0x40, 0x20)).to(torch.int16)
    return _Blocks(_nibbles(blocks[..., 1:], 16), bits.view(torch.bfloat16))


_UNPACK: dict[GGMLType, Callable[[Tensor], _Blocks]] = {
    GGMLType.Q4_0: _legacy,
    GGMLType.Q4_1: _q4_1,
    GGMLType.Q5_0: _q5_0,
    GGMLType.Q5_1: _q5_1,
    GGMLType.Q8_0: _legacy,
    GGMLType.Q2_K: _q2_k,
    GGMLType.Q3_K: _q3_k,
    GGMLType.Q4_K: _q4_k,
    GGMLType.Q5_K: _q5_k,
    GGMLType.Q6_K: _q6_k,
    GGMLType.IQ4_NL: _legacy,
    GGMLType.IQ4_XS: _iq4_xs,
    GGMLType.MXFP4: _mxfp4,
}
