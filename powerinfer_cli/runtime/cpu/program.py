"""The operations of a forward pass, layer by layer: for a single token, for a few, and for a batch of many.

One token and few give the same results to the bit; many are multiplied in another order.
"""

from collections.abc import Sequence
from functools import partial
from typing import assert_never

from powerinfer_cli.kernels.cache import KeysValues
from powerinfer_cli.kernels.cpu.attention.heads import move_heads
from powerinfer_cli.kernels.cpu.attention.operation import attention
from powerinfer_cli.kernels.cpu.attention.rope import rope
from powerinfer_cli.kernels.cpu.clamp import clamp
from powerinfer_cli.kernels.cpu.embedding import embed
from powerinfer_cli.kernels.cpu.norm import add, quantise
from powerinfer_cli.kernels.cpu.recurrent.delta import gate_heads
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model.blocks import (
    Attention,
    Border,
    DeltaNet,
    Embedding,
    LatentAttention,
    LinearMixer,
    Mamba2,
    NoMixer,
    Norm,
    Parallel,
    PostNorm,
    Sequential,
    SharedAttention,
    ShortConvolution,
)
from powerinfer_cli.runtime.cpu.buffers import AttentionRoom
from powerinfer_cli.runtime.cpu.ffn import NOTHING, Addends, FFNWriter
from powerinfer_cli.runtime.cpu.latent import latent_attention
from powerinfer_cli.runtime.cpu.layer_inputs import input_share, inputs_of
from powerinfer_cli.runtime.cpu.mamba import mamba2
from powerinfer_cli.runtime.cpu.recurrent import delta_net, short_convolution
from powerinfer_cli.runtime.cpu.shared_keys import shared_attention
from powerinfer_cli.runtime.cpu.weights import CPULayer, CPUWeights, Floats

__all__ = ["Writer"]


class Writer(FFNWriter):
    """Writes the operations of a forward pass."""

    def embedding(self, weights: CPUWeights) -> list[Operation]:
        """x = the embeddings of the ids; behind a border it is there. What layers get besides, of these embeddings."""
        b, e = self.buffers, weights.embedding
        if isinstance(e, Border):
            if e.embedding is None or b.given is None:
                return []
            return [*self._embedded(e.embedding), move_heads(b.state, b.given.floats, 0, b.x.floats, 0, 1, b.x.n)]
        return self._embedded(e)

    def _embedded(self, e: Embedding[WeightRows, Floats]) -> list[Operation]:
        b = self.buffers
        found = embed(b.state, e.tokens, b.ids, b.x, e.positions, e.offset, e.scale, e.shift)
        norm = [] if e.norm is None else [self._norm(e.norm, b.x, b.x)]
        if e.inputs is not None and b.inputs is not None:
            return [found, *norm, *inputs_of(b.state, e.inputs, b.ids, b.x, b.inputs, self._multiply)]
        if e.fusion is None or b.given is None:
            return [found, *norm]
        read = self._norm(e.fusion.token_norm, b.x, b.normed), self._norm(e.fusion.hidden_norm, b.given, b.normed_2)
        fused = self._multiply(b.normed, [(e.fusion.token, b.x.floats)])
        fused += self._multiply(b.normed_2, [(e.fusion.hidden, b.projected.floats)])
        return [found, *norm, *read, *fused, add(b.state, b.x, b.projected.floats)]

    def layer(self, place: int, layer: CPULayer, cache: KeysValues, adds: Addends) -> list[Operation]:
        """First x += adds, what the layer before has left; then the layer, up to what is to be added next.

        place: among the layers that are here.
        """
        block = layer.block
        match block:
            case Sequential():
                return self._sequential(place, layer, block, cache, adds)
            case Parallel():
                return self._parallel(place, layer, block, cache, adds)
            case PostNorm():
                return self._post_norm(place, layer, block, cache)
        assert_never(block)

    def _sequential(
        self,
        place: int,
        layer: CPULayer,
        block: Sequential[WeightRows, Floats],
        cache: KeysValues,
        adds: Addends,
    ) -> list[Operation]:
        b, behind = self.buffers, block.ffn_norms
        mixed, adds = self._mixed(block, cache, adds)
        if not block.ffn.neurons.n_ff:
            return mixed
        return [
            *mixed,
            *self._enter(behind.before, adds),
            *self._ffn(place, layer, b.x if behind.before is None else b.normed),
            *self._leave(behind.after, b.ffn),
            *self._inputs(block),
        ]

    def _inputs(self, block: Sequential[WeightRows, Floats]) -> list[Operation]:
        """x += what the FFN made, and what is to be added of the layer's inputs, in `projected`."""
        b, gate = self.buffers, block.input_gate
        if gate is None or b.inputs is None:
            return []
        made = input_share(b.state, gate, b.x, b.inputs, self._multiply, b.projected.floats)
        added = add(b.state, b.x, b.ffn.floats, scale=block.scale)
        return [added, *made, *self._leave(gate.norm, b.projected)]

    def _mixed(
        self, block: Sequential[WeightRows, Floats], cache: KeysValues, adds: Addends
    ) -> tuple[list[Operation], Addends]:
        """x += adds, and attention; what is to be added next."""
        b, around, a = self.buffers, block.attention_norms, block.attention
        seen, choice = b.x if around.before is None else b.normed, self._early_choice(block.ffn)
        match a:
            case Attention():
                made = self._attention(a, seen, cache)
            case SharedAttention():
                angles = None if a.rope is None else b.angles[a.rope]
                made = shared_attention(
                    *(b.state, b.cached(a.window), a, seen, b.attention[a.n_q, a.n_kv], cache, angles),
                    *(self._multiply, b.projected.floats, self.threads),
                )
            case LatentAttention():
                products = None if self.room is None else self.room.products
                made = latent_attention(
                    *(b.state, a, seen, b.latent, cache, b.angles[a.rope], self._multiply, self._norm),
                    *(b.projected.floats, self.threads, products),
                )
            case DeltaNet():
                made = delta_net(b.state, a, seen, b.delta, cache.states, self._multiply, b.projected.floats)
            case Mamba2():
                made = mamba2(b.state, a, seen, b.mamba, cache.states, self._multiply, b.projected.floats)
            case ShortConvolution():
                operands = b.recurrent, cache.states, self._multiply, b.projected.floats
                made = short_convolution(b.state, a, seen, *operands)
            case LinearMixer():
                made = self._multiply(seen, [(a.output, b.projected.floats)])
            case NoMixer():
                return [*self._enter(None, adds), *choice], NOTHING
            case _:
                assert_never(a)
        before, after = self._enter(around.before, adds), self._leave(around.after, b.projected)
        return [*before, *choice, *made, *after], Addends((b.projected.floats,), block.scale)

    def _parallel(
        self, place: int, layer: CPULayer, block: Parallel[WeightRows, Floats], cache: KeysValues, adds: Addends
    ) -> list[Operation]:
        b = self.buffers
        if block.ffn_norm is None:
            norms, seen = self._enter(block.norm, adds), b.normed
        else:
            norms, seen = [*self._enter(block.ffn_norm, adds), self._norm(block.norm, b.x, b.normed_2)], b.normed_2
        choice = self._early_choice(block.ffn)
        return [*norms, *choice, *self._attention(block.attention, seen, cache), *self._ffn(place, layer, b.normed)]

    def _post_norm(
        self, place: int, layer: CPULayer, block: PostNorm[WeightRows, Floats], cache: KeysValues
    ) -> list[Operation]:
        """Norms are of the stream itself, as embeddings' is, so that nothing is ever left to be added."""
        b, before, twice = self.buffers, list[Operation](), list[Operation]()
        if block.again is not None:
            before = [move_heads(b.state, b.x.floats, 0, b.normed_2.floats, 0, 1, b.x.n)]
            twice = [self._norm(block.again, b.x, b.x, Addends((b.normed_2.floats,)))]
        attended = self._norm(block.norm, b.x, b.x, Addends((b.projected.floats,)))
        last = self._norm(block.ffn_norm, b.x, b.x, Addends((b.ffn.floats,)))
        mixed = [*before, *self._attention(block.attention, b.x, cache), attended, *twice]
        return [*mixed, *self._ffn(place, layer, b.x), last]

    def layers(
        self, weights: CPUWeights, caches: Sequence[KeysValues], settled: int | None = None
    ) -> list[list[Operation]]:
        """All layers' operations, each layer's apart; the first has the embedding before it. settled: before the layer
        in that place nothing is left to be added to x.
        """
        passes, adds = list[list[Operation]](), NOTHING
        for place, (layer, cache) in enumerate(zip(weights.layers, caches, strict=True)):
            if place == settled and passes:
                passes[-1] += self.last_add(adds)
                adds = NOTHING
            passes.append(self.layer(place, layer, cache, adds))
            adds = self.left(layer)
        passes[0] = self.embedding(weights) + passes[0]
        return passes

    def left(self, layer: CPULayer) -> Addends:
        """What a layer leaves to be added to x."""
        b, block = self.buffers, layer.block
        match block:
            case Sequential():
                made = b.ffn if block.ffn.neurons.n_ff and block.input_gate is None else b.projected
                return Addends((made.floats,), block.scale)
            case Parallel():
                return Addends((b.projected.floats, b.ffn.floats))
            case PostNorm():
                return NOTHING
        assert_never(block)

    def last_add(self, adds: Addends) -> list[Operation]:
        """x += what the last layer has left."""
        return [add(self.buffers.state, self.buffers.x, *adds.parts, scale=adds.scale)]

    def head(self, weights: CPUWeights, adds: Addends, products: Floats) -> list[Operation]:
        """x += adds, the last norm, the head's products [T, n_vocab or more]."""
        b, head = self.buffers, weights.head
        if head is None:
            raise ValueError("the head is on a GPU")
        if head.norm is None:  # and no output behind it
            return self.last_add(adds) if adds.parts else []
        output = [] if head.output is None else self._multiply(b.normed, [(head.output, products)])
        return [*self._enter(head.norm, adds), *output]

    def _enter(self, norm: Norm[Floats] | None, adds: Addends) -> list[Operation]:
        """x += adds; what a block reads, in `normed` where it reads something else than x."""
        b = self.buffers
        if norm is not None:
            return [self._norm(norm, b.x, b.normed, adds)]
        return self.last_add(adds) if adds.parts else [quantise(b.state, b.x)]

    def _attention(self, a: Attention[WeightRows, Floats], x: Vectors, cache: KeysValues) -> list[Operation]:
        b, cached = self.buffers, self.buffers.cached(a.window)
        room = b.attention[a.n_q, a.n_kv]
        projections = [(a.q, room.q.floats), (a.k, room.k.floats), (a.v, room.v.floats)]
        gates = b.gates[a.n_q] if a.gate is not None else None
        gating = [] if a.gate is None or gates is None else [(a.gate, gates.floats)]
        gated = [] if gates is None else [gate_heads(b.state, room.attended, gates, a.n_head)]
        temperatures = None if a.temperature is None else b.temperatures[a.temperature]
        limited = partial(attention, scale=a.scale, window=a.window, softcap=a.softcap)
        attend = partial(limited, alibi=a.alibi, temperatures=temperatures, sinks=a.sinks, chunk=a.chunk)
        attend = partial(attend, causal=a.causal, reach=a.reach)
        bounds = [] if a.clamp is None else [clamp(b.state, made, a.clamp) for _, made in projections]
        first, last = self._beside(a, x, cache)
        return [
            *first,
            *self._multiply(x, [*projections, *gating]),
            *bounds,
            *self._turn(a, room, cache),
            attend(cached, room.q.floats, cache, room.attended, self.threads),
            *gated,
            quantise(b.state, room.attended),
            *self._multiply(room.attended, [(a.output, b.projected.floats)]),
            *last,
        ]

    def _beside(
        self, a: Attention[WeightRows, Floats], x: Vectors, cache: KeysValues
    ) -> tuple[list[Operation], list[Operation]]:
        """Of what is beside attention: what comes before it, as it may overwrite x, and what adds both behind it."""
        b = self.buffers
        if a.beside is None or b.beside is None:
            return [], []
        made = mamba2(b.state, a.beside, x, b.mamba, cache.states, self._multiply, b.beside.floats)
        return made, [add(b.state, b.projected, b.beside.floats)]

    def _turn(self, a: Attention[WeightRows, Floats], room: AttentionRoom, cache: KeysValues) -> list[Operation]:
        """Queries and keys normed and turned, keys and values in the cache."""
        b, norms = self.buffers, a.norms
        before: list[Operation] = []
        if norms is not None and norms.whole:
            before = [self._norm(norms.q, room.q, room.q), self._norm(norms.k, room.k, room.k)]
            norms = None
        angles = None if a.rope is None else b.angles[a.rope]
        style = None if a.rope is None else a.rope.style
        return [
            *before,
            rope(b.cached(a.window), room.q.floats, room.k.floats, room.v.floats, cache, angles, style, norms),
        ]
