"""How wide what flows through layers on a device is, and what that takes there."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from powerinfer_cli.model import Rope
from powerinfer_cli.model.blocks import (
    Layer,
    Mixer,
    attentions,
    input_gate_of,
    latent_attentions,
    predictor_of,
    routing_of,
    shared_attentions,
)
from powerinfer_cli.runtime.context.pages import Extent
from powerinfer_cli.runtime.device.places import places_numbers

__all__ = [
    "RopeTables",
    "Widths",
    "chunk_pages",
    "flow_bytes",
    "parts_bytes",
    "parts_width",
    "rope_tables",
    "table_bytes",
]


PASSING_BYTES = 16 << 20  # of keys and values from main memory on a device at a time, in two forms, and the next


@dataclass(frozen=True, eq=False)
class RopeTables:
    """cos and sin, float32 [positions of a sequence, n_rot / 2]."""

    cos: Tensor
    sin: Tensor


def rope_tables(ropes: Iterable[Rope], n_positions: int, device: torch.device) -> dict[Rope, RopeTables]:
    positions, tables = torch.arange(n_positions, dtype=torch.float64)[:, None], {}
    for rope in ropes:
        angles, gain = positions * torch.from_numpy(rope.frequencies(n_positions)), rope.magnitude
        parts = (gain * angles.cos(), gain * angles.sin())
        tables[rope] = RopeTables(*(part.float().to(device) for part in parts))
    return tables


@dataclass(frozen=True)
class Widths:
    """Of what flows through some layers: which n_q and n_kv, and those of latents, which n_ff of FFNs that are computed
    as a whole, how many experts are chosen, and the most neurons that a predictor tells of; parts: of layers whose
    cache lies on both sides; gates: n_q of attention whose output is gated; beside: whether any has something beside;
    expert_latents: numbers of the latents that experts work on; inputs: the numbers of
    layers that get something beside the stream, input_width numbers each.
    """

    n_embd: int
    heads: frozenset[tuple[int, int]]
    dense: frozenset[int]
    predicted: int
    ropes: frozenset[Rope]
    chosen: frozenset[int] = frozenset()
    latent: frozenset[tuple[int, int]] = frozenset()
    parts: frozenset[int] = frozenset()
    gates: frozenset[int] = frozenset()
    beside: bool = False
    expert_latents: frozenset[int] = frozenset()
    inputs: tuple[int, ...] = ()
    input_width: int = 0

    @classmethod
    def of(
        cls, n_embd: int, layers: Iterable[Layer[Any, Any]], overflowing: Iterable[Layer[Any, Any]] = ()
    ) -> "Widths":
        """overflowing: those whose cache lies on both sides."""
        blocks = list(layers)
        neurons = [(block.ffn.neurons, block.ffn.selection) for block in blocks]
        routed = [one for _, selection in neurons if (one := routing_of(selection))]
        whole = [one for one, selection in neurons if routing_of(selection) is None]
        whole += [one.shared.neurons for one in routed if one.shared is not None]
        input_gates = [gate for block in blocks if (gate := input_gate_of(block)) is not None]
        return cls(
            n_embd,
            frozenset((one.n_q, one.n_kv) for one in attentions(blocks))
            | {(one.n_q, one.n_kv) for one in shared_attentions(blocks)},
            frozenset(one.n_ff for one in whole if not one.transposed),
            max((one.n_ff for one, asked in neurons if predictor_of(asked)), default=0),
            frozenset(rope for block in blocks if (rope := block.attention.rope) is not None),
            frozenset(one.router.n_chosen for one in routed),
            frozenset((one.n_q, one.n_kv) for one in latent_attentions(blocks)),
            frozenset(parts_width(one.attention) for one in overflowing),
            frozenset(one.n_q for one in attentions(blocks) if one.gate is not None),
            any(one.beside is not None for one in attentions(blocks)),
            frozenset(one.latents.enter.weight.shape[0] for one in routed if one.latents is not None),
            tuple(gate.layer for gate in input_gates),
            max((gate.width for gate in input_gates), default=0),
        )


def parts_width(a: Mixer[Any, Any]) -> int:
    """Numbers of a part of what a token attends to; see `Ops.join`."""
    return a.n_head * (a.head_dim + 2)


def chunk_pages(n_pages: int, page: int) -> int:
    """How many of n_pages of `page` bytes in main memory pass through a device at a time."""
    return max(1, min(PASSING_BYTES // max(1, page), n_pages // 8))


def parts_bytes(layers: Iterable[Layer[Any, Any]], n_tokens: int) -> int:
    """What a device needs besides, for so many tokens in all its flows, if any layer's cache lies on both sides."""
    return 2 * 4 * n_tokens * sum({parts_width(layer.attention) for layer in layers})


def flow_bytes(widths: Widths, n_tokens: int, extent: Extent, *, apart: bool) -> int:
    """What a DeviceFlow for so many tokens takes."""
    heads = sum(2 * n_q + 2 * n_kv for n_q, n_kv in widths.heads) + sum(2 * n_q + n_kv for n_q, n_kv in widths.latent)
    heads += 2 * sum(widths.parts) + sum(q for q, _ in widths.heads if q in widths.gates)
    numbers = (6 + widths.beside) * widths.n_embd + heads + 3 * (sum(widths.dense) + sum(widths.expert_latents))
    numbers += (len(widths.inputs) + 2) * widths.input_width
    return (
        n_tokens * (4 * (numbers + widths.n_embd) + widths.predicted + 12 * sum(widths.chosen))
        + 8 * places_numbers(n_tokens, extent, apart=apart)
        + (16 << 10)
    )


def table_bytes(widths: Widths, extent: Extent) -> int:
    """What the rope tables take, which all flows of a device share."""
    return 2 * 4 * extent.n_ctx_sequence * sum(rope.n_rot // 2 for rope in widths.ropes)
