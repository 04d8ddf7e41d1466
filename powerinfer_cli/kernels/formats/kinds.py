"""Formats that the same products of batches serve: a kind is what such a kernel must know as it is compiled."""

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats import FORMATS, Format
from powerinfer_cli.kernels.formats.panels import GROUP
from powerinfer_cli.kernels.jit import RUNG, Products

__all__ = ["FIXED", "KINDS", "Kind", "fixed_of", "kind_name", "kind_of", "offset_of"]

Kind = tuple[int, bool, int]  # columns that share a scale (0: float formats), are there minima, bits of a quant

FIXED: Kind = GROUP, False, 16  # floats of 16 bits, in fixed point


def kind_of(f: Format) -> Kind:
    """Bits matter only where products are added in 16 bits."""
    if f.is_float:
        return 0, False, 32
    return f.group, f.has_min, f.bits if RUNG.products is Products.PAIRS else 8


def fixed_of(f: Format) -> Kind:
    """The same where floats of 16 bits may be in fixed point, for which CPUs multiply two at a time."""
    return FIXED if f.type in (GGMLType.F16, GGMLType.BF16) else kind_of(f)


def kind_name(kind: Kind) -> str:
    """For kernels' names."""
    group, has_min, bits = kind
    return f"{group}{'_min' if has_min else ''}_{bits}"


def offset_of(bits: int, has_min: bool) -> int:
    """What products want added to quants: to signed ones of so many bits, or (has_min) to unsigned ones."""
    match RUNG.products:
        case Products.UNSIGNED:
            return 128
        case Products.SIGNED:
            return 0
        case Products.PAIRS:
            return 0 if has_min else 1 << (bits - 1)


KINDS: tuple[Kind, ...] = tuple(sorted({kind_of(f) for f in FORMATS.values()}))
