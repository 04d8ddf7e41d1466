"""What flows through the layers on the CPU: vectors for up to so many tokens, which layers share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias, assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cpu.attention.rope import Angles
from powerinfer_cli.kernels.cpu.experts.batch import ExpertWorkspace
from powerinfer_cli.kernels.cpu.gemm import Workspace, make_workspace
from powerinfer_cli.kernels.cpu.matvec import token_panels
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.segments import State
from powerinfer_cli.kernels.cpu.sparse.batch import SparseWorkspace, make_sparse_workspace
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_records, make_vectors
from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.model import Rope
from powerinfer_cli.model.blocks import (
    Border,
    Embedding,
    Parallel,
    PostNorm,
    Sequential,
    Source,
    Temperature,
    attentions,
    predictor_of,
    routing_of,
    shared_attentions,
)
from powerinfer_cli.runtime.cpu.experts import (
    ExpertLatentRooms,
    RoutedRooms,
    expert_latent_rooms,
    expert_workspace,
    routed_rooms,
)
from powerinfer_cli.runtime.cpu.latent import LatentRooms, latent_columns, latent_rooms
from powerinfer_cli.runtime.cpu.layer_inputs import InputRoom, input_columns, input_room
from powerinfer_cli.runtime.cpu.mamba import MambaRooms, mamba_rooms
from powerinfer_cli.runtime.cpu.recurrent import (
    DeltaRooms,
    RecurrentRooms,
    delta_rooms,
    recurrent_columns,
    recurrent_rooms,
)
from powerinfer_cli.runtime.cpu.weights import Block, CPUNeurons, CPUWeights, widest

__all__ = ["AttentionRoom", "Buffers", "NeuronRoom", "Room", "make_buffers", "make_room"]

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AttentionRoom:
    """Of an attention of so many heads."""

    q: Vectors
    k: Vectors
    v: Vectors
    attended: Vectors


@dataclass(frozen=True)
class NeuronRoom:
    """Of so many neurons, all of which are computed."""

    gate: Vectors
    up: Vectors
    value: Vectors


@dataclass(frozen=True)
class Buffers:
    """For up to so many tokens.

    Of a batch, what is never needed at the same time shares memory: q, projected and ffn; normed and attended; up and
    value.
    """

    segments: State
    windowed: State  # the same, with the pages of layers with a window
    ids: npt.NDArray[np.int32]
    x: Vectors  # the residual stream, which predictors read
    given: Vectors | None  # what comes with tokens: hidden states, or x itself
    inputs: InputRoom | None  # what layers get beside the stream
    normed: Vectors  # what the next block reads
    normed_2: Vectors  # what attention reads, where the FFN beside it reads something else
    attention: dict[tuple[int, int], AttentionRoom]  # by n_q and n_kv
    latent: LatentRooms
    recurrent: RecurrentRooms
    delta: DeltaRooms
    mamba: MambaRooms
    beside: Vectors | None  # what is beside attention
    gates: dict[int, Vectors]  # of attention's output, by n_q
    neurons: dict[int, NeuronRoom]  # by n_ff
    routed: RoutedRooms
    hidden: dict[int, Vectors]  # of predictors, by rank
    angles: dict[Rope, Angles]
    temperatures: dict[Temperature, Floats]  # of each token's position
    projected: Vectors
    ffn: Vectors
    apart: Vectors | None  # what experts make that are within norms of their own, or on latents
    latents: ExpertLatentRooms
    counts: Ints  # [layers, 2]: neurons let through, neurons that fired
    few_counts: Ints  # [layers, FEW, 2]: the same of each of a few tokens

    @property
    def state(self) -> Ints:
        """What operations are told of the batch."""
        return self.segments.numbers

    def cached(self, window: int | None) -> Ints:
        """The same for those that look into the cache of a layer with such a window, or without one."""
        return self.state if window is None else self.windowed.numbers


@dataclass(frozen=True)
class Room:
    """What the products of a batch need besides their operands."""

    products: Workspace
    sparse: SparseWorkspace | None
    experts: ExpertWorkspace | None
    panels: npt.NDArray[np.uint8]  # of a few tokens


def make_room(n_embd: int, weights: CPUWeights, n_tokens: int, threads: int) -> Room:
    """For batches of up to so many tokens."""
    blocks = [layer.block for layer in weights.layers]
    cold = [one.neurons.n_ff for one in weights.cold if one and not one.routed]
    whole = [one for block in blocks for one in whole_neurons(block)]
    turned = [one.n_ff for one in whole if one.transposed]
    most = max([*turned, *cold], default=0)
    sparse = make_sparse_workspace(threads, n_tokens, n_embd, most) if most else None
    columns = [n_embd, *(one.n_q for one in attentions(blocks)), *(one.n_ff for one in whole), *latent_columns(blocks)]
    columns += [*recurrent_columns(blocks), *(one.n_q for one in shared_attentions(blocks)), *input_columns(blocks)]
    products = make_workspace(threads, n_tokens, max(columns))
    experts = expert_workspace(blocks, n_embd, n_tokens, products.scratch)
    return Room(products, sparse, experts, token_panels(threads, widest(weights)))


def make_buffers(n_embd: int, weights: CPUWeights, n_tokens: int, n_sequences: int, n_ctx: int) -> Buffers:
    """For up to so many tokens of up to so many sequences of n_ctx positions."""
    blocks = [layer.block for layer in weights.layers]
    selections = [block.ffn.selection for block in blocks]
    ranks = {one.fc1.n_rows for one in map(predictor_of, selections) if one is not None}
    # The FFN of a layer whose attention reads the same input begins when projected and normed are still needed.
    parallel = any(isinstance(block, Parallel) for block in blocks)
    ropes = {block.attention.rope for block in blocks}
    read = bool(ranks) or any(map(_reads_x, blocks)) or weights.embedding.inputs is not None
    temperatures = {one.temperature for one in attentions(blocks)}
    normed = make_vectors(n_tokens, n_embd)
    x = make_vectors(n_tokens, n_embd, records=read)
    attention = _attention_rooms(blocks, n_tokens, None if parallel or n_tokens == 1 else normed)
    wide = next((one.q for one in attention.values() if one.q.n == n_embd and n_tokens > 1), None)
    projected = wide or make_vectors(n_tokens, n_embd, records=False)
    shared = n_tokens > 1 and not parallel
    return Buffers(
        segments=State(n_sequences),
        windowed=State(n_sequences),
        ids=np.zeros(n_tokens, np.int32),
        x=x,
        given=_given(weights.embedding, x),
        inputs=input_room(weights.embedding.inputs, n_tokens),
        normed=normed,
        normed_2=make_vectors(n_tokens, n_embd),
        attention=attention,
        latent=latent_rooms(blocks, n_tokens),
        recurrent=recurrent_rooms(blocks, n_tokens),
        delta=delta_rooms(blocks, n_tokens),
        mamba=mamba_rooms(blocks, n_tokens),
        beside=make_vectors(n_tokens, n_embd, records=False) if any(a.beside for a in attentions(blocks)) else None,
        gates={n: make_vectors(n_tokens, n, records=False) for n in {a.n_q for a in attentions(blocks) if a.gate}},
        neurons=_neuron_rooms([one for block in blocks for one in whole_neurons(block)], n_tokens),
        routed=routed_rooms(blocks, n_tokens),
        hidden={rank: make_vectors(n_tokens, rank) for rank in ranks},
        angles={r: Angles(n_tokens, r.frequencies(n_ctx), r.magnitude) for r in ropes if r is not None},
        temperatures={one: np.zeros(n_tokens, np.float32) for one in temperatures if one is not None},
        projected=projected,
        ffn=projected if shared else make_vectors(n_tokens, n_embd, records=False),
        apart=make_vectors(n_tokens, n_embd, records=False) if any(map(_has_apart, blocks)) else None,
        latents=expert_latent_rooms(blocks, n_tokens),
        counts=np.zeros((len(blocks), 2), np.int64),
        few_counts=np.zeros((len(blocks), FEW, 2), np.int64),
    )


def _given(source: Source[WeightRows, Floats], x: Vectors) -> Vectors | None:
    match source:
        case Border(embedding=None):
            return x
        case Border():  # x has the tokens' embeddings first
            return make_vectors(len(x.floats), x.n, records=False)
        case Embedding():
            return None if source.fusion is None else make_vectors(len(x.floats), x.n, records=False)
    assert_never(source)


def whole_neurons(block: Block) -> list[CPUNeurons]:
    """Those of a layer that are computed without a router's choice."""
    routed = routing_of(block.ffn.selection)
    if routed is None:
        return [block.ffn.neurons]
    return [] if routed.shared is None else [routed.shared.neurons]


def _has_apart(block: Block) -> bool:
    routed = routing_of(block.ffn.selection)
    return routed is not None and routed.sums_apart


def _reads_x(block: Block) -> bool:
    """Whether attention, FFN or router reads the residual stream as it is."""
    routed = routing_of(block.ffn.selection)
    if routed is not None and routed.router.early:
        return True
    bare = isinstance(block, Sequential) and None in (block.attention_norms.before, block.ffn_norms.before)
    return bare or isinstance(block, PostNorm)


def _attention_rooms(
    blocks: Sequence[Block], n_tokens: int, normed: Vectors | None
) -> dict[tuple[int, int], AttentionRoom]:
    """normed: where what is attended to may lie, if it is as wide."""
    rooms = {}
    sizes = {(one.n_q, one.n_kv) for one in attentions(blocks)} | {(a.n_q, a.n_kv) for a in shared_attentions(blocks)}
    for n_q, n_kv in sizes:
        q, k, v = (make_vectors(n_tokens, n, records=False) for n in (n_q, n_kv, n_kv))
        here = normed is not None and normed.n == n_q
        rooms[n_q, n_kv] = AttentionRoom(q, k, v, normed if here and normed else make_vectors(n_tokens, n_q))
    return rooms


def _neuron_rooms(neurons: Iterable[CPUNeurons], n_tokens: int) -> dict[int, NeuronRoom]:
    """What a sparse FFN needs is its own."""
    rooms = {}
    for n_ff in {one.n_ff for one in neurons if not one.transposed} - {0}:
        gate, up = (make_vectors(n_tokens, n_ff, records=False) for _ in range(2))
        alone = n_tokens == 1
        value = make_vectors(1, n_ff) if alone else replace(up, records=make_records(n_tokens, n_ff))
        rooms[n_ff] = NeuronRoom(gate, up, value)
    return rooms
