"""float32 to quantised blocks, compiled."""

from powerinfer_cli.kernels.cpu.encoding.legacy import LEGACY
from powerinfer_cli.kernels.cpu.encoding.rows import encode_rows, prepare_encoding

__all__ = ["LEGACY", "encode_rows", "prepare_encoding"]
