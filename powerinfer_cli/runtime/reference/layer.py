"""One transformer layer, for every architecture, from blocks over matrices. T tokens, H heads, D = head_dim."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias, assert_never

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from powerinfer_cli.kernels.chosen_rows import sparse_ffn_batch, sparse_ffn_token
from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.kernels.reference import neuron_values, rms_norm, route
from powerinfer_cli.model.blocks import (
    Attention,
    DeltaNet,
    Everything,
    HeadNorms,
    LatentAttention,
    Layer,
    Linear,
    LinearMixer,
    Mamba2,
    Neurons,
    NoMixer,
    Norm,
    Norms,
    Parallel,
    PostNorm,
    Predicted,
    Routed,
    Sequential,
    SharedAttention,
    SharedExpert,
    ShortConvolution,
)
from powerinfer_cli.runtime.reference.inputs import input_share
from powerinfer_cli.runtime.reference.products import multiply, normed
from powerinfer_cli.runtime.reference.recurrent import Recur, delta_net, mamba2, short_convolution
from powerinfer_cli.runtime.stats import SparsityStats

__all__ = ["NOT_SHOWN", "Attend", "Attending", "PredictorQuery", "ReferenceLayer", "Shown", "Turn"]

Attending: TypeAlias = Attention[Matrix, Tensor] | SharedAttention[Matrix, Tensor] | LatentAttention[Matrix, Tensor]
# With q, and k and v that are to be kept, of a batch [T, H, D] -> [T, H * D]
Attend: TypeAlias = Callable[[Attending, Tensor, tuple[Tensor, Tensor] | None], Tensor]
Turn: TypeAlias = Callable[[Tensor], Tensor]  # heads [T, H, D] by their positions
Show: TypeAlias = Callable[[Tensor, Tensor], None]  # the residual [T, n_embd] and the FFN's activations [T, n_ff]
ShowExperts: TypeAlias = Callable[[Tensor], None]  # the chosen ones, int64 [T, n_chosen]


@dataclass(frozen=True)
class PredictorQuery:
    """Which neurons the predictor is asked about (int64 indices; None: all), and which are computed regardless (bool
    [n_ff]). What is in neither is never computed: its statistics say that it is never active.
    """

    threshold: float
    ask: Tensor | None = None
    always: Tensor | None = None


@dataclass(frozen=True)
class Shown:
    """What is shown, and to whom. With `neurons` every neuron is computed, and may be changed."""

    neurons: Show | None = None
    experts: ShowExperts | None = None


NOT_SHOWN = Shown()


@dataclass(frozen=True)
class ReferenceLayer:
    """A layer, what it is asked, and where its neurons are counted."""

    number: int
    block: Layer[Matrix, Tensor]
    asked: PredictorQuery
    stats: SparsityStats

    def forward(
        self,
        x: Tensor,
        turn: Turn,
        attend: Attend,
        recur: Recur,
        shown: Shown = NOT_SHOWN,
        inputs: Tensor | None = None,
    ) -> Tensor:
        """x [T, n_embd] -> [T, n_embd]; inputs [T, n_layer, width]: what layers get beside it, where they do."""
        block, first = self.block, x
        match block:
            case Sequential():
                x = self._mixed(block, x, turn, attend, recur)
                if not block.ffn.neurons.n_ff:
                    if shown.neurons is not None:
                        shown.neurons(x, x[:, :0])
                    return x
                x = x + block.scale * _within(block.ffn_norms, x, lambda seen: self._ffn(seen, x, first, shown))
                if block.input_gate is None or inputs is None:
                    return x
                return x + block.scale * input_share(block.input_gate, x, inputs)
            case Parallel():
                seen = normed(block.norm, x)
                also = seen if block.ffn_norm is None else normed(block.ffn_norm, x)
                return x + _attended(block.attention, seen, turn, attend, recur) + self._ffn(also, x, x, shown)
            case PostNorm():
                x = normed(block.norm, x + _attention(block.attention, x, turn, attend))
                if block.again is not None:
                    x = normed(block.again, x + first)
                return normed(block.ffn_norm, x + self._ffn(x, x, first, shown))
        assert_never(block)

    def _mixed(self, block: Sequential[Matrix, Tensor], x: Tensor, turn: Turn, attend: Attend, recur: Recur) -> Tensor:
        """x [T, n_embd] behind attention."""
        a = block.attention
        match a:
            case Attention():
                made = partial(_attended, a, turn=turn, attend=attend, recur=recur)
            case SharedAttention():
                made = partial(_shared_keys, a, turn=turn, attend=attend)
            case LatentAttention():
                made = partial(_latent, a, turn=turn, attend=attend)
            case DeltaNet():
                made = partial(delta_net, a, recur=recur)
            case Mamba2():
                made = partial(mamba2, a, recur=recur)
            case ShortConvolution():
                made = partial(short_convolution, a, recur=recur)
            case LinearMixer():
                made = partial(multiply, a.output)
            case NoMixer():
                return x
            case _:
                assert_never(a)
        return x + block.scale * _within(block.attention_norms, x, made)

    def _ffn(self, x: Tensor, residual: Tensor, first: Tensor, shown: Shown) -> Tensor:
        """x: the FFN's input; residual: what predictors look at; first: the layer's input. All [T, n_embd], and so is
        what it makes.
        """
        neurons, selection = self.block.ffn.neurons, self.block.ffn.selection
        if shown.neurons is not None:
            values = _values(neurons, x)
            shown.neurons(residual, values)
            return _down(neurons, values)
        match selection:
            case Everything():
                return _down(neurons, _values(neurons, x))
            case Predicted():
                return self._predicted(neurons, self._predict(selection, residual), x)
            case Routed():
                asked = first if selection.router.early else x
                if selection.router.norm is not None:
                    asked = normed(selection.router.norm, residual)
                return _routed(neurons, selection, x, residual, asked, shown.experts)
        assert_never(selection)

    def _predict(self, predictor: Predicted[Matrix], residual: Tensor) -> Tensor:
        """bool [T, n_ff]: which neurons to compute for each token."""
        asked = self.asked
        hidden = torch.relu(predictor.fc1.matmul(residual))
        if asked.ask is None:
            mask = predictor.fc2.matmul(hidden) >= asked.threshold
        else:
            mask = torch.zeros(len(residual), predictor.fc2.n_rows, dtype=torch.bool)
            mask[:, asked.ask] = hidden @ predictor.fc2.rows(asked.ask).T >= asked.threshold
        return mask if asked.always is None else mask | asked.always

    def _predicted(self, neurons: Neurons[Matrix, Tensor], mask: Tensor, x: Tensor) -> Tensor:
        if len(x) == 1:
            y, fired = sparse_ffn_token(x, mask[0].nonzero()[:, 0], neurons)
        else:
            y, fired = sparse_ffn_batch(x, mask, neurons)
        self.stats.grow(self.number + 1)
        self.stats.add([self.number], mask.numel(), np.array([[int(mask.count_nonzero()), fired]]))
        return y if neurons.down.bias is None else y + neurons.down.bias


def _within(norms: Norms[Tensor], x: Tensor, block: Callable[[Tensor], Tensor]) -> Tensor:
    y = block(x if norms.before is None else normed(norms.before, x))
    return y if norms.after is None else normed(norms.after, y)


def _attended(a: Attention[Matrix, Tensor], x: Tensor, turn: Turn, attend: Attend, recur: Recur) -> Tensor:
    """With what is beside it."""
    made = _attention(a, x, turn, attend)
    return made if a.beside is None else made + mamba2(a.beside, x, recur)


def _attention(attention: Attention[Matrix, Tensor], x: Tensor, turn: Turn, attend: Attend) -> Tensor:
    q, k, v = (multiply(one, x).view(len(x), -1, attention.head_dim) for one in (attention.q, attention.k, attention.v))
    norms = attention.norms
    if norms is not None and norms.values:
        v = rms_norm(v, torch.ones(1), norms.k.eps)
    if attention.clamp is not None:
        q, k, v = (one.clamp(-attention.clamp, attention.clamp) for one in (q, k, v))
    if norms is None:
        q, k = turn(q), turn(k)
    elif norms.after_rope:
        q, k = _head_norms(norms, turn(q), turn(k))
    else:
        q, k = map(turn, _head_norms(norms, q, k))
    found = attend(attention, q, (k, v))
    if attention.gate is not None:
        found = found * multiply(attention.gate, x).sigmoid()
    return multiply(attention.output, found)


def _shared_keys(a: SharedAttention[Matrix, Tensor], x: Tensor, turn: Turn, attend: Attend) -> Tensor:
    q = turn(normed(a.norm, multiply(a.q, x).view(len(x), -1, a.head_dim)))
    return multiply(a.output, attend(a, q, None))


def _latent(a: LatentAttention[Matrix, Tensor], x: Tensor, turn: Turn, attend: Attend) -> Tensor:
    """Every head's queries to what is kept of a token; what comes back is a latent of each head."""
    n_rot, squeezed = a.rope.n_rot, x
    if a.squeeze is not None:
        squeezed = normed(a.squeeze.norm, multiply(a.squeeze.linear, x))
    asked = multiply(a.q, squeezed).view(len(x), a.n_head, -1)
    plain, turned = asked[..., : a.plain], asked[..., a.plain :]
    keys, values = (_every(one).view(a.n_head, -1, one.n_cols) for one in (a.keys, a.values))
    q = torch.cat((turned, torch.einsum("thn,hrn->thr", plain, keys)), -1)
    kept = torch.cat((multiply(a.turned, x), normed(a.norm, multiply(a.latent, x))), -1).unsqueeze(1)
    found = attend(a, turn(q), (turn(kept), kept)).view(q.shape)[..., n_rot:]
    return multiply(a.output, torch.einsum("thr,hvr->thv", found, values).flatten(1))


def _every(matrix: Matrix) -> Tensor:
    return matrix.rows(torch.arange(matrix.n_rows))


def _head_norms(norms: HeadNorms[Tensor], q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    return _of_heads(norms.q, q, norms.whole), _of_heads(norms.k, k, norms.whole)


def _of_heads(norm: Norm[Tensor], x: Tensor, whole: bool) -> Tensor:
    """x [T, H, D]"""
    if whole:
        return normed(norm, x.flatten(1)).view(x.shape)
    if norm.weight.numel() == x.shape[-1]:
        return normed(norm, x)
    return normed(Norm(norm.kind, norm.eps, norm.weight.view(x.shape[1:]), norm.bias), x)


def _routed(
    neurons: Neurons[Matrix, Tensor],
    routed: Routed[Matrix, Tensor],
    x: Tensor,
    residual: Tensor,
    asked: Tensor,
    show: ShowExperts | None,
) -> Tensor:
    """The sum of the chosen experts, each for the tokens that need it, and of the shared one. asked: what the router
    reads. [T, n_embd]
    """
    if routed.apart is not None:
        shared, alone = routed.shared, replace(routed, shared=None, apart=None)
        made = _within(routed.apart, residual, lambda seen: _routed(neurons, alone, seen, residual, asked, show))
        return made if shared is None else _shared(shared, x) + made
    chosen, weights = route(multiply(routed.router.logits, asked), routed.router)
    if show is not None:
        show(chosen)
    if routed.latents is not None:
        into = multiply(routed.latents.enter, x)
        sums = _sum_of(neurons, routed, into, chosen, weights, torch.zeros_like(into))
        made = multiply(routed.latents.leave, sums)
        return made if routed.shared is None else _shared(routed.shared, x) + made
    y = torch.zeros_like(x) if routed.shared is None else _shared(routed.shared, x)
    return _sum_of(neurons, routed, x, chosen, weights, y)


def _sum_of(
    neurons: Neurons[Matrix, Tensor],
    routed: Routed[Matrix, Tensor],
    x: Tensor,
    chosen: Tensor,
    weights: Tensor,
    y: Tensor,
) -> Tensor:
    """y + the sum of each token's chosen experts, whose weights [T, n_chosen] are. x: what they read."""
    for expert in sorted(set(chosen.flatten().tolist())):
        token, place = (chosen == expert).nonzero(as_tuple=True)
        weight = weights[token, place].unsqueeze(1)
        if routed.router.on_input:
            y[token] += _expert(neurons, routed.n_experts, expert, weight * x[token])
        else:
            y[token] += weight * _expert(neurons, routed.n_experts, expert, x[token])
    return y


def _shared(shared: SharedExpert[Matrix, Tensor], x: Tensor) -> Tensor:
    y = _down(shared.neurons, _values(shared.neurons, x))
    y = y if shared.gate is None else y * (x @ shared.gate).sigmoid().unsqueeze(1)
    return y if shared.norm is None else normed(shared.norm, y)


def _expert(neurons: Neurons[Matrix, Tensor], n_experts: int, expert: int, x: Tensor) -> Tensor:
    """One of the experts, of which neurons are all. x [T, n_embd] -> [T, n_embd]"""

    def part(linear: Linear[Matrix, Tensor]) -> Linear[Tensor, Tensor]:
        size = linear.weight.n_rows // n_experts
        rows = torch.arange(expert * size, (expert + 1) * size)
        return Linear(linear.weight.rows(rows), None if linear.bias is None else linear.bias[rows])

    def product(linear: Linear[Tensor, Tensor], of: Tensor) -> Tensor:
        return F.linear(of, linear.weight, linear.bias)

    gate = None if neurons.gate is None else product(part(neurons.gate), x)
    up = product(part(neurons.up), x)
    values = neuron_values(gate, up, neurons.activation, relu_on_up=neurons.relu_on_up, curve=neurons.curve)
    return product(part(neurons.down), values)


def _values(neurons: Neurons[Matrix, Tensor], x: Tensor) -> Tensor:
    """What every neuron is, whatever a predictor says. x [T, n_embd] -> [T, n_ff]"""
    gate = None if neurons.gate is None else multiply(neurons.gate, x)
    up, relu_on_up = multiply(neurons.up, x), neurons.relu_on_up
    return neuron_values(gate, up, neurons.activation, relu_on_up=relu_on_up, curve=neurons.curve)


def _down(neurons: Neurons[Matrix, Tensor], values: Tensor) -> Tensor:
    """The FFN's output for such values. [T, n_ff] -> [T, n_embd]"""
    if not neurons.transposed:
        return multiply(neurons.down, values)
    y = values @ neurons.down.weight.rows(torch.arange(values.shape[1]))
    return y if neurons.down.bias is None else y + neurons.down.bias
