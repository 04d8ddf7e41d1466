"""The plain twins of the device kernels: every operation in torch, on any device, float32 results.

What decoding uses has static shapes and asks nothing back from the device, so that a CUDA graph can record it.
"""

from dataclasses import replace
from typing import TypeAlias, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.sparse.asking import ALWAYS, ASK
from powerinfer_cli.kernels.device.planar import SUPERBLOCK, PlanarRows
from powerinfer_cli.kernels.device.reference_attention import attention, join, rope_store, turn
from powerinfer_cli.kernels.device.reference_recurrent import convolve, delta_rule, gate_groups, scan
from powerinfer_cli.kernels.device.whole_texts import attention_of_text
from powerinfer_cli.kernels.few import ONE_BY_ONE
from powerinfer_cli.kernels.reference import neuron_values
from powerinfer_cli.model import Activation, NormKind
from powerinfer_cli.model.blocks import Curve, Linear, Neurons, Norm

__all__ = ["CHUNK_NUMBERS", "DeviceNeurons", "Ops", "compute_dtype", "dequantize", "product"]

CHUNK_NUMBERS = 1 << 23
"""Weights that are dequantised at a time."""

_MM_OUT_DTYPE = hasattr(torch.ops.aten.mm, "dtype")  # torch 2.8: products of halves, summed and kept in float32

DeviceNeurons: TypeAlias = Neurons[PlanarRows, Tensor]


def dequantize(rows: PlanarRows, dtype: torch.dtype = torch.float32) -> Tensor:
    """[n_rows, n_cols]"""
    layout = rows.layout
    if rows.scales is None:
        return rows.quants.to(dtype)
    quants = rows.quants
    if layout.packed:
        packed = quants.view(rows.n_rows, rows.n_cols // layout.group, 1, layout.group // 2)
        quants = torch.cat((packed & 15, packed >> 4), 2)
    levels = quants.float() - layout.offset if rows.codebook is None else rows.codebook[quants.int()]
    shape = (rows.n_rows, rows.n_cols // layout.group, layout.group)
    weights = levels.view(shape) * _over_groups(rows, rows.scales, rows.super_scales)
    if rows.mins is not None:
        weights = weights + _over_groups(rows, rows.mins, rows.super_mins)
    return weights.view(rows.n_rows, rows.n_cols).to(dtype)


def _over_groups(rows: PlanarRows, small: Tensor, large: Tensor | None) -> Tensor:
    """Scales or minima as float32 [n_rows, groups, 1]."""
    found = small.float()
    if large is not None:
        found = found * large.float().repeat_interleave(SUPERBLOCK // rows.layout.group, 1)
    return found.unsqueeze(-1)


def compute_dtype(rows: PlanarRows) -> torch.dtype:
    """What products of many vectors are computed in: on CUDA a half, unless the weights are float32."""
    if rows.device.type != "cuda" or rows.kind is GGMLType.F32:
        return torch.float32
    return torch.bfloat16 if rows.kind in (GGMLType.BF16, GGMLType.MXFP4) else torch.float16


def product(x: Tensor, weights: Tensor) -> Tensor:
    """x [T, m] float32 @ weights [m, n] of any float type -> float32 [T, n].

    Halves are multiplied as halves: x goes in with each row's largest number at 1, as float16 would overflow.
    """
    if weights.dtype == torch.float32:
        return x @ weights
    peaks = x.abs().amax(1, keepdim=True).clamp(min=1e-30)
    halves = (x / peaks).to(weights.dtype)
    if _MM_OUT_DTYPE and x.is_cuda:
        return torch.mm(halves, weights, out_dtype=torch.float32) * peaks
    return (halves @ weights).float() * peaks


def _chunks(rows: PlanarRows) -> list[tuple[int, int]]:
    step = max(1, CHUNK_NUMBERS // rows.n_cols)
    return [(begin, min(begin + step, rows.n_rows)) for begin in range(0, rows.n_rows, step)]


def _room(out: Tensor | None, x: Tensor, *shape: int) -> Tensor:
    return torch.empty(shape, device=x.device) if out is None else out


def slot_of(neurons: DeviceNeurons, slot: int | Tensor, n_embd: int) -> DeviceNeurons:
    """One expert of those that follow each other. slot int64 [1]: its rows are copied, and nobody asks which it is."""
    n_slots = neurons.down.weight.n_rows // n_embd

    def rows(one: PlanarRows) -> PlanarRows:
        size = one.n_rows // n_slots
        return one.slice(slot * size, (slot + 1) * size) if isinstance(slot, int) else one.chunk_at(slot, n_slots)

    def numbers(one: Tensor) -> Tensor:
        parts = one.view(n_slots, -1)
        return parts[slot] if isinstance(slot, int) else parts.index_select(0, slot)[0]

    return replace(neurons.map(rows, numbers), n_ff=neurons.n_ff // n_slots)


class Ops:
    """Every operation of a layer. Those with faster kernels are overridden where such kernels run."""

    name = "torch"
    widest = 0  # heads of which a token's attention reads what it sees, though nobody tells `limit`; others: all pages

    rope_store = staticmethod(rope_store)
    turn = staticmethod(turn)
    attention_of_text = staticmethod(attention_of_text)
    attention = staticmethod(attention)
    join = staticmethod(join)
    convolve = staticmethod(convolve)
    delta_rule = staticmethod(delta_rule)
    scan = staticmethod(scan)
    gate_groups = staticmethod(gate_groups)

    def dequantize(self, rows: PlanarRows, dtype: torch.dtype = torch.float32) -> Tensor:
        """[n_rows, n_cols]"""
        return dequantize(rows, dtype)

    def matmul(self, rows: PlanarRows, x: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """x [T, n_cols] @ rows.T (+ bias [n_rows]) -> [T, n_rows]"""
        out, dtype = _room(out, x, len(x), rows.n_rows), compute_dtype(rows)
        for begin, end in _chunks(rows):
            weights = self.dequantize(rows.slice(begin, end), dtype)
            if len(x) <= ONE_BY_ONE and dtype is torch.float32:
                for t in range(len(x)):
                    torch.mv(weights, x[t], out=out[t, begin:end])
            else:
                out[:, begin:end] = product(x, weights.T)
        return out if bias is None else out.add_(bias)

    def matmul_t(self, rows: PlanarRows, x: Tensor, out: Tensor | None = None) -> Tensor:
        """x [T, n_rows] @ rows -> [T, n_cols]"""
        out = _room(out, x, len(x), rows.n_cols).zero_()
        for begin, end in _chunks(rows):
            out += product(x[:, begin:end], self.dequantize(rows.slice(begin, end), compute_dtype(rows)))
        return out

    def matvec(self, rows: PlanarRows, x: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """rows @ x [n_cols] (+ bias [n_rows]) -> [n_rows], all in float32."""
        out = _room(out, x, rows.n_rows)
        for begin, end in _chunks(rows):
            torch.mv(self.dequantize(rows.slice(begin, end)), x, out=out[begin:end])
        return out if bias is None else out.add_(bias)

    def chosen_rows(self, rows: PlanarRows, x: Tensor, indices: Tensor, out: Tensor | None = None) -> Tensor:
        """rows[indices] @ x [n_cols]; indices int64 [n], in any order; -1: the result is 0. -> [n]"""
        found = self.matvec(rows, x).index_select(0, indices.clamp(min=0))
        found = torch.where(indices >= 0, found, 0)
        return found if out is None else out.copy_(found)

    def predict(
        self,
        fc1: PlanarRows,
        fc2: PlanarRows,
        x: Tensor,
        threshold: float,
        modes: Tensor | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """fc2 @ relu(fc1 @ x) >= threshold, as 0 or 1. x [n_embd] -> uint8 [n], or [T, n_embd] -> [T, n].

        modes uint8 [n]: where NEVER or ALWAYS, that is the answer.
        """
        multiply = self.matvec if x.ndim == 1 else self.matmul
        mask = multiply(fc2, torch.relu(multiply(fc1, x))) >= threshold
        if modes is not None:
            mask = mask & (modes == ASK) | (modes == ALWAYS)
        found = mask.to(torch.uint8)
        return found if out is None else out.copy_(found)

    def activated(
        self,
        gate: Tensor | None,
        up: Tensor,
        activation: Activation,
        *,
        relu_on_up: bool = False,
        curve: Curve | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """act(gate) * up, or act(gate) * relu(up), or act(up) where there is no gate. Any one shape."""
        value = neuron_values(gate, up, activation, relu_on_up=relu_on_up, curve=curve)
        return value if out is None else out.copy_(value)

    def values_of(self, neurons: DeviceNeurons, gate: Tensor | None, up: Tensor, out: Tensor | None = None) -> Tensor:
        """`activated`, as neurons are."""
        relu_on_up, curve = neurons.relu_on_up, neurons.curve
        return self.activated(gate, up, neurons.activation, relu_on_up=relu_on_up, curve=curve, out=out)

    def sparse_ffn(
        self,
        x: Tensor,
        mask: Tensor | None,
        neurons: DeviceNeurons,
        *,
        entries: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """As `sparse_ffn_batch`, for one token: x [n_embd], mask [n] -> (y [n_embd], fired)."""
        batch_mask = None if mask is None else mask.unsqueeze(0)
        batch_out = None if out is None else out.unsqueeze(0)
        y, fired = self.sparse_ffn_batch(x.unsqueeze(0), batch_mask, neurons, entries=entries, out=batch_out)
        return y[0], fired

    def sparse_ffn_batch(
        self,
        x: Tensor,
        mask: Tensor | None,
        neurons: DeviceNeurons,
        *,
        entries: Tensor | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What those neurons that count make of x, without down's bias. x [T, n_embd] -> (y [T, n_embd], how many
        fired, int64 [T]).

        neurons: n, transposed. mask uint8 [T, n] of 0 and 1, None: all count; with `entries` int64 [n] neuron i's is
        mask[:, entries[i]]. A neuron fired if it counts and, where the activation has exact zeros, its gate (without
        one its up) is open. T 1 is computed in float32 throughout.
        """
        if mask is not None and entries is not None:
            mask = mask.index_select(1, entries)
        gate, up, kind = neurons.gate, neurons.up, neurons.activation
        fires = self.linear(up if gate is None else gate, x)
        counts = torch.ones_like(fires, dtype=torch.bool) if mask is None else mask != 0
        open_ = counts & (fires > neurons.threshold) if kind.has_exact_zeros else counts
        if gate is None:
            value = self.values_of(neurons, None, fires, out=fires)
        else:
            value = self.linear(up, x)
            value = self.values_of(neurons, fires, value, out=value)
        value = value.masked_fill_(~open_, 0)  # also what is no number
        y = self._back(neurons.down.weight, value)
        return y if out is None else out.copy_(y), open_.sum(1)

    def add_experts(
        self,
        x: Tensor,
        chosen: Tensor,
        weights: Tensor,
        slots: Tensor,
        neurons: DeviceNeurons,
        out: Tensor,
        *,
        on_input: bool = False,
    ) -> Tensor:
        """out [T, n_embd] += for each token of x [T, n_embd] the sum of weight * expert(x), or, with on_input, of
        expert(weight * x), over those of its chosen experts that have a slot.

        chosen int64, weights [T, n_chosen]; slots int64 [E], -1: none. neurons: of n slots, one's rows behind
        another's, as `Routed` has experts'.
        """
        if len(x) <= ONE_BY_ONE:
            for t in range(len(x)):
                self.add_experts_of_one(x[t], chosen[t], weights[t], slots, neurons, out[t], on_input=on_input)
            return out
        own, n_slots = slots[chosen].flatten(), neurons.down.weight.n_rows // x.shape[1]
        order = own.argsort(stable=True)
        begin, *counts = torch.bincount(own + 1, minlength=n_slots + 1).tolist()  # the only wait for the device
        for slot, count in enumerate(counts):
            pairs = order[begin : begin + count]
            begin += count
            if count:
                token, weight = pairs // chosen.shape[1], weights.flatten()[pairs]
                self.add_expert(x, token, weight, slot_of(neurons, slot, x.shape[1]), out, on_input=on_input)
        return out

    def add_expert(
        self, x: Tensor, tokens: Tensor, weights: Tensor, neurons: DeviceNeurons, out: Tensor, *, on_input: bool
    ) -> None:
        """out [T, n_embd] += one expert's part of it for some tokens of x [T, n_embd], by number, none twice."""
        seen, weight = x[tokens], weights.unsqueeze(1)
        made = self._expert(neurons, weight * seen if on_input else seen)
        out[tokens] += made if on_input else weight * made

    def add_experts_of_one(
        self,
        x: Tensor,
        chosen: Tensor,
        weights: Tensor,
        slots: Tensor,
        neurons: DeviceNeurons,
        out: Tensor,
        *,
        on_input: bool,
    ) -> Tensor:
        """`add_experts` for one token: x, out [n_embd]; chosen, weights [n_chosen]. Nothing is asked back: whoever has
        no slot is computed as the first one, and not added.
        """
        own = slots.index_select(0, chosen)
        for j in range(len(own)):
            slot, weight = own[j : j + 1], weights[j]
            expert = slot_of(neurons, slot.clamp(min=0), len(x))
            (made,) = self._expert(expert, (weight * x if on_input else x).unsqueeze(0))
            out.add_(torch.where(slot >= 0, made if on_input else weight * made, 0))
        return out

    def _expert(self, neurons: DeviceNeurons, x: Tensor) -> Tensor:
        """x [T, n_embd] -> [T, n_embd]"""
        gate = None if neurons.gate is None else self.linear(neurons.gate, x)
        up = self.linear(neurons.up, x)
        return self.linear(neurons.down, self.values_of(neurons, gate, up, out=up))

    def multiply(self, rows: PlanarRows, x: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
        """`matmul`, or, for one token, `matvec`. x [T, n_cols] -> [T, n_rows]"""
        if len(x) > 1:
            return self.matmul(rows, x, bias, out)
        return self.matvec(rows, x[0], bias, None if out is None else out[0]).unsqueeze(0)

    def linear(self, linear: Linear[PlanarRows, Tensor], x: Tensor, out: Tensor | None = None) -> Tensor:
        """`multiply`, with the bias if there is one. x [T, n_cols] -> [T, n_rows]"""
        return self.multiply(linear.weight, x, linear.bias, out)

    def multiply_heads(self, rows: PlanarRows, x: Tensor) -> Tensor:
        """Each head by its own rows: rows [H * m, n_cols], x [T, H, n_cols] -> [T, H, m], in float32."""
        weights = self.dequantize(rows).view(x.shape[1], -1, rows.n_cols)
        return torch.einsum("thn,hmn->thm", x, weights)

    def _back(self, rows: PlanarRows, x: Tensor) -> Tensor:
        if len(x) > ONE_BY_ONE:
            return self.matmul_t(rows, x)
        y = torch.zeros(len(x), rows.n_cols, device=x.device)
        for begin, end in _chunks(rows):
            weights = self.dequantize(rows.slice(begin, end))
            for t in range(len(x)):
                y[t : t + 1] += x[t : t + 1, begin:end] @ weights
        return y

    def add_norm(
        self,
        x: Tensor,
        adds: tuple[Tensor, ...],
        weight: Tensor,
        bias: Tensor | None,
        eps: float,
        kind: NormKind,
        out: Tensor | None = None,
        *,
        scale: float = 1.0,
    ) -> Tensor:
        """x += scale * each of adds, in their order; then x's norm over the last dimension, to out, which may be x.

        x and adds [T, n] or [n].
        """
        for add in adds:
            x.add_(add, alpha=scale)
        match kind:
            case NormKind.RMS:
                normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight
                if bias is not None:
                    normed = normed + bias
            case NormKind.LAYER:
                normed = F.layer_norm(x, weight.shape, weight, bias, eps)
            case never:
                assert_never(never)
        return normed if out is None else out.copy_(normed)

    def norm(
        self,
        norm: Norm[Tensor],
        x: Tensor,
        adds: tuple[Tensor, ...] = (),
        out: Tensor | None = None,
        *,
        scale: float = 1.0,
    ) -> Tensor:
        """`add_norm` by a norm of the model's."""
        return self.add_norm(x, adds, norm.weight, norm.bias, norm.eps, norm.kind, out, scale=scale)
