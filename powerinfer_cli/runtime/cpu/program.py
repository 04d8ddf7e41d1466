"""The operations of a forward pass, layer by layer: for a single token, for a few, and for a batch of many.

One token and few give the same results to the bit; many are multiplied in another order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.cpu.activation import activate
from powerinfer_cli.kernels.cpu.attention import attention
from powerinfer_cli.kernels.cpu.embedding import embed
from powerinfer_cli.kernels.cpu.gemm import Product, Workspace, gemm, make_workspace
from powerinfer_cli.kernels.cpu.matvec import matvec, matvec_few
from powerinfer_cli.kernels.cpu.norm import add, add_norm, quantise
from powerinfer_cli.kernels.cpu.rope import Angles, rope
from powerinfer_cli.kernels.cpu.segments import State
from powerinfer_cli.kernels.cpu.sparse_batch import SparseWorkspace, make_sparse_workspace, sparse_batch
from powerinfer_cli.kernels.cpu.sparse_few import sparse_few
from powerinfer_cli.kernels.cpu.sparse_token import Neurons, Predictor, sparse_token
from powerinfer_cli.kernels.cpu.vectors import Vectors, make_records, make_vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.runtime.cpu.weights import CPULayer, CPUNorm, CPUWeights, Projection

__all__ = ["Buffers", "Room", "Writer", "make_buffers", "make_room"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Buffers:
    """What flows through a layer, for up to so many tokens. Layers share it.

    Of a batch, what is never needed at the same time shares memory: q, projected and ffn; normed and attended; up and
    value.
    """

    segments: State
    ids: npt.NDArray[np.int32]
    x: Vectors  # the residual stream, which predictors read
    normed: Vectors
    normed_2: Vectors
    q: Vectors
    k: Vectors
    v: Vectors
    attended: Vectors
    projected: Vectors
    hidden: dict[int, Vectors]  # of predictors, by rank
    gate: Vectors
    up: Vectors
    value: Vectors
    ffn: Vectors
    counts: Ints  # [layers, 2]: neurons let through, neurons that fired

    @property
    def state(self) -> Ints:
        """What operations are told of the batch."""
        return self.segments.numbers


def make_buffers(config: ModelConfig, weights: CPUWeights, n_tokens: int, n_sequences: int) -> Buffers:
    """For up to so many tokens of up to so many sequences."""
    s = config.sizes
    predictors = [layer.predictor for layer in weights.layers if layer.predictor]
    ranks = {p.fc1.n_rows for p in predictors}
    dense = 0 if config.sparse else s.n_ff  # what a sparse FFN needs is its own

    def plain(n: int) -> Vectors:
        return make_vectors(n_tokens, n, records=False)

    def alias(made: Vectors, n: int) -> bool:
        return n_tokens > 1 and made.n == n

    # The FFN of a layer whose attention reads the same input begins when projected and normed are still needed.
    parallel = any(layer.ffn_norm is None for layer in weights.layers)
    q, normed, up = plain(s.n_q), make_vectors(n_tokens, s.n_embd), plain(dense)
    projected = q if alias(q, s.n_embd) else plain(s.n_embd)
    ffn = projected if alias(projected, s.n_embd) and not parallel else plain(s.n_embd)
    attended = normed if alias(normed, s.n_q) and not parallel else make_vectors(n_tokens, s.n_q)
    value = replace(up, records=make_records(n_tokens, dense)) if n_tokens > 1 else make_vectors(n_tokens, dense)
    return Buffers(
        segments=State(n_sequences),
        ids=np.zeros(n_tokens, np.int32),
        x=make_vectors(n_tokens, s.n_embd, records=bool(predictors)),
        normed=normed,
        normed_2=make_vectors(n_tokens, s.n_embd),
        q=q,
        k=plain(s.n_kv),
        v=plain(s.n_kv),
        attended=attended,
        projected=projected,
        hidden={rank: make_vectors(n_tokens, rank) for rank in ranks},
        gate=plain(dense),
        up=up,
        value=value,
        ffn=ffn,
        counts=np.zeros((len(weights.layers), 2), np.int64),
    )


@dataclass(frozen=True)
class Room:
    """What the products of a batch need besides their operands."""

    products: Workspace
    sparse: SparseWorkspace | None


def make_room(config: ModelConfig, n_tokens: int, threads: int) -> Room:
    s = config.sizes
    sparse = make_sparse_workspace(threads, n_tokens, s.n_embd, s.n_ff) if config.sparse else None
    return Room(make_workspace(threads, n_tokens, max(s.n_embd, s.n_ff, s.n_q)), sparse)


class Writer:
    """Writes operations over one set of buffers: with `room` for batches, with `few` for that many tokens at most,
    else for one token.
    """

    def __init__(
        self,
        config: ModelConfig,
        buffers: Buffers,
        angles: Angles | None,
        threshold: float,
        threads: int,
        room: Room | None = None,
        few: int = 0,
    ) -> None:
        self.config, self.buffers, self.angles = config, buffers, angles
        self.threshold, self.threads, self.room, self.few = threshold, threads, room, few

    def embedding(self, weights: CPUWeights) -> list[Operation]:
        """x = the embeddings of the ids."""
        b = self.buffers
        return [embed(b.state, weights.token_embd, b.ids, b.x, weights.position_embd)]

    def layer(self, place: int, layer: CPULayer, cache: KeysValues, adds: tuple[Floats, ...]) -> list[Operation]:
        """First x += adds, what the layer before has left; then the layer, up to what is to be added next.

        place: among the layers that are here.
        """
        b = self.buffers
        normed = [self._norm(layer.attn_norm, adds, b.normed)]
        seen = b.normed
        if layer.attn_norm_2:
            normed.append(self._norm(layer.attn_norm_2, (), b.normed_2))
            seen = b.normed_2
        attended = self._attention(layer, seen, cache)
        if layer.ffn_norm is None:  # falcon: attention and FFN read the same input
            return [*normed, *attended, *self._ffn(place, layer)]
        return [
            *normed,
            *attended,
            self._norm(layer.ffn_norm, (b.projected.floats,), b.normed),
            *self._ffn(place, layer),
        ]

    def layers(self, weights: CPUWeights, caches: Sequence[KeysValues]) -> list[list[Operation]]:
        """All layers' operations, each layer's apart; the first has the embedding before it."""
        passes = []
        adds: tuple[Floats, ...] = ()
        for place, (layer, cache) in enumerate(zip(weights.layers, caches, strict=True)):
            passes.append(self.layer(place, layer, cache, adds))
            adds = self.left(layer)
        passes[0] = self.embedding(weights) + passes[0]
        return passes

    def left(self, layer: CPULayer) -> tuple[Floats, ...]:
        """What a layer leaves to be added to x."""
        b = self.buffers
        return (b.ffn.floats,) if layer.ffn_norm else (b.projected.floats, b.ffn.floats)

    def last_add(self, adds: tuple[Floats, ...]) -> list[Operation]:
        """x += what the last layer has left."""
        return [add(self.buffers.state, self.buffers.x, *adds)]

    def head(self, weights: CPUWeights, adds: tuple[Floats, ...], logits: Floats) -> list[Operation]:
        """x += adds, the last norm, the logits [T, n_vocab or more]."""
        b = self.buffers
        assert weights.output is not None  # who has none here has it on a GPU
        return [self._norm(weights.output_norm, adds, b.normed), *self._multiply(b.normed, [(weights.output, logits)])]

    def _norm(self, norm: CPUNorm, adds: tuple[Floats, ...], out: Vectors) -> Operation:
        c, b = self.config, self.buffers
        return add_norm(b.state, b.x, adds, norm.weight, norm.bias, out, c.norm_eps, c.architecture.norm)

    def _multiply(self, x: Vectors, products: Sequence[tuple[Projection, Floats]]) -> list[Operation]:
        """Several matrices times the same vectors."""
        if self.room is not None:
            wanted = [Product(p.rows, out, p.bias) for p, out in products]
            return gemm(self.buffers.state, x, wanted, self.room.products)
        multiply = partial(matvec_few, self.buffers.state) if self.few else matvec
        last = len(products) - 1
        return [
            multiply(p.rows, x, out, p.bias, threads=self.threads, wait=i == last)
            for i, (p, out) in enumerate(products)
        ]

    def _attention(self, layer: CPULayer, x: Vectors, cache: KeysValues) -> list[Operation]:
        b, c = self.buffers, self.config
        projections = [(layer.attn_q, b.q.floats), (layer.attn_k, b.k.floats), (layer.attn_v, b.v.floats)]
        q_norm = layer.attn_q_norm.weight if layer.attn_q_norm else None
        k_norm = layer.attn_k_norm.weight if layer.attn_k_norm else None
        style = c.rope.style if c.rope else None
        return [
            *self._multiply(x, projections),
            rope(b.state, b.q.floats, b.k.floats, b.v.floats, cache, self.angles, style, q_norm, k_norm, c.norm_eps),
            attention(b.state, b.q.floats, cache, b.attended, self.threads),
            quantise(b.state, b.attended),
            *self._multiply(b.attended, [(layer.attn_output, b.projected.floats)]),
        ]

    def _ffn(self, place: int, layer: CPULayer) -> list[Operation]:
        if layer.ffn_down_t is None:
            return self._dense_ffn(layer)
        return self._sparse_ffn(place, layer, layer.ffn_down_t)

    def _dense_ffn(self, layer: CPULayer) -> list[Operation]:
        b, c = self.buffers, self.config
        assert layer.ffn_down is not None  # load_weights lets no other layer through
        gate = [(layer.ffn_gate, b.gate.floats)] if layer.ffn_gate else []
        relu_on_up = c.architecture.relu_on_up
        gate_floats = b.gate.floats if layer.ffn_gate else None
        return [
            *self._multiply(b.normed, [*gate, (layer.ffn_up, b.up.floats)]),
            activate(b.state, gate_floats, b.up.floats, b.value, c.activation, relu_on_up=relu_on_up),
            *self._multiply(b.value, [(layer.ffn_down, b.ffn.floats)]),
        ]

    def _sparse_ffn(self, place: int, layer: CPULayer, down_t: Projection) -> list[Operation]:
        b, found = self.buffers, layer.predictor
        gate = layer.ffn_gate
        neurons = Neurons(
            gate.rows if gate else None,
            layer.ffn_up.rows,
            down_t.rows,
            gate.bias if gate else None,
            layer.ffn_up.bias,
            down_t.bias,
            self.config.architecture.relu_on_up,
            self.config.activation,
        )
        asking: list[Operation] = []
        hidden = predictor = None
        if found is not None:
            hidden = b.hidden[found.fc1.n_rows]
            predictor = Predictor(found.fc2, found.modes, self.threshold)
            asking = self._multiply(b.x, [(Projection(found.fc1, None), hidden.floats)])
            asking.append(quantise(b.state, hidden, relu=True))
        operands = b.normed, hidden, neurons, predictor, b.ffn.floats, b.counts[place]
        if self.few:
            return [*asking, *sparse_few(b.state, *operands, self.few)]
        if self.room is None:
            return [*asking, *sparse_token(*operands)]
        assert self.room.sparse is not None  # a sparse layer is of a sparse model
        return [*asking, *sparse_batch(b.state, *operands, self.room.products, self.room.sparse)]
