"""The plain twin of the fast backends: every operation in torch, float32, on weights as they are or as copies."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cpu.rows import WeightRows
from powerinfer_cli.kernels.matrix import Matrix, to_float32
from powerinfer_cli.kernels.reference import attention, rotate
from powerinfer_cli.model import Model, Rope
from powerinfer_cli.model.blocks import Attention, Border, Embedding, SharedAttention, leaves, recurrent_layers
from powerinfer_cli.placement.statistics import LayerActivity
from powerinfer_cli.runtime.backend import Hidden, Logits, Parts, Watch, WatchRoutes
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.context.pages import Held
from powerinfer_cli.runtime.context.saved import Stored, saved_part
from powerinfer_cli.runtime.logits import finish_logits
from powerinfer_cli.runtime.options import EngineOptions
from powerinfer_cli.runtime.reference.cache import KVCache
from powerinfer_cli.runtime.reference.inputs import inputs_of
from powerinfer_cli.runtime.reference.layer import (
    NOT_SHOWN,
    Attending,
    PredictorQuery,
    ReferenceLayer,
    Shown,
    Turn,
)
from powerinfer_cli.runtime.reference.products import multiply, normed
from powerinfer_cli.runtime.threshold import sparse_threshold
from powerinfer_cli.system.memory import available_memory

__all__ = ["ReferenceBackend"]

Parted = list[tuple[slice, Tensor]]  # segments: their tokens in the batch, and the cells that these look at


class ReferenceBackend:
    """Layers over torch tensors, with a float32 KV cache. Each sequence attends by itself."""

    def __init__(self, parts: Parts) -> None:
        model, config, options = parts.model, parts.config, parts.options
        self.config, self.n_ctx, self.pages = config, parts.n_ctx, parts.pages
        self.use_threads(options)
        resident = options.resident
        if resident is None:
            resident = resident_bytes(model) <= available_memory() // 2
        matrix = partial(Matrix, resident=resident)
        asked = parts.statistics if config.sparse and not options.all_active else None
        threshold = -math.inf if options.all_active else sparse_threshold(config)
        self._layers = [
            ReferenceLayer(
                number,
                layer.map(matrix, to_float32),
                _asked(threshold, asked.activity(number) if asked else None),
                parts.stats,
            )
            for number, layer in enumerate(model.layers)
        ]
        self._embedding = model.embedding.map(matrix, to_float32)
        self._head = model.head.map(matrix, to_float32)
        ropes = {layer.attention.rope for layer in model.layers}
        n_ctx = parts.pages.n_ctx_sequence
        self._frequencies = {rope: torch.from_numpy(rope.frequencies(n_ctx)) for rope in ropes if rope is not None}
        self.cache = KVCache(model.layers, parts.pages.extent)
        self._windows = {layer.attention.window for layer in model.layers}
        self._states = {
            number: torch.zeros(parts.pages.n_sequences, one.state_size)
            for number, one in recurrent_layers(model.layers).items()
        }
        self._hidden = torch.empty(0)

    def forward(self, batch: Batch) -> None:
        self._run(batch, lambda _: NOT_SHOWN)

    def record(self, batch: Batch, watch: Watch) -> None:
        self._run(batch, lambda layer: Shown(neurons=partial(_show, watch, layer)))

    def record_routes(self, batch: Batch, watch: WatchRoutes) -> None:
        self._run(batch, lambda layer: Shown(experts=partial(_show_experts, watch, layer)))

    @torch.inference_mode()
    def _run(self, batch: Batch, shown: Callable[[int], Shown]) -> None:
        """shown: by layer."""
        self._set_threads(len(batch))
        positions = torch.from_numpy(batch.positions)
        x, inputs = self._enter(batch, positions)
        parts = {window: self._parted(batch, window) for window in self._windows}
        turns = {rope: self._turn(rope, positions) for rope in self._frequencies}
        for index, layer in enumerate(self._layers):
            rope, window = layer.block.attention.rope, layer.block.attention.window
            turn = _as_it_is if rope is None else turns[rope]
            recur = partial(self._recur, index, batch)
            x = layer.forward(x, turn, partial(self._attend, index, parts[window]), recur, shown(index), inputs)
        self._hidden = x

    def _enter(self, batch: Batch, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """x [T, n_embd], and what layers get besides."""
        source, ids = self._embedding, torch.from_numpy(batch.ids).long()
        given = None if batch.hidden is None else torch.from_numpy(batch.hidden)
        embedding = source.embedding if isinstance(source, Border) else source
        embedded = None if embedding is None else _embed(embedding, ids, positions, given)
        inputs = None if source.inputs is None or embedded is None else inputs_of(source.inputs, ids, embedded)
        x = given if isinstance(source, Border) else embedded
        assert x is not None  # behind a border it comes with the tokens
        return x, inputs

    def _attend(self, layer: int, parts: Parted, a: Attending, q: Tensor, kept: tuple[Tensor, Tensor] | None) -> Tensor:
        attend = partial(attention, scale=a.scale, window=a.window)
        if isinstance(a, Attention):
            attend = partial(attend, softcap=a.softcap, alibi=a.alibi, temperature=a.temperature)
            attend = partial(attend, sinks=a.sinks, chunk=a.chunk, causal=a.causal, reach=a.reach)
        source = a.source if isinstance(a, SharedAttention) else layer
        if kept is not None:
            k, v = kept
            for part, cells in parts:
                self.cache.store(layer, k[part], v[part], cells[len(cells) - len(k[part]) :])
        return torch.cat([attend(q[part], *self.cache.read(source, cells)) for part, cells in parts])

    def _recur(self, layer: int, batch: Batch, step: Callable[[slice, Tensor], Tensor]) -> Tensor:
        """What `step` makes of each segment's tokens and its sequence's state, which is zeros where it begins."""
        found = []
        for segment in batch.segments:
            state = self._states[layer][segment.sequence]
            if segment.n_past == 0:
                state.zero_()
            found.append(step(slice(segment.begin, segment.end), state))
        return torch.cat(found)

    def read_states(self, sequence: int) -> dict[int, npt.NDArray[np.float32]]:
        return {layer: states[sequence].numpy().copy() for layer, states in self._states.items()}

    def write_states(self, sequence: int, states: Mapping[int, npt.NDArray[np.float32]]) -> None:
        for layer, kept in self._states.items():
            kept[sequence] = torch.from_numpy(states[layer])

    def logits_at(self, rows: Sequence[int]) -> Logits:
        return self._logits(self._hidden[list(rows)])

    @torch.inference_mode()
    def hidden_at(self, rows: slice) -> Hidden:
        return self._normed(self._hidden[rows]).numpy()

    def _normed(self, hidden: Tensor) -> Tensor:
        """Behind the last norm, if there is one."""
        return hidden if self._head.norm is None else normed(self._head.norm, hidden)

    @torch.inference_mode()
    def shift(self, sequence: int, n_past: int, n_keep: int, n_discard: int) -> bool:
        if self.config.learned_positions:
            return False  # learned positions are inside the keys
        back = torch.tensor([-n_discard])
        turns = {rope: self._turn(rope, back, 1.0) for rope in self._frequencies}
        for index, layer in enumerate(self._layers):
            a = layer.block.attention
            moves = self.pages.of(a.window).moves(sequence, n_past, n_keep, n_discard)
            source, target = map(torch.from_numpy, moves)
            self.cache.move(index, source, target, _as_it_is if a.rope is None else turns[a.rope])
        return True

    def read_cells(self, held: Held) -> dict[str, npt.NDArray[Any]]:
        return {key: numbers[cells].numpy() for key, numbers, cells in self._kept(held)}

    def write_cells(self, held: Held, stored: Stored) -> None:
        kept = list(self._kept(held))
        given = {
            key: saved_part(stored, key, (len(cells), *numbers.shape[1:]), "float32") for key, numbers, cells in kept
        }
        if unknown := stored.keys() - given.keys():
            raise PowerInferError(f"a saved context has {min(unknown)}, which this model has not")
        for key, numbers, cells in kept:
            numbers[cells] = torch.from_numpy(given[key])

    def _kept(self, held: Held) -> Iterator[tuple[str, Tensor, Tensor]]:
        """The parts of the cache, [n_cells, n_head_kv, head_dim], by name, and which cells of them are held."""
        for index, (k, v) in enumerate(zip(self.cache.k, self.cache.v, strict=True)):
            cells = torch.from_numpy(held.of(self._layers[index].block.attention.window))
            if k.shape[1]:  # others keep none
                yield f"{index}.k", k, cells
                yield f"{index}.v", v, cells

    def _parted(self, batch: Batch, window: int | None) -> Parted:
        """For layers with such a window, or without one."""
        pages, parts = self.pages.of(window), []
        for s in batch.segments:
            begin = 0 if window is None else max(0, s.n_past - window + 1)
            cells = pages.cells(s.sequence, begin, s.n_past + s.n_tokens)
            parts.append((slice(s.begin, s.end), torch.from_numpy(cells)))
        return parts

    def _turn(self, rope: Rope, positions: Tensor, magnitude: float | None = None) -> Turn:
        """By how much heads at these positions are turned, and scaled: by the rope's magnitude, or by another."""
        angles = positions.double()[:, None] * self._frequencies[rope]  # [T, n_rot / 2]
        scale = rope.magnitude if magnitude is None else magnitude
        return partial(rotate, cos=(scale * angles.cos()).float(), sin=(scale * angles.sin()).float(), style=rope.style)

    @torch.inference_mode()
    def _logits(self, hidden: Tensor) -> Logits:
        """hidden [T, n_embd] -> [T, n_vocab]"""
        if self._head.output is None:
            raise ValueError("an encoder has no logits")
        products: Logits = multiply(self._head.output, self._normed(hidden)).numpy()
        return finish_logits(self._head, products)

    def packed_ends(self) -> dict[str, WeightRows]:
        return {}

    def use_threads(self, options: EngineOptions) -> None:
        self._threads, self._threads_batch = options.threads

    def experts(self) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
        return {}

    def close(self) -> None:
        pass  # its threads are torch's

    def _set_threads(self, n_tokens: int) -> None:
        wanted = self._threads if n_tokens == 1 else self._threads_batch
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)


def _embed(embedding: Embedding[Matrix, Tensor], ids: Tensor, positions: Tensor, given: Tensor | None) -> Tensor:
    """given: hidden states that come with the tokens."""
    x = embedding.scale * embedding.tokens.rows(ids)
    if embedding.positions is not None:
        x = x + embedding.positions.rows(positions + embedding.offset)
    if embedding.shift is not None:
        x = x + embedding.shift
    if embedding.norm is not None:
        x = normed(embedding.norm, x)
    fusion = embedding.fusion
    if fusion is None or given is None:
        return x
    hidden = normed(fusion.hidden_norm, given)
    return multiply(fusion.token, normed(fusion.token_norm, x)) + multiply(fusion.hidden, hidden)


def resident_bytes(model: Model) -> int:
    """Bytes of float32 copies of all matrices, if none were dequantised on use."""
    ends = {id(one): one for end in (model.embedding, model.head) for one in leaves(end)[0]}.values()
    inside = [tensor for layer in model.layers for tensor in leaves(layer)[0]]
    total: int = sum(tensor.n_elements for tensor in (*ends, *inside))
    return 4 * total


def _asked(threshold: float, activity: LayerActivity | None) -> PredictorQuery:
    if activity is None:
        return PredictorQuery(threshold)
    return PredictorQuery(threshold, torch.from_numpy(activity.undecided), torch.from_numpy(activity.always))


def _as_it_is(x: Tensor) -> Tensor:
    return x


def _show(watch: Watch, layer: int, residual: Tensor, values: Tensor) -> None:
    """The arrays are the tensors' memory."""
    watch(layer, residual.numpy(), values.numpy())


def _show_experts(watch: WatchRoutes, layer: int, chosen: Tensor) -> None:
    watch(layer, chosen.numpy())
