"""Attention over latents on the CPU: the room that it needs, and its operations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.cpu.attention.heads import move_heads, multiply_heads
from powerinfer_cli.kernels.cpu.attention.heads_batch import head_columns, heads_batch
from powerinfer_cli.kernels.cpu.attention.operation import attention
from powerinfer_cli.kernels.cpu.attention.rope import Angles, rope
from powerinfer_cli.kernels.cpu.gemm import Workspace
from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import LatentAttention, Norm, latent_attentions
from powerinfer_cli.runtime.cpu.experts import Multiply
from powerinfer_cli.runtime.cpu.weights import Block, Floats

__all__ = [
    "LatentRooms",
    "latent_attention",
    "latent_columns",
    "latent_rooms",
]

Sizes: TypeAlias = tuple[int, int, int, int, int, int]
State: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LatentRoom:
    """Of a token: what queries are made of, queries as they are made, what is turned, its latent; queries, and what is
    kept of it, as they are compared; what was attended to, and its values. A vector a head and token: plain parts of
    queries, and the latents that were attended to; counts: of these.
    """

    squeezed: Vectors | None
    raw: Vectors
    turned: Vectors
    latent: Vectors
    q: Vectors
    kept: Vectors
    attended: Vectors
    values: Vectors
    plain_of_heads: Vectors
    latents_of_heads: Vectors
    counts: State


LatentRooms: TypeAlias = dict[Sizes, LatentRoom]


def sizes_of(a: LatentAttention[Any, Any]) -> Sizes:
    squeezed = 0 if a.squeeze is None else len(a.squeeze.norm.weight)
    return a.n_head, a.rank, a.plain, a.value_dim, a.rope.n_rot, squeezed


def latent_rooms(blocks: Sequence[Block], n_tokens: int) -> LatentRooms:
    """For up to so many tokens."""
    return {sizes: _room(n_tokens, *sizes) for sizes in map(sizes_of, latent_attentions(blocks))}


def latent_columns(blocks: Sequence[Block]) -> list[int]:
    """Of matrices that are as wide as nothing else, or of all heads' together."""
    found = []
    for a in latent_attentions(blocks):
        found += [a.q.weight.n_cols, a.output.weight.n_cols]
        found += [head_columns(a.n_head, n) for n in (a.plain, a.rank)]
    return found


def _room(n_tokens: int, n_head: int, rank: int, plain: int, value_dim: int, n_rot: int, squeezed: int) -> LatentRoom:
    width = n_rot + rank
    raw, turned, latent, q, kept, attended = (
        make_vectors(n_tokens, n, records=False)
        for n in (n_head * (plain + n_rot), n_rot, rank, n_head * width, width, n_head * width)
    )
    return LatentRoom(
        make_vectors(n_tokens, squeezed) if squeezed else None,
        raw,
        turned,
        latent,
        q,
        kept,
        attended,
        make_vectors(n_tokens, n_head * value_dim),
        make_vectors(n_tokens * n_head, plain),
        make_vectors(n_tokens * n_head, rank),
        np.zeros(2, np.int64),
    )


def latent_attention(
    state: State,
    a: LatentAttention[WeightRows, Floats],
    x: Vectors,
    rooms: LatentRooms,
    cache: KeysValues,
    angles: Angles,
    multiply: Multiply,
    norm: Callable[[Norm[Floats], Vectors, Vectors], Operation],
    out: Floats,
    threads: int,
    products: Workspace | None,
) -> list[Operation]:
    """products: of many tokens."""
    room = rooms[sizes_of(a)]
    squeezed, squeezing = x, list[Operation]()
    if a.squeeze is not None and room.squeezed is not None:
        squeezed = room.squeezed
        squeezing = multiply(x, [(a.squeeze.linear, squeezed.floats)])
        squeezing.append(norm(a.squeeze.norm, squeezed, squeezed))
    return [
        *squeezing,
        *multiply(squeezed, [(a.q, room.raw.floats)]),
        *multiply(x, [(a.turned, room.turned.floats), (a.latent, room.latent.floats)]),
        norm(a.norm, room.latent, room.latent),
        *queries_and_kept(state, a, room, products),
        rope(state, room.q.floats, room.kept.floats, room.kept.floats, cache, angles, a.rope.style),
        attention(state, room.q.floats, cache, room.attended, threads, scale=a.scale),
        *values_of_heads(state, a, room, products),
        *multiply(room.values, [(a.output, out)]),
    ]


def queries_and_kept(
    state: State, a: LatentAttention[WeightRows, Floats], room: LatentRoom, products: Workspace | None
) -> list[Operation]:
    """room.q and room.kept, not turned yet. products: of many tokens."""
    n_rot, wide, raw = a.rope.n_rot, a.plain + a.rope.n_rot, room.raw.floats
    plain, q, kept = room.plain_of_heads, room.q.floats, room.kept.floats
    return [
        move_heads(state, room.turned.floats, 0, kept, 0, 1, n_rot),
        move_heads(state, room.latent.floats, 0, kept[:, n_rot:], 0, 1, a.rank),
        move_heads(state, raw[:, a.plain :], wide, q, a.head_dim, a.n_head, n_rot),
        move_heads(state, raw, wide, _by_token(plain, a.n_head), plain.stride, a.n_head, a.plain, room.counts),
        quantise(room.counts, plain),
        *_multiply(products, state, a.keys, plain, a.n_head, q[:, n_rot:], a.head_dim),
    ]


def values_of_heads(
    state: State, a: LatentAttention[WeightRows, Floats], room: LatentRoom, products: Workspace | None
) -> list[Operation]:
    """room.values of what was attended to."""
    n_rot, latents = a.rope.n_rot, room.latents_of_heads
    found, by_token = room.attended.floats[:, n_rot:], _by_token(latents, a.n_head)
    return [
        move_heads(state, found, a.head_dim, by_token, latents.stride, a.n_head, a.rank, room.counts),
        quantise(room.counts, latents),
        *_multiply(products, state, a.values, latents, a.n_head, room.values.floats, a.value_dim),
        quantise(state, room.values),
    ]


def _multiply(
    products: Workspace | None, state: State, rows: WeightRows, x: Vectors, n_heads: int, out: Floats, out_step: int
) -> list[Operation]:
    operands = state, rows, x, n_heads, out, out_step
    return [multiply_heads(*operands)] if products is None else heads_batch(*operands, products)


def _by_token(of_heads: Vectors, n_head: int) -> Floats:
    """[T, n_head * stride]"""
    return of_heads.floats.reshape(-1, n_head * of_heads.stride)
