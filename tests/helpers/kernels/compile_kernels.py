"""Compile every Triton kernel for a GPU that need not be here; print names and bytes of shared memory, and what else
`told` asks of the machine code. Runs none. In a process of its own: what it tells Triton about the machine stays told.

    python -m tests.helpers.kernels.compile_kernels 75         (a compute capability: of a card of 2018)
    python -m tests.helpers.kernels.compile_kernels gfx1100 Q4_0    (an AMD GPU; for weights of this type only)
    python -m tests.helpers.kernels.compile_kernels 90 --brief Q4_0    (each kernel, but not each of its variants)
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cache import CacheType
from powerinfer_cli.kernels.device import (
    make_cache,
    triton_attention,
    triton_delta_chunks,
    triton_experts,
    triton_norm,
    triton_products,
    triton_recurrent,
    triton_sparse,
)
from powerinfer_cli.kernels.device.triton_ops import TritonOps
from powerinfer_cli.model import Activation, NormKind, RopeStyle
from powerinfer_cli.model.blocks import HeadNorms, Linear, Neurons, Norm, Temperature
from tests.helpers.kernels.device_data import neurons_of, rows_of
from tests.helpers.kernels.recurrent_data import delta_net_of, mamba2_of, with_bias

N_EMBD, N, RANK, HEAD = 2048, 8, 512, 128
WITH_KERNELS = (
    triton_attention,
    triton_delta_chunks,
    triton_experts,
    triton_norm,
    triton_products,
    triton_recurrent,
    triton_sparse,
)
KINDS = (GGMLType.F16, GGMLType.Q4_0, GGMLType.Q6_K)


class AbsentGPU:
    """What Triton asks of a driver when it compiles."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


def target_of(card: str) -> GPUTarget:
    """From a compute capability, or from AMD's name of an architecture: those of servers have waves of 64 threads."""
    if card.startswith("gfx"):
        return GPUTarget("hip", card, 64 if card.startswith("gfx9") else 32)
    return GPUTarget("cuda", int(card), 32)


def nothing_more(name: str, code: bytes | str) -> tuple[str, ...]:
    """`told` of a test."""
    return ()


def compile_only(
    kernel: Any, grid: tuple[int, ...], *args: Any, warps: int = 4, told: Callable[[str, Any], tuple[str, ...]]
) -> None:
    compiled = kernel.warmup(*args, grid=grid, num_warps=warps, enable_fp_fusion=True)
    name = kernel.__name__
    code = compiled.asm["cubin" if "cubin" in compiled.asm else "amdgcn"]  # of AMD's the assembly, which tells all
    print(name, compiled.metadata.shared, *told(name, code), flush=True)


def ffn(ops: TritonOps, kind: GGMLType) -> None:
    (rows, _), (fc1, _), (fc2, _) = (rows_of(kind, *shape) for shape in ((N, N_EMBD), (RANK, N_EMBD), (N, RANK)))
    x, mask = torch.ones(N_EMBD), torch.ones(N, dtype=torch.uint8)
    ops.matvec(rows, x)
    for n_tokens in (2, 4):
        ops.matmul(rows, torch.ones(n_tokens, N_EMBD))
    ops.chosen_rows(rows, x, torch.arange(3))
    ops.dequantize(rows, torch.float16)
    ops.predict(fc1, fc2, x, 0.5, mask)
    ops.sparse_ffn(x, mask, neurons_of(rows, rows, rows), entries=torch.arange(N))
    ops.sparse_ffn(x, None, neurons_of(None, rows, rows, up_bias=torch.ones(N), activation=Activation.GELU))


def experts(ops: TritonOps, kind: GGMLType, n_activations: int) -> None:
    """Of two slots."""
    ff = 768
    wide, down = rows_of(kind, 2 * ff, N_EMBD)[0], rows_of(kind, 2 * N_EMBD, ff)[0]
    chosen, weights, slots = torch.arange(8).view(1, 8), torch.ones(1, 8), torch.full((8,), -1)
    activations = (Activation.RELU, False), (Activation.CLAMPED_SWISH, True), (Activation.SILU, False)
    for activation, on_input in activations[:n_activations]:
        linears = Linear(wide, None), Linear(wide, None), Linear(down, torch.ones(2 * N_EMBD))
        neurons = Neurons(2 * ff, *linears, False, activation)
        x, out = torch.ones(1, N_EMBD), torch.ones(1, N_EMBD)
        ops.add_experts(x, chosen, weights, slots, neurons, out, on_input=on_input)


def attention(ops: TritonOps, kind: CacheType, style: RopeStyle | None) -> None:
    cache = make_cache(2, 1024, HEAD, kind, kind, "cpu")
    q, k, norm = torch.ones(1, 4 * HEAD), torch.ones(1, 2 * HEAD), torch.ones(HEAD)
    angles: Tensor | None = torch.ones(1024, HEAD // 2) if style else None
    n_past, pages = torch.zeros(1, dtype=torch.int64), torch.arange(8)
    for kind_of_norm, after in ((NormKind.RMS, False), (NormKind.LAYER, True)):
        norms = HeadNorms(*[Norm(kind_of_norm, 1e-6, norm, None)] * 2, after_rope=after, values=not after)
        ops.rope_store(q, k, k, cache, n_past, n_past, angles, angles, style, norms=norms)
    ops.attention(q, cache, n_past, pages, scale=0.1)
    ops.attention(q, cache, n_past, pages, scale=0.1, window=512, softcap=50.0)
    ops.attention(q, cache, n_past, pages, scale=0.1, alibi=8.0, temperature=Temperature(0.1, 4096))
    ops.attention(q, cache, n_past, pages, scale=0.1, sinks=torch.ones(4), chunk=8192)
    part = ops.attention(q, cache, n_past, pages, scale=0.1, parts=True)
    for other, sinks in ((None, None), (part, torch.ones(4))):
        ops.join(part, other, sinks, torch.ones_like(q))


def recurrent(ops: TritonOps, key_dim: int, *, tiled: bool) -> None:
    a, one = delta_net_of(2, 4, key_dim, key_dim, tiled=tiled), torch.ones(1, dtype=torch.int64)
    channels, states = a.convolution.channels, torch.ones(2, a.state_size)
    for n_tokens in (1, 3):
        x, gates = torch.ones(n_tokens, channels), torch.ones(n_tokens, 4)
        for weight, more in (
            (a.convolution, {"activate": True}),
            (with_bias(a.convolution), {"before": x, "after": x}),
        ):
            ops.convolve(x, states, one, one, weight, **more)
        ops.delta_rule(a, x, gates, gates, states, one, one)
        m = mamba2_of(4, 2, key_dim, key_dim)
        ops.scan(m, torch.ones(n_tokens, m.convolution.channels), gates, torch.ones(2, m.state_size), one, one)
    if key_dim == HEAD:  # a prompt, with heads as public models have them
        ops.delta_rule(a, torch.ones(40, channels), torch.ones(40, 4), torch.ones(40, 4), states, one, one)


def main(
    card: str,
    told: Callable[[str, Any], tuple[str, ...]] = nothing_more,
    kinds: Sequence[GGMLType] = KINDS,
    brief: bool = False,
) -> None:
    """`told`: what else to print of a kernel's name and machine code (bytes), or assembly (text). brief: one type of
    cache, one activation of experts.
    """
    driver.set_active(AbsentGPU(target_of(card)))
    for module in WITH_KERNELS:
        module.launch = partial(compile_only, told=told)  # type: ignore[attr-defined]
    ops, x = TritonOps(), torch.ones(N_EMBD)
    for kind in kinds:
        ffn(ops, kind)
        experts(ops, kind, 1 if brief else 3)
        ops.multiply_heads(rows_of(kind, 4 * 512, 256)[0], torch.ones(1, 4, 256))
    ops.activated(x, x, Activation.SILU, relu_on_up=True)
    ops.add_norm(x, (x, x), x, None, 1e-5, NormKind.RMS)
    ops.add_norm(x, (x,), x, x, 1e-5, NormKind.LAYER, scale=0.5)
    for key_dim, tiled in ((128, True), (256, False)):
        recurrent(ops, key_dim, tiled=tiled)
    caches = (CacheType.Q8_0, RopeStyle.NEOX), (CacheType.F16, RopeStyle.INTERLEAVED), (CacheType.F32, None)
    for cache_type, style in caches[: 1 if brief else 3]:
        attention(ops, cache_type, style)


if __name__ == "__main__":
    card, *words = sys.argv[1:]
    named = [GGMLType[word] for word in words if word != "--brief"]
    main(card, kinds=named or KINDS, brief="--brief" in words)
