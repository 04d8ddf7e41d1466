"""The tensors of mixers that keep a state of a sequence."""

from dataclasses import replace

import numpy as np

from powerinfer_cli.gguf_io import Tensor, chosen_rows
from powerinfer_cli.model.blocks import (
    Convolution,
    DeltaNet,
    Layer,
    Linear,
    Mamba2,
    Mixer,
    Norm,
    Norms,
    Sequential,
    ShortConvolution,
)
from powerinfer_cli.model.cuts import cut, no_ffn
from powerinfer_cli.model.keys import MAX_SIZE
from powerinfer_cli.model.tensors import LayerReader

__all__ = [
    "MOST_INPUTS",
    "convolution",
    "delta_net",
    "is_recurrent",
    "mamba2",
    "mixer_alone",
    "short_convolution",
]


def check_size(t: LayerReader, key: str, value: int, name: str, axis: int) -> None:
    """What a key says is what a tensor has. Raises PowerInferError."""
    tensor = t.model.gguf.tensors.get(f"blk.{t.index}.{name}")
    if tensor is not None and len(tensor.shape) >= -axis and tensor.shape[axis] != value:
        have = " x ".join(map(str, tensor.shape))
        t.model.fail(f"tensor {tensor.name} has shape {have}, but {t.model.arch.name}.{key} asks for {value}")


MOST_INPUTS = 64  # of a convolution


def short_convolution(t: LayerReader) -> ShortConvolution[Tensor, Tensor]:
    n = t.n_embd
    length = t.keys.integer("shortconv.l_cache", low=2, high=MOST_INPUTS)
    before, after, value = cut(t.linear("shortconv.in_proj", 3 * n, n), 0, n, 2 * n, 3 * n)
    output = t.linear("shortconv.out_proj", n, n)
    kernel = convolution(t, "shortconv.conv", n, "shortconv.l_cache", length)
    return ShortConvolution(before, after, value, kernel, output)


def is_recurrent(t: LayerReader) -> bool:
    """Whether this layer is: by a list of them, or all but each so-many-th are; none of those that guess."""
    if t.guesses:
        return False
    key, interval = "attention.recurrent_layers", "full_attention_interval"
    n_layer = t.model.sizes.n_layer + t.model.sizes.n_guessing
    every = t.keys.integer(interval, 4, low=1, high=MAX_SIZE)
    by_interval = (t.index + 1) % every != 0
    if key not in t.keys:
        return by_interval
    listed = t.keys.pattern(key, n_layer, 0)[t.index]
    if interval in t.keys and listed != by_interval:
        other = f"{t.keys.architecture}.{key}"
        t.keys.fail(f"{interval} is {every}, but {other} says otherwise of layer {t.index}")
    have = [f"blk.{t.index}.{name}.weight" in t.model.gguf.tensors for name in ("attn_q", "ssm_out")]
    if have == [listed, not listed]:
        kind = "a recurrent" if listed else "no recurrent"
        t.keys.fail(f"{key}: layer {t.index} is {kind} one, but its tensors say otherwise")
    return listed


def delta_net(t: LayerReader, *, tiled: bool, together: bool) -> DeltaNet[Tensor, Tensor]:
    """together: beta and alpha are rows of one matrix, of each key head first its betas."""
    key_dim, n_keys, n_values, inner = (
        t.keys.integer(f"ssm.{key}", low=1, high=MAX_SIZE)
        for key in ("state_size", "group_count", "time_step_rank", "inner_size")
    )
    arch = t.model.arch.name
    if n_values % n_keys:
        t.keys.fail(f"ssm.time_step_rank {n_values} is not a multiple of {arch}.ssm.group_count {n_keys}")
    if inner != n_values * key_dim:
        sizes = f"{arch}.ssm.time_step_rank times {arch}.ssm.state_size is {n_values * key_dim}"
        t.keys.fail(f"ssm.inner_size is {inner}, but {sizes}")
    length = t.keys.integer("ssm.conv_kernel", low=2, high=MOST_INPUTS)
    check_size(t, "ssm.state_size", key_dim, "ssm_norm.weight", -1)
    check_size(t, "ssm.time_step_rank", n_values, "ssm_a", -1)
    channels = 2 * n_keys * key_dim + inner
    check_size(t, "ssm.group_count", channels, "attn_qkv.weight", -2)
    mixed, gate = t.linear("attn_qkv", channels, t.n_embd), t.linear("attn_gate", inner, t.n_embd)
    alpha, beta = _alpha_and_beta(t, n_keys, n_values) if together else _apart(t, n_values)
    return DeltaNet(
        n_keys=n_keys,
        n_values=n_values,
        key_dim=key_dim,
        value_dim=key_dim,
        tiled=tiled,
        mixed=mixed,
        gate=gate,
        alpha=alpha,
        beta=beta,
        convolution=convolution(t, "ssm_conv1d", channels, "ssm.conv_kernel", length),
        decay=t.tensor("ssm_a", n_values),
        shift=t.tensor("ssm_dt.bias", n_values),
        norm=t.norm("ssm_norm", key_dim, "none"),
        output=t.linear("ssm_out", t.n_embd, inner),
    )


def _apart(t: LayerReader, n_values: int) -> tuple[Linear[Tensor, Tensor], Linear[Tensor, Tensor]]:
    return t.linear("ssm_alpha", n_values, t.n_embd), t.linear("ssm_beta", n_values, t.n_embd)


def _alpha_and_beta(
    t: LayerReader, n_keys: int, n_values: int
) -> tuple[Linear[Tensor, Tensor], Linear[Tensor, Tensor]]:
    both = t.linear("ssm_ba", 2 * n_values, t.n_embd, "none")
    numbers = np.arange(2 * n_values, dtype=np.int32).reshape(n_keys, 2, n_values // n_keys)

    def part(which: int) -> Linear[Tensor, Tensor]:
        return Linear(chosen_rows(both.weight, numbers[:, which].reshape(-1)), None)

    return part(1), part(0)


def mamba2(t: LayerReader, *, normed: bool = True) -> Mamba2[Tensor, Tensor]:
    """normed: what heads make always is; else where the file has the weight."""
    state_dim, n_groups, n_heads, inner = (
        t.keys.integer(f"ssm.{key}", low=1, high=MAX_SIZE)
        for key in ("state_size", "group_count", "time_step_rank", "inner_size")
    )
    for key, n in (("time_step_rank", n_heads), ("inner_size", inner)):
        if n % n_groups:
            t.keys.fail(f"ssm.{key} {n} is not a multiple of {t.model.arch.name}.ssm.group_count {n_groups}")
    if inner % n_heads:
        t.keys.fail(f"ssm.inner_size {inner} is not a multiple of {t.model.arch.name}.ssm.time_step_rank {n_heads}")
    length = t.keys.integer("ssm.conv_kernel", low=2, high=MOST_INPUTS)
    channels = inner + 2 * n_groups * state_dim
    check_size(t, "ssm.time_step_rank", n_heads, "ssm_a", -2)
    check_size(t, "ssm.inner_size", inner, "ssm_out.weight", -1)
    check_size(t, "ssm.group_count", n_groups, "ssm_norm.weight", -2)
    check_size(t, "ssm.state_size", channels, "ssm_conv1d.weight", -2)
    whole = t.linear("ssm_in", inner + channels + n_heads, t.n_embd, "none")
    gate, mixed, steps = cut(whole, 0, inner, inner + channels, inner + channels + n_heads)
    return Mamba2(
        n_heads=n_heads,
        n_groups=n_groups,
        value_dim=inner // n_heads,
        state_dim=state_dim,
        mixed=mixed,
        gate=gate,
        steps=steps,
        convolution=convolution(t, "ssm_conv1d", channels, "ssm.conv_kernel", length),
        decay=_of_heads(t, "ssm_a", n_heads),
        shift=t.tensor("ssm_dt.bias", n_heads),
        skip=_of_heads(t, "ssm_d", n_heads),
        norm=_norm_of_groups(t, n_groups, inner // n_groups) if normed or "ssm_norm.weight" in t else None,
        output=t.linear("ssm_out", t.n_embd, inner, "none"),
    )


def _of_heads(t: LayerReader, name: str, n_heads: int) -> Tensor:
    return replace(t.tensor(name, n_heads, 1), shape=(n_heads,))


def _norm_of_groups(t: LayerReader, n_groups: int, size: int) -> Norm[Tensor]:
    weight = t.tensor("ssm_norm.weight", n_groups, size)
    return Norm(t.arch.norm, t.model.sizes.norm_eps, replace(weight, shape=(n_groups * size,)), None)


def mixer_alone(t: LayerReader, mixer: Mixer[Tensor, Tensor]) -> Layer[Tensor, Tensor]:
    """A layer without an FFN."""
    return Sequential(t.norms("attn_norm"), mixer, Norms(None), no_ffn(t.n_embd))


def convolution(t: LayerReader, name: str, channels: int, key: str, length: int) -> Convolution[Tensor]:
    """With a bias where the file has one. key: what says how long it is."""
    check_size(t, key, length, f"{name}.weight", -1)
    weight = t.tensor(f"{name}.weight", channels, length)
    flat = replace(weight, shape=(channels * length,))
    return Convolution(channels, length, flat, t.maybe(f"{name}.bias", channels))
