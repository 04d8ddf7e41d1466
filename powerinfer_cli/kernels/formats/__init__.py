"""Weight formats that have kernels of their own."""

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.formats import codebooks, floats, kquants, legacy
from powerinfer_cli.kernels.formats.format import BUNDLE, SLACK, Format, Whole, padded, record_bytes

__all__ = ["BUNDLE", "FORMATS", "SLACK", "Format", "Whole", "padded", "record_bytes"]

FORMATS: dict[GGMLType, Format] = {
    f.type: f for f in (*floats.FORMATS, *legacy.FORMATS, *kquants.FORMATS, *codebooks.FORMATS)
}
