"""What flows through the layers on one device, and what they do to it. T tokens; buffers have room for `n_tokens`."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from powerinfer_cli.kernels.angles import rope_magnitude
from powerinfer_cli.kernels.device import DeviceCache, Ops, PlanarRows
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.runtime.device.places import Places, places_numbers
from powerinfer_cli.runtime.device.weights import DeviceFFN, DeviceLayer, DeviceLinear, DeviceNorm
from powerinfer_cli.runtime.pages import PageTable

__all__ = ["DeviceFlow", "RopeTables", "flow_bytes", "rope_tables"]


@dataclass(frozen=True, eq=False)
class RopeTables:
    """cos and sin, float32 [positions of a sequence, n_rot / 2]."""

    cos: Tensor
    sin: Tensor


def rope_tables(
    config: ModelConfig, frequencies: "np.ndarray | None", n_positions: int, device: torch.device
) -> RopeTables | None:
    """frequencies: the angle per position of each rotated pair, float64 [n_rot / 2]; None: nothing is turned."""
    if config.rope is None or frequencies is None:
        return None
    angles = torch.arange(n_positions, dtype=torch.float64)[:, None] * torch.from_numpy(frequencies)
    gain = rope_magnitude(config.rope)
    return RopeTables((gain * angles.cos()).float().to(device), (gain * angles.sin()).float().to(device))


class DeviceFlow:
    """Buffers for up to so many tokens, float32, and the steps of a layer over their first T rows.

    A step leaves its result in a buffer, so that for one token it can be recorded. What is still to be added to the
    residual stream x goes from step to step as `adds`.
    """

    def __init__(
        self,
        config: ModelConfig,
        ops: Ops,
        n_tokens: int,
        pages: PageTable,
        threshold: float,
        counts: Tensor,
        device: torch.device,
    ) -> None:
        """counts int64 [layers, 2]: neurons let through, and neurons that fired, are added to it."""
        self.config, self.ops, self.threshold, self.counts = config, ops, threshold, counts
        self.places = Places(n_tokens, pages, device)
        s = config.sizes

        def room(n: int) -> Tensor:
            return torch.zeros(n_tokens, n, device=device)

        self.x, self.normed, self.normed_2 = room(s.n_embd), room(s.n_embd), room(s.n_embd)
        self.q, self.k, self.v, self.attended = room(s.n_q), room(s.n_kv), room(s.n_kv), room(s.n_q)
        self.projected, self.hot, self.cold = room(s.n_embd), room(s.n_embd), room(s.n_embd)
        self.gate, self.up, self.value = (room(0 if config.sparse else s.n_ff) for _ in range(3))
        self.mask = torch.zeros(n_tokens, s.n_ff if config.sparse else 0, dtype=torch.uint8, device=device)

    def attend(
        self,
        layer: DeviceLayer,
        cache: DeviceCache,
        tables: RopeTables | None,
        adds: tuple[Tensor, ...],
        n: int,
    ) -> None:
        """Up to `projected`, what attention adds to x. adds: to x before."""
        c = self.config
        self._norm(layer.attn_norm, adds, self.normed, n)
        seen = self.normed
        if layer.attn_norm_2:
            self._norm(layer.attn_norm_2, (), self.normed_2, n)
            seen = self.normed_2
        for linear, out in ((layer.attn_q, self.q), (layer.attn_k, self.k), (layer.attn_v, self.v)):
            self._multiply(linear, seen, out, n)
        self.ops.rope_store(
            self.q[:n],
            self.k[:n],
            self.v[:n],
            cache,
            self.places.positions[:n],
            self.places.cells[:n],
            tables.cos if tables else None,
            tables.sin if tables else None,
            c.rope.style if c.rope else None,
            q_norm=layer.attn_q_norm.weight if layer.attn_q_norm else None,
            k_norm=layer.attn_k_norm.weight if layer.attn_k_norm else None,
            eps=c.norm_eps,
        )
        for own in self.places.segments:
            part = slice(own.begin, own.end)
            self.ops.attention(self.q[part], cache, own.n_past, own.pages, limit=own.limit, out=self.attended[part])
        self._multiply(layer.attn_output, self.attended, self.projected, n)

    def predict(self, layer: DeviceLayer, n: int) -> None:
        """The FFN's input in `normed`, and, where there is a predictor, the mask of its neurons."""
        self.enter_ffn(layer, n)
        if layer.predictor is None:
            self.counts[layer.place, 0].add_(n * (layer.n_hot + layer.n_cold))
            return
        p = layer.predictor
        x, mask = (self.x[0], self.mask[0]) if n == 1 else (self.x[:n], self.mask[:n])
        self.ops.predict(p.fc1, p.fc2, x, self.threshold, p.modes, out=mask)
        self.counts[layer.place, 0].add_(mask.sum())

    def enter_ffn(self, layer: DeviceLayer, n: int) -> None:
        """The FFN's input in `normed`; x is what a predictor looks at."""
        if layer.ffn_norm is not None:
            self._norm(layer.ffn_norm, (self.projected,), self.normed, n)

    def every_neuron(self, layer: DeviceLayer, n: int) -> Tensor:
        """What every neuron of a layer that is wholly here makes of `normed`, [T, n_ff]; and `hot` of that."""
        ffn, c = layer.ffn, self.config
        assert ffn is not None
        x = self.normed[:n]
        up = self.ops.matmul(ffn.up.rows, x, ffn.up.bias)
        gate = None if ffn.gate is None else self.ops.matmul(ffn.gate.rows, x, ffn.gate.bias)
        value = self.ops.activated(gate, up, c.activation, relu_on_up=c.architecture.relu_on_up)
        multiply = self.ops.matmul_t if ffn.transposed else self.ops.matmul
        multiply(ffn.down, value, out=self.hot[:n])
        if ffn.down_bias is not None:
            self.hot[:n].add_(ffn.down_bias)
        return value

    def hot_ffn(self, layer: DeviceLayer, n: int) -> None:
        """`hot`: what the neurons on the device make of `normed`."""
        ffn = layer.ffn
        assert ffn is not None  # a layer without hot neurons has no such step
        if ffn.transposed:
            self._sparse(layer, ffn, n)
        else:
            self._dense(ffn, n)
        if ffn.down_bias is not None:
            self.hot[:n].add_(ffn.down_bias)

    def add_chunk(
        self,
        layer: DeviceLayer,
        matrices: tuple[PlanarRows | None, PlanarRows, PlanarRows],
        biases: tuple[Tensor | None, Tensor | None],
        columns: slice,
        n: int,
    ) -> None:
        """`cold` += what some neurons make of `normed`: gate, up and down_t [m, n_embd]; gate's and up's biases [m];
        columns: where the mask has them.
        """
        c = self.config
        y, fired = self.ops.sparse_ffn_batch(
            self.normed[:n],
            None if layer.predictor is None else self.mask[:n, columns].contiguous(),
            *matrices,
            gate_bias=biases[0],
            up_bias=biases[1],
            activation=c.activation,
            relu_on_up=c.architecture.relu_on_up,
        )
        self.cold[:n].add_(y)
        self.counts[layer.place, 1:].add_(fired)

    def adds(self, layer: DeviceLayer) -> tuple[Tensor, ...]:
        """What a layer leaves to be added to x."""
        parts = [self.projected] if layer.ffn_norm is None else []
        parts += [self.hot] if layer.n_hot else []
        return (*parts, self.cold) if layer.n_cold else tuple(parts)

    def settle(self, adds: tuple[Tensor, ...], n: int) -> None:
        """x += adds."""
        for add in adds:
            self.x[:n].add_(add[:n])

    def last_norm(self, norm: DeviceNorm, x: Tensor) -> Tensor:
        """x [T, n_embd] behind the last norm; x stays as it is."""
        c = self.config
        return self.ops.add_norm(x, (), norm.weight, norm.bias, c.norm_eps, c.architecture.norm)

    def head(self, norm: DeviceNorm, output: DeviceLinear, x: Tensor, logits: Tensor) -> None:
        """Logits [T, n_vocab] of x [T, n_embd], which stays as it is; T 1 as for one token."""
        normed = self.last_norm(norm, x)
        if len(x) == 1:
            self.ops.matvec(output.rows, normed[0], output.bias, out=logits[0])
        else:
            self.ops.matmul(output.rows, normed, output.bias, out=logits)

    def _norm(self, norm: DeviceNorm, adds: tuple[Tensor, ...], out: Tensor, n: int) -> None:
        c = self.config
        added = tuple(add[:n] for add in adds)
        self.ops.add_norm(self.x[:n], added, norm.weight, norm.bias, c.norm_eps, c.architecture.norm, out=out[:n])

    def _multiply(self, linear: DeviceLinear, x: Tensor, out: Tensor, n: int) -> None:
        if n == 1:
            self.ops.matvec(linear.rows, x[0], linear.bias, out=out[0])
        else:
            self.ops.matmul(linear.rows, x[:n], linear.bias, out=out[:n])

    def _dense(self, ffn: DeviceFFN, n: int) -> None:
        c = self.config
        if ffn.gate is not None:
            self._multiply(ffn.gate, self.normed, self.gate, n)
        self._multiply(ffn.up, self.normed, self.up, n)
        gate = self.gate[:n] if ffn.gate is not None else None
        relu_on_up = c.architecture.relu_on_up
        self.ops.activated(gate, self.up[:n], c.activation, relu_on_up=relu_on_up, out=self.value[:n])
        self._multiply(DeviceLinear(ffn.down, None), self.value, self.hot, n)

    def _sparse(self, layer: DeviceLayer, ffn: DeviceFFN, n: int) -> None:
        c, one = self.config, n == 1
        mask = None
        if layer.predictor is not None:
            mask = self.mask[0, : layer.n_hot] if one else self.mask[:n, : layer.n_hot].contiguous()
        run = self.ops.sparse_ffn if one else self.ops.sparse_ffn_batch
        _, fired = run(
            self.normed[0] if one else self.normed[:n],
            mask,
            ffn.gate.rows if ffn.gate else None,
            ffn.up.rows,
            ffn.down,
            gate_bias=ffn.gate.bias if ffn.gate else None,
            up_bias=ffn.up.bias,
            activation=c.activation,
            relu_on_up=c.architecture.relu_on_up,
            out=self.hot[0] if one else self.hot[:n],
        )
        self.counts[layer.place, 1:].add_(fired)


def flow_bytes(config: ModelConfig, n_tokens: int, pages: PageTable) -> int:
    """What a DeviceFlow for so many tokens, and its tables, take."""
    s = config.sizes
    ffn = s.n_ff if config.sparse else 4 * 3 * s.n_ff
    tables = 2 * 4 * pages.n_ctx_sequence * (s.n_rot // 2) + 8 * places_numbers(n_tokens, pages)
    return n_tokens * (4 * (7 * s.n_embd + 2 * s.n_q + 2 * s.n_kv) + ffn) + tables + (16 << 10)
