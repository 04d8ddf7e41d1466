"""Stored rows of any type to rows of another."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, dequantize
from powerinfer_cli.gguf_io.encoders import LARGEST_HALF, encode
from powerinfer_cli.kernels.cpu.encoding.codebooks import nearest_entries
from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit, choose_scales, place_numbers, search_scales
from powerinfer_cli.kernels.cpu.encoding.halves import WIDE, encode_halves, halve
from powerinfer_cli.kernels.cpu.encoding.legacy import LEGACY, encode_blocks, encode_floats, encode_legacy
from powerinfer_cli.kernels.cpu.encoding.legacy_weighted import encode_weighted
from powerinfer_cli.kernels.formats.convert import convert

__all__ = ["encode_rows", "prepare_encoding"]

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_DIRECT = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def prepare_encoding(kinds: Iterable[GGMLType]) -> None:
    """Compile what is needed, before threads call it."""
    wanted = set(kinds)
    kernels = [encode_blocks, encode_weighted] if wanted & set(LEGACY) else []
    if GGMLType.F16 in wanted:
        kernels.append(halve)
    if wanted - {*LEGACY, *_DIRECT}:
        kernels += [search_scales, choose_scales, place_numbers, nearest_entries]
    for one in kernels:
        _ = one.address


def encode_rows(stored: Bytes, source: GGMLType, kind: GGMLType, importance: Floats | None = None) -> Bytes:
    """Bytes [n_rows, row_bytes] of one type to bytes of another. importance: how much a column's errors matter,
    [n_cols].

    Q4_0 to Q8_0 are what ggml writes, to the bit; types of super-blocks and IQ4 are searched for (`encoders.encode`).
    Raises GGUFError: a number, or the type, does not allow it.
    """
    if source is GGMLType.F64:
        stored, source = convert(stored, source), GGMLType.F32
    by_blocks = kind in LEGACY and importance is None and source in _DIRECT
    if by_blocks or (kind is GGMLType.F16 and source in WIDE):
        if not _small(stored, source):
            raise GGUFError(f"numbers beyond {LARGEST_HALF:g} or not finite cannot be stored as {kind.name}")
        return encode_floats(stored, source, kind) if by_blocks else encode_halves(stored, source)
    values = dequantize(stored, source)
    if kind not in LEGACY:
        return encode(values, kind, importance, fit=CompiledFit())
    if not (np.abs(values) <= LARGEST_HALF).all():
        raise GGUFError(f"numbers beyond {LARGEST_HALF:g} or not finite cannot be stored as {kind.name}")
    made = encode_legacy(values, kind, importance)
    if importance is not None and not _scales_finite(made, kind):
        raise GGUFError(f"numbers near {LARGEST_HALF:g} cannot be stored as {kind.name}")
    return made


def _scales_finite(made: Bytes, kind: GGMLType) -> bool:
    """Of blocks whose scales, and minima, were searched for, and may be beyond what float16 holds."""
    n_bytes = 4 if kind in (GGMLType.Q4_1, GGMLType.Q5_1) else 2
    heads = np.ascontiguousarray(made.reshape(-1, BLOCK[kind][1])[:, :n_bytes])
    return bool(np.isfinite(heads.view(np.float16)).all())


def _small(stored: Bytes, source: GGMLType) -> bool:
    """Whether all numbers are finite, and float16 holds them."""
    if source is GGMLType.F32:
        return bool((np.abs(stored.view(np.float32)) <= LARGEST_HALF).all())
    largest = int((stored.view(np.uint16) & np.uint16(0x7FFF)).max(initial=0))
    # The bits of a positive float, read as a whole number, grow with it: infinity as float16, 65536 as bfloat16.
    return largest < (0x7C00 if source is GGMLType.F16 else 0x4780)
