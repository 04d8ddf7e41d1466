"""The tensors of attention over latents: of new files, and of old ones, whose keys are turned over here."""

import math
from functools import partial

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType, MadeTensor, Tensor, chosen_rows
from powerinfer_cli.model.blocks import LatentAttention, Squeeze
from powerinfer_cli.model.cuts import cut
from powerinfer_cli.model.keys import MAX_SIZE
from powerinfer_cli.model.rope import Rope
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["latent_attention"]


def latent_attention(t: LayerReader, rope: Rope, multiplier: float) -> LatentAttention[Tensor, Tensor]:
    """multiplier: by which, times the logarithm of how much longer contexts are, queries and keys grow, each."""
    rank, n_rot = t.keys.integer("attention.kv_lora_rank", low=1, high=MAX_SIZE), rope.n_rot
    key_dim, value_dim = (_length(t, name) for name in ("key", "value"))
    squeezed = t.keys.integer("attention.q_lora_rank", 0, high=MAX_SIZE)
    _check(t, "attention.q_lora_rank", squeezed, "attn_q_a.weight", -2)
    _check(t, "attention.kv_lora_rank", rank, "attn_kv_a_norm.weight", -1)
    _check(t, "attention.key_length_mla", key_dim, "attn_q_b.weight" if squeezed else "attn_q.weight", -2, t.n_head)
    _check(t, "attention.value_length_mla", value_dim, "attn_output.weight", -1, t.n_head)
    if key_dim <= n_rot:
        t.keys.fail(f"attention.key_length_mla is {key_dim}, but rope.dimension_count is {n_rot}")
    plain = key_dim - n_rot
    squeeze = _squeeze(t, squeezed)
    q = t.linear("attn_q_b" if squeezed else "attn_q", t.n_head * key_dim, squeezed or t.n_embd)
    both = t.linear("attn_kv_a_mqa", rank + n_rot, t.n_embd)
    latent, turned = cut(both, 0, rank, rank + n_rot)
    keys, values = _expanding(t, rank, plain, value_dim)
    return LatentAttention(
        n_head=t.n_head,
        rank=rank,
        plain=plain,
        value_dim=value_dim,
        squeeze=squeeze,
        q=q,
        turned=turned,
        latent=latent,
        norm=t.norm("attn_kv_a_norm", rank),
        keys=keys,
        values=values,
        output=t.linear("attn_output", t.n_embd, t.n_head * value_dim),
        rope=rope,
        scale=key_dim**-0.5 * (1 + multiplier * math.log(max(rope.factor, 1.0))) ** 2,
    )


def _length(t: LayerReader, name: str) -> int:
    """Of a head's keys or values: old files have no key of its own for it."""
    plain = t.keys.integer(f"attention.{name}_length", t.head_dim, low=1, high=MAX_SIZE)
    return t.keys.integer(f"attention.{name}_length_mla", 0, high=MAX_SIZE) or plain


def _check(t: LayerReader, key: str, value: int, name: str, axis: int, times: int = 1) -> None:
    """What a key says is what a tensor has. Raises PowerInferError."""
    tensor = t.model.gguf.tensors.get(f"blk.{t.index}.{name}")
    if tensor is not None and len(tensor.shape) >= -axis and tensor.shape[axis] != times * value:
        have = " x ".join(map(str, tensor.shape))
        t.model.fail(f"tensor {tensor.name} has shape {have}, but {t.model.arch.name}.{key} is {value}")


def _squeeze(t: LayerReader, rank: int) -> Squeeze[Tensor, Tensor] | None:
    if not rank:
        return None
    if "attn_q_a.weight" not in t:
        t.keys.fail(f"attention.q_lora_rank is {rank}, but tensor blk.{t.index}.attn_q_a.weight is missing")
    return Squeeze(t.linear("attn_q_a", rank, t.n_embd), t.norm("attn_q_a_norm", rank))


def _expanding(t: LayerReader, rank: int, plain: int, value_dim: int) -> tuple[Tensor, Tensor]:
    """[n_head * rank, plain] and [n_head * value_dim, rank]."""
    if "attn_kv_b.weight" not in t:
        if "attn_k_b.weight" not in t:
            names = (f"blk.{t.index}.attn_{one}.weight" for one in ("k_b", "kv_b"))
            t.model.fail(f"tensor {' is missing, or '.join(names)}")
        keys = t.tensor("attn_k_b.weight", t.n_head, rank, plain)
        values = t.tensor("attn_v_b.weight", t.n_head, value_dim, rank)
        return _flat(keys), _flat(values)
    both = t.tensor("attn_kv_b.weight", t.n_head * (plain + value_dim), rank)
    numbers = np.arange(both.shape[0], dtype=np.int32).reshape(t.n_head, -1)
    rows = chosen_rows(both, numbers[:, :plain].reshape(-1))
    make = partial(_turned, rows, t.n_head)
    keys = MadeTensor(f"{both.name} turned", GGMLType.F32, (t.n_head * rank, plain), make, both.path)
    return keys, chosen_rows(both, numbers[:, plain:].reshape(-1))


def _flat(tensor: Tensor) -> Tensor:
    heads, rows, columns = tensor.shape
    return Tensor(tensor.name, tensor.type, (heads * rows, columns), tensor.data, tensor.path)


def _turned(rows: Tensor, n_head: int) -> npt.NDArray[np.uint8]:
    """Each head's [plain, rank] as [rank, plain]."""
    numbers = rows.to_float32().reshape(n_head, -1, rows.shape[1])
    return np.ascontiguousarray(numbers.transpose(0, 2, 1)).reshape(-1).view(np.uint8)
