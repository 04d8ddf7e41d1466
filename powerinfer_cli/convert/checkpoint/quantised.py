"""Checkpoints whose matrices are quantised: as float32, each computed when it is read.

FP8 with scales (DeepSeek, Qwen 3, compressed-tensors): of a whole tensor, of rows, or of blocks that config.json tells.
GPTQ: whole numbers of 2, 4 or 8 bits, along the inputs in words of 32 bits, with a scale and a zero a group of inputs.
AWQ: the same of 4 bits along the outputs, eight of a word in an order of their own.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from powerinfer_cli.convert.checkpoint.config import Config
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, MadeTensor, Tensor, dequantize

__all__ = ["plain_tensors"]

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.int32]
SCALED = ("fp8", "fbgemm_fp8", "compressed-tensors", "modelopt")
KEPT = ("mxfp4",)
"""Whose families read them as they are."""
SCALES = ("_scale_inv", "_scale")
OF_ACTIVATIONS = ("input_scale", "activation_scale", "input_scale_ub", ".k_scale", ".v_scale", ".q_scale")
GROUPED = ("qweight", "qzeros", "scales", "g_idx")
AT_ONCE = 1 << 22  # numbers that are computed at a time
AWQ_COLUMNS = np.array([0, 2, 4, 6, 1, 3, 5, 7])
"""Of the four bits at 4 i, which of the word's eight columns they are."""


def plain_tensors(config: Config, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With those that scales belong to multiplied, and those of whole numbers as matrices, under their usual names.

    Raises:
        PowerInferError: a way to quantise that is not known here, or parts that do not go together.
    """
    given = config.section("quantization_config")
    method = given.get("quant_method")
    if not given or method in KEPT:
        return dict(tensors)
    if method in SCALED:
        return _scaled(config, _block(config, given), tensors)
    if method == "gptq" and given.get("bits") in (2, 4, 8):
        offset = 0 if given.get("checkpoint_format", "gptq") == "gptq_v2" else 1
        return _grouped(config, tensors, partial(_gptq, bits=given["bits"], offset=offset), given["bits"])
    if method == "awq" and given.get("bits") == 4 and str(given.get("version", "gemm")).lower() == "gemm":
        return _grouped(config, tensors, _awq, None)
    bits = given.get("bits", given.get("w_bit", given.get("format", "")))
    kind = f"{str(method)[:40]!r}{f' ({str(bits)[:40]})' if bits else ''}"
    raise PowerInferError(
        f"{config.path}: quantised by {kind}, which cannot be converted: known are FP8 with scales, GPTQ of 2, 4 and 8 "
        "bits, AWQ (gemm) of 4: give a checkpoint of 16-bit floats"
    )


def _block(config: Config, given: Mapping[str, Any]) -> tuple[int, int] | None:
    """Rows and columns that have a scale in common."""
    groups = given.get("config_groups")
    first: Any = next(iter(groups.values()), {}) if isinstance(groups, dict) else {}
    weights = first.get("weights") if isinstance(first, dict) else {}
    found = given.get("weight_block_size") or (weights or {}).get("block_structure")
    if found is None:
        return None
    fits = isinstance(found, list) and len(found) == 2 and all(isinstance(n, int) and 0 < n < 1 << 20 for n in found)
    if not fits:
        config.fail(f"weight_block_size is {str(found)[:40]}")
    return found[0], found[1]


def _scaled(config: Config, block: tuple[int, int] | None, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    scales = {f"{name}{end}": name for name in tensors for end in SCALES if f"{name}{end}" in tensors}
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if name in scales or name.endswith(OF_ACTIVATIONS):
            continue
        scale = next((tensors[name + end] for end in SCALES if name + end in tensors), None)
        if scale is None:
            found[name] = tensor
            continue
        whole = _spread_shape(tensor, scale, block)
        if whole is None or tensor.type not in FLOATS or scale.type not in FLOATS:
            _apart(tensor, scale)
        found[name] = MadeTensor(
            name, GGMLType.F32, tensor.shape, partial(_multiplied, tensor, scale, whole), tensor.path
        )
    return found


FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def _spread_shape(tensor: Tensor, scale: Tensor, block: tuple[int, int] | None) -> tuple[int, int] | None:
    """How many rows and columns of the last two dimensions have a scale in common; None: they do not fit."""
    rows, columns = (1, *tensor.shape)[-2:]
    if scale.n_elements == 1:
        return max(1, tensor.n_elements), max(1, columns)
    if scale.n_elements == tensor.n_rows and scale.shape[0] == tensor.shape[0]:
        return 1, max(1, columns)
    if block is None or len(scale.shape) != len(tensor.shape) or len(tensor.shape) < 2:
        return None
    counts = (-(-rows // block[0]), -(-columns // block[1]))
    return block if scale.shape == (*tensor.shape[:-2], *counts) else None


def _multiplied(tensor: Tensor, scale: Tensor, whole: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """Some rows at a time. A scale's row is of `whole[0]` rows of a matrix; matrices lie one behind another."""
    rows, columns = (1, *tensor.shape)[-2:]
    down, across = whole
    data = _floats(tensor).reshape(-1, rows, columns)
    factors = _floats(scale).reshape(len(data) if scale.n_elements > 1 else 1, -1, -(-columns // across))
    for matrix, factor in zip(data, np.broadcast_to(factors, (len(data), *factors.shape[1:])), strict=True):
        for begin in range(0, rows, min(down, rows)):
            part = matrix[begin : begin + down]
            part *= np.repeat(factor[begin // down], across)[:columns]
    return data.reshape(-1).view(np.uint8)


def _grouped(
    config: Config,
    tensors: Mapping[str, Tensor],
    make: Callable[..., Floats],
    bits: int | None,
) -> dict[str, Tensor]:
    """bits: of numbers that are packed along the inputs, else they are along the outputs."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        stem, _, last = name.rpartition(".")
        if last not in GROUPED or f"{stem}.qweight" not in tensors:
            found[name] = tensor
            continue
        if last != "qweight":
            continue
        parts = {part: tensors.get(f"{stem}.{part}") for part in GROUPED}
        zeros, scales, index = parts["qzeros"], parts["scales"], parts["g_idx"]
        if zeros is None or scales is None:
            raise PowerInferError(f"{tensor.path or config.path}: tensor {name[:120]!r} lacks its qzeros or scales")
        n_in, n_out = _sizes(tensor, zeros, scales, index, bits)
        weight = f"{stem}.weight"
        computed = partial(_bytes_of, make, tensor, zeros, scales, index, n_in)
        found[weight] = MadeTensor(weight, GGMLType.F32, (n_out, n_in), computed, tensor.path)
    return found


def _sizes(weights: Tensor, zeros: Tensor, scales: Tensor, index: Tensor | None, bits: int | None) -> tuple[int, int]:
    """Inputs and outputs."""
    if any(len(one.shape) != 2 for one in (weights, zeros, scales)) or scales.type not in FLOATS:
        _apart(weights, scales)
    n_groups, n_out = scales.shape
    n_in = weights.shape[0] * (1 if bits is None else 32 // bits)
    packed = 8 if bits is None else 32 // bits
    wide = weights.shape[1] * (8 if bits is None else 1)
    whole = wide == n_out and zeros.shape == (n_groups, n_out // packed) and n_out % packed == 0
    if not whole or n_groups == 0 or (weights.type, zeros.type) != (GGMLType.I32, GGMLType.I32):
        _apart(weights, scales)
    if (index is None and n_in % n_groups) or (
        index is not None and (index.shape, index.type) != ((n_in,), GGMLType.I32)
    ):
        _apart(weights, scales)
    return n_in, n_out


def _bytes_of(
    make: Callable[..., Floats], weights: Tensor, zeros: Tensor, scales: Tensor, index: Tensor | None, n_in: int
) -> npt.NDArray[np.uint8]:
    """[outputs, inputs], some inputs at a time."""
    factors, shifts = _floats(scales), _words(zeros)
    if index is None:
        groups = np.arange(n_in) // (n_in // len(factors))
    else:
        groups = index.data.view("<i4")
        if groups.size and not (groups.min() >= 0 and groups.max() < len(factors)):
            _apart(weights, scales)
    words = _words(weights)
    per_word = n_in // len(words)
    out = np.empty((factors.shape[1], n_in), np.float32)
    step = max(1, AT_ONCE // (factors.shape[1] * per_word))
    for begin in range(0, len(words), step):
        inputs = slice(begin * per_word, (begin + step) * per_word)
        out[:, inputs] = make(words[begin : begin + step], shifts, factors, groups[inputs]).T
    weights.drop_pages(0, weights.nbytes)
    return out.reshape(-1).view(np.uint8)


def _floats(tensor: Tensor) -> Floats:
    return dequantize(tensor.data.reshape(1, -1), tensor.type).reshape(tensor.shape)


def _words(tensor: Tensor) -> Words:
    return tensor.data.view("<i4").reshape(tensor.shape)


def _gptq(words: Words, zeros: Words, scales: Floats, groups: Any, *, bits: int, offset: int) -> Floats:
    """[inputs, outputs]. The first version of the format has zeros less one."""
    places, mask = np.arange(0, 32, bits, dtype=np.int32), (1 << bits) - 1
    numbers = (words[:, None, :] >> places[:, None] & mask).reshape(-1, words.shape[1])
    shifts = (zeros[:, :, None] >> places & mask).reshape(len(zeros), -1) + offset
    out: Floats = scales[groups]
    out *= numbers - shifts[groups]
    return out


def _awq(words: Words, zeros: Words, scales: Floats, groups: Any) -> Floats:
    """[inputs, outputs]"""
    out: Floats = scales[groups]
    out *= _awq_numbers(words) - _awq_numbers(zeros)[groups]
    return out


def _awq_numbers(words: Words) -> Words:
    out = np.empty((*words.shape, 8), np.int32)
    for place, column in enumerate(AWQ_COLUMNS):
        out[:, :, column] = words >> 4 * place & 15
    return out.reshape(len(words), -1)


def _apart(weights: Tensor, scales: Tensor) -> NoReturn:
    shapes = " and ".join(" x ".join(map(str, one.shape)) or "1" for one in (weights, scales))
    raise PowerInferError(f"{weights.path}: tensor {weights.name[:120]!r} and its scales do not go together ({shapes})")
