"""The plain twin of the fast backends: every operation in torch, float32, on weights as they are or as copies."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.angles import rope_frequencies, rope_magnitude
from powerinfer_cli.kernels.reference import attention, rotate
from powerinfer_cli.model import POSITION_OFFSET
from powerinfer_cli.runtime.backend import Cells, Hidden, Logits, Parts, Tap
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.memory import available_memory
from powerinfer_cli.runtime.options import EngineOptions
from powerinfer_cli.runtime.reference.build import Builder, resident_bytes
from powerinfer_cli.runtime.reference.cache import KVCache
from powerinfer_cli.runtime.reference.layer import Watch
from powerinfer_cli.runtime.saved import Stored, saved_part

__all__ = ["ReferenceBackend"]

Parted = list[tuple[slice, Tensor]]  # segments: their tokens in the batch, and all cells of their sequences so far


class ReferenceBackend:
    """Layers over torch tensors, with a float32 KV cache. Each sequence attends by itself."""

    def __init__(self, parts: Parts) -> None:
        config, weights, options = parts.config, parts.weights, parts.options
        self.config, self.n_ctx, self.pages = config, parts.n_ctx, parts.pages
        self.use_threads(options)
        resident = options.resident
        if resident is None:
            resident = resident_bytes(weights) <= available_memory() // 2
        build = Builder(config, resident=resident, all_active=options.all_active)
        asked = parts.statistics if config.sparse and not options.all_active else None
        self._token_embd = build.matrix(weights.token_embd)
        self._position_embd = build.matrix(weights.position_embd) if weights.position_embd else None
        self._layers = [
            build.layer(i, layer, parts.stats, asked.activity(i) if asked else None)
            for i, layer in enumerate(weights.layers)
        ]
        self._output_norm = build.norm(weights.output_norm)
        self._output = build.projection(weights.output)
        rope = config.rope
        divisors = weights.rope_freqs.to_float32() if weights.rope_freqs else None
        self._frequencies = torch.from_numpy(rope_frequencies(rope, divisors)) if rope else None
        self._magnitude = rope_magnitude(rope) if rope else 1.0
        self.cache = KVCache(config, parts.pages.n_cells)
        self._hidden = torch.empty(0)

    def forward(self, batch: Batch) -> None:
        self._run(batch, None)

    def record(self, batch: Batch, tap: Tap) -> None:
        self._run(batch, lambda layer: partial(_show, tap, layer))

    def forward_changed(self, batch: Batch, change: Callable[[Tensor], Tensor]) -> None:
        """As `forward`, with every neuron computed; what meets the down matrices is change(values [T, n_ff])."""

        def watch(_: Tensor, values: Tensor) -> None:
            values.copy_(change(values))

        self._run(batch, lambda layer: watch)

    @torch.inference_mode()
    def _run(self, batch: Batch, watch: Callable[[int], Watch] | None) -> None:
        self._set_threads(len(batch))
        positions = torch.from_numpy(batch.positions)
        x = self._token_embd.rows(torch.from_numpy(batch.ids).long())
        if self._position_embd is not None:
            x = x + self._position_embd.rows(positions + POSITION_OFFSET)
        parts = [(slice(s.begin, s.end), self._cells(s.sequence, 0, s.n_past + s.n_tokens)) for s in batch.segments]
        turn = self._turn(positions)
        for index, layer in enumerate(self._layers):
            x = layer.forward(x, partial(self._attend, index, turn, parts), watch and watch(index))
        self._hidden = x

    def _attend(
        self, layer: int, turn: Callable[[Tensor], Tensor], parts: Parted, q: Tensor, k: Tensor, v: Tensor
    ) -> Tensor:
        q, k = turn(q), turn(k)
        found = [attention(q[part], *self.cache.append(layer, k[part], v[part], cells)) for part, cells in parts]
        return torch.cat(found)

    def logits_at(self, rows: Sequence[int]) -> Logits:
        return self._logits(self._hidden[list(rows)])

    @torch.inference_mode()
    def hidden_at(self, rows: slice) -> Hidden:
        hidden: Hidden = self._output_norm(self._hidden[rows]).numpy()
        return hidden

    @torch.inference_mode()
    def shift(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> bool:
        rope = self.config.rope
        if rope is None or self._frequencies is None:
            return False  # learned positions are inside the keys
        angle = -n_discard * self._frequencies
        cos, sin = angle.cos().float()[None], angle.sin().float()[None]
        source = self._cells(sequence, n_keep + n_discard, n_past)
        target = self._cells(sequence, n_keep, n_past - n_discard)
        self.cache.move(source, target, partial(rotate, cos=cos, sin=sin, style=rope.style))
        return True

    def read_cells(self, cells: Cells) -> dict[str, npt.NDArray[Any]]:
        where = torch.from_numpy(cells)
        return {key: numbers[where].numpy() for key, numbers in self._kept()}

    def write_cells(self, cells: Cells, stored: Stored) -> None:
        kept, where = dict(self._kept()), torch.from_numpy(cells)
        given = {key: saved_part(stored, key, (len(cells), *kept[key].shape[1:]), "float32") for key in kept}
        if unknown := stored.keys() - kept.keys():
            raise PowerInferError(f"a saved context has {min(unknown)}, which this model has not")
        for key, numbers in kept.items():
            numbers[where] = torch.from_numpy(given[key])

    def _kept(self) -> Iterator[tuple[str, Tensor]]:
        """The parts of the cache, [n_cells, n_head_kv, head_dim], by name."""
        for index, (k, v) in enumerate(zip(self.cache.k, self.cache.v, strict=True)):
            yield f"{index}.k", k
            yield f"{index}.v", v

    def _cells(self, sequence: int, begin: int, end: int) -> Tensor:
        return torch.from_numpy(self.pages.cells(sequence, begin, end))

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
