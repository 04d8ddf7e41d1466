"""Which type a tensor is stored in, and how it gets there."""

import re

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import BLOCK, GGMLType, quantize
from scripts.synthetic.k_quants import quantize_q4_k, quantize_q6_k

__all__ = ["FILE_TYPES", "encode", "tensor_type"]

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 7, "Q4_K_M": 15, "MXFP4": 38}
"""What a file may be made of, and llama.cpp's number for it (general.file_type)."""

# What llama.cpp's quantiser takes instead where rows are no whole blocks of 256.
FALLBACK = {GGMLType.Q4_K: GGMLType.Q5_0, GGMLType.Q6_K: GGMLType.Q8_0}


def tensor_type(name: str, columns: int, layers: int, file_type: str) -> GGMLType:
    """The type of a matrix. Q4_K_M is llama.cpp's mix: more bits for the head and half of attn_v and ffn_down. MXFP4 is
    for experts, all else is Q8_0.
    """
    if file_type == "MXFP4":
        return GGMLType.MXFP4 if "_exps" in name else GGMLType.Q8_0
    if file_type != "Q4_K_M":
        return GGMLType[file_type]
    match = re.fullmatch(r"blk\.(\d+)\.(attn_v|ffn_down|ffn_down_t)\.weight", name)
    more = name == "output.weight" or (match is not None and _more_bits(int(match[1]), layers))
    kind = GGMLType.Q6_K if more else GGMLType.Q4_K
    return kind if columns % BLOCK[kind][0] == 0 else FALLBACK[kind]


def _more_bits(layer: int, layers: int) -> bool:
    """llama.cpp's `use_more_bits`: the first and the last eighth, and every third layer between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


def encode(x: npt.NDArray[np.float32], kind: GGMLType) -> npt.NDArray[np.uint8]:
    """[rows, columns] -> [rows, row_bytes]"""
    if kind is GGMLType.Q4_K:
        return quantize_q4_k(x)
    if kind is GGMLType.Q6_K:
        return quantize_q6_k(x)
    return quantize(x, kind)
