"""In which type each tensor of a converted file is: norms, vectors and what decides by small differences as float32."""

import re
from collections.abc import Iterable

from powerinfer_cli.convert.out_type import OutType
from powerinfer_cli.gguf_io import BLOCK, GGMLType, Tensor

__all__ = ["FILE_TYPES", "MXFP4_FILE", "chosen_type", "stored_type"]

FILE_TYPES = {GGMLType.F32: 0, GGMLType.F16: 1, GGMLType.Q8_0: 7, GGMLType.BF16: 32}
"""llama.cpp's numbers of what a file's matrices are."""
MXFP4_FILE = 38
EXACT = re.compile(
    r"(.*_norm|.*\.ffn_gate_inp|.*\.ffn_gate_inp_shexp|position_embd|token_types|.*\.ssm_conv1d|.*\.shortconv\.conv)\.weight"
)
KEPT = (GGMLType.MXFP4,)


def chosen_type(wanted: OutType, tensors: Iterable[Tensor]) -> GGMLType:
    """Of matrices. Automatically: the first that is of 16 bits decides, as in llama.cpp's converter; else F16."""
    if wanted is not OutType.AUTO:
        return GGMLType[wanted.name]
    wide = (tensor.type for tensor in tensors if len(tensor.shape) > 1)
    return next((kind for kind in wide if kind in (GGMLType.BF16, GGMLType.F16)), GGMLType.F16)


def stored_type(tensor: Tensor, matrices: GGMLType) -> GGMLType:
    """Of a tensor in the file. Rows that are no whole blocks are F16."""
    if tensor.type in KEPT:
        return tensor.type
    if len(tensor.shape) == 1 or EXACT.fullmatch(tensor.name) or not tensor.name.endswith(".weight"):
        return GGMLType.F32
    return GGMLType.F16 if tensor.shape[-1] % BLOCK[matrices][0] else matrices
