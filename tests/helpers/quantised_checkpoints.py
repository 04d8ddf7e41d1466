"""Tiny models as checkpoints whose matrices are quantised, by what published packers do."""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["QUANTISED", "quantised_model"]

MATRIX = re.compile(r"model\.layers\..*(_proj|experts\.\d+\.w\d)\.weight")
BLOCK = [32, 48]
GROUP = 32
Packed = dict[str, Tensor]


def fp8(name: str, weight: Tensor, config: dict[str, Any]) -> Packed:
    """As DeepSeek V3 has it; blocks at the ends are smaller."""
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": BLOCK}
    counts = [-(-size // block) for size, block in zip(weight.shape, BLOCK, strict=True)]
    scale = 0.002 + torch.arange(counts[0] * counts[1]).reshape(counts).float() / 4096
    spread = scale.repeat_interleave(BLOCK[0], 0).repeat_interleave(BLOCK[1], 1)[: weight.shape[0], : weight.shape[1]]
    return {name: (weight / spread).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}


def fp8_whole(name: str, weight: Tensor, config: dict[str, Any]) -> Packed:
    """One scale a matrix, and one of activations, which nobody needs."""
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": None}
    scale = weight.abs().max() / 448
    packed = {name: (weight / scale).to(torch.float8_e4m3fn), f"{name}_scale_inv": scale}
    return packed | {name.replace(".weight", ".activation_scale"): torch.tensor(1.0)}


def fp8_rows(name: str, weight: Tensor, config: dict[str, Any]) -> Packed:
    """As compressed-tensors writes one scale a row."""
    weights = {"num_bits": 8, "type": "float", "strategy": "channel"}
    groups = {"config_groups": {"group_0": {"weights": weights}}}
    config["quantization_config"] = {"quant_method": "compressed-tensors", "format": "float-quantized", **groups}
    scale = (weight.abs().amax(1, keepdim=True) / 448).bfloat16()
    return {name: (weight / scale.float()).to(torch.float8_e4m3fn), f"{name}_scale": scale}


def _numbers(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whole numbers [inputs, outputs], zeros and scales [groups, outputs], as rounding makes them."""
    groups = weight.T.reshape(-1, GROUP, len(weight))
    low, high = groups.amin(1), groups.amax(1)
    scale = ((high - low) / (2**bits - 1)).half()
    zeros = (-low / scale.float()).round().clamp(1, 2**bits - 1)
    numbers = (groups / scale.float()[:, None] + zeros[:, None]).round().clamp(0, 2**bits - 1)
    return numbers.reshape(weight.T.shape).int(), zeros.int(), scale


def _words(numbers: Tensor, bits: int) -> Tensor:
    """[n * 32 / bits, m] -> [n, m], the first in the lowest bits."""
    parts = numbers.long().reshape(-1, 32 // bits, numbers.shape[1])
    words = sum(parts[:, i] << (bits * i) for i in range(32 // bits))
    return torch.where(words > 0x7FFFFFFF, words - (1 << 32), words).int()


def gptq(bits: int, form: str = "gptq") -> Callable[[str, Tensor, dict[str, Any]], Packed]:
    """With inputs in another order, as desc_act has them; of the first form, zeros are less by one."""

    def pack(name: str, weight: Tensor, config: dict[str, Any]) -> Packed:
        told = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": True, "checkpoint_format": form}
        config["quantization_config"] = told
        order = torch.arange(weight.shape[1]) * 5 % weight.shape[1]
        numbers, zeros, scale = _numbers(weight[:, order], bits)
        index = torch.empty(len(order), dtype=torch.int32)
        index[order] = (torch.arange(len(order)) // GROUP).int()
        stem, placed = name.removesuffix(".weight"), torch.empty_like(numbers)
        placed[order] = numbers
        zeros = _words((zeros - int(form == "gptq")).T, bits).T.contiguous()
        return {
            f"{stem}.qweight": _words(placed, bits),
            f"{stem}.qzeros": zeros,
            f"{stem}.scales": scale,
            f"{stem}.g_idx": index,
        }

    return pack


def awq(name: str, weight: Tensor, config: dict[str, Any]) -> Packed:
    """As AutoAWQ's gemm form has it: eight outputs a word, in an order of their own."""
    config["quantization_config"] = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}
    numbers, zeros, scale = _numbers(weight, 4)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    stem = name.removesuffix(".weight")

    def outputs(found: Tensor) -> Tensor:
        turned = found.reshape(len(found), -1, 8)[:, :, order].reshape(found.shape)
        return _words(turned.T, 4).T.contiguous()

    return {f"{stem}.qweight": outputs(numbers), f"{stem}.qzeros": outputs(zeros), f"{stem}.scales": scale}


QUANTISED = {
    "fp8": fp8,
    "fp8-whole": fp8_whole,
    "fp8-rows": fp8_rows,
    "gptq": gptq(4),
    "gptq-8": gptq(8),
    "gptq-v2": gptq(4, "gptq_v2"),
    "awq": awq,
}


def quantised_model(kind: str) -> Any:
    """A tiny Llama, whose checkpoint has its layers' matrices packed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).float().eval()

    def told() -> tuple[dict[str, Any], Packed]:
        config: dict[str, Any] = model.config.to_dict()
        tensors: Packed = {}
        for name, weight in model.state_dict().items():
            tensors |= QUANTISED[kind](name, weight.float(), config) if MATRIX.fullmatch(name) else {name: weight}
        return config | {"architectures": ["LlamaForCausalLM"]}, tensors

    model.published = told
    return model
