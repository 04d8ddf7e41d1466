"""The plain twin of the fast backends: every operation in torch, float32, on weights as they are or as copies."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from powerinfer_cli.kernels.angles import rope_frequencies, rope_magnitude
from powerinfer_cli.kernels.reference import rotate
from powerinfer_cli.model import POSITION_OFFSET
from powerinfer_cli.runtime.backend import Logits, Parts, Tap
from powerinfer_cli.runtime.build import Builder, resident_bytes
from powerinfer_cli.runtime.kv_cache import KVCache
from powerinfer_cli.runtime.layer import Watch
from powerinfer_cli.runtime.memory import available_memory
from powerinfer_cli.runtime.options import EngineOptions

__all__ = ["ReferenceBackend"]


class ReferenceBackend:
    """Layers over torch tensors, with a float32 KV cache."""

    def __init__(self, parts: Parts) -> None:
        config, weights, options = parts.config, parts.weights, parts.options
        self.config, self.n_ctx = config, parts.n_ctx
        self.use_threads(options)
        resident = options.resident
        if resident is None:
            resident = resident_bytes(weights) <= available_memory() // 2
        build = Builder(config, resident=resident, all_active=options.all_active)
        asked = parts.statistics if config.sparse and not options.all_active else None
        self._token_embd = build.matrix(weights.token_embd)
        self._position_embd = build.matrix(weights.position_embd) if weights.position_embd else None
        self._layers = [
            build.layer(layer, parts.stats, asked.activity(i) if asked else None)
            for i, layer in enumerate(weights.layers)
        ]
        self._output_norm = build.norm(weights.output_norm)
        self._output = build.projection(weights.output)
        rope = config.rope
        divisors = weights.rope_freqs.to_float32() if weights.rope_freqs else None
        self._frequencies = torch.from_numpy(rope_frequencies(rope, divisors)) if rope else None
        self._magnitude = rope_magnitude(rope) if rope else 1.0
        self.cache = KVCache(config, parts.n_ctx)
        self._hidden = torch.empty(0)

    def forward(self, ids: Sequence[int], n_past: int) -> None:
        self._run(ids, n_past, None)

    def record(self, ids: Sequence[int], n_past: int, tap: Tap) -> None:
        self._run(ids, n_past, lambda layer: partial(_show, tap, layer))

    def forward_changed(self, ids: Sequence[int], n_past: int, change: Callable[[Tensor], Tensor]) -> None:
        """As `forward`, with every neuron computed; what meets the down matrices is change(values [T, n_ff])."""

        def watch(_: Tensor, values: Tensor) -> None:
            values.copy_(change(values))

        self._run(ids, n_past, lambda layer: watch)

    @torch.inference_mode()
    def _run(self, ids: Sequence[int], n_past: int, watch: Callable[[int], Watch] | None) -> None:
        self._set_threads(len(ids))
        self.cache.n_past = n_past
        positions = torch.arange(n_past, n_past + len(ids))
        x = self._token_embd.rows(torch.tensor(ids, dtype=torch.int64))
        if self._position_embd is not None:
            x = x + self._position_embd.rows(positions + POSITION_OFFSET)
        turn = self._turn(positions)
        for index, layer in enumerate(self._layers):
            x = layer.forward(x, turn, partial(self.cache.append, index), watch and watch(index))
        self.cache.n_past += len(ids)
        self._hidden = x

    def last_logits(self) -> Logits:
        last: Logits = self._logits(self._hidden[-1:])[0]
        return last

    def all_logits(self) -> Logits:
        return self._logits(self._hidden)

    @torch.inference_mode()
    def shift(self, n_past: int, n_keep: int, n_discard: int) -> bool:
        rope = self.config.rope
        if rope is None or self._frequencies is None:
            return False  # learned positions are inside the keys
        angle = -n_discard * self._frequencies
        cos, sin = angle.cos().float()[None], angle.sin().float()[None]
        self.cache.n_past = n_past
        self.cache.shift(n_keep, n_discard, partial(rotate, cos=cos, sin=sin, style=rope.style))
        return True

    def _turn(self, positions: Tensor) -> Callable[[Tensor], Tensor]:
        rope = self.config.rope
        if rope is None or self._frequencies is None:
            return lambda x: x
        angles = positions.double()[:, None] * self._frequencies  # [T, n_rot / 2]
        cos, sin = (self._magnitude * angles.cos()).float(), (self._magnitude * angles.sin()).float()
        return partial(rotate, cos=cos, sin=sin, style=rope.style)

    @torch.inference_mode()
    def _logits(self, hidden: Tensor) -> Logits:
        """hidden [T, n_embd] -> [T, n_vocab]"""
        logits: Logits = self._output(self._output_norm(hidden)).numpy()
        return logits

    def use_threads(self, options: EngineOptions) -> None:
        self._threads, self._threads_batch = options.threads

    def _set_threads(self, n_tokens: int) -> None:
        wanted = self._threads if n_tokens == 1 else self._threads_batch
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)


def _show(tap: Tap, layer: int, residual: Tensor, values: Tensor) -> None:
    arrays = residual.numpy(), values.numpy()
    for array in arrays:
        array.flags.writeable = False
    tap(layer, *arrays)
