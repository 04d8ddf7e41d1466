"""Engine: prefill and decode over one model and one KV cache."""

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.kernels.matrix import to_float32
from powerinfer_cli.kernels.reference import rope_frequencies, rope_magnitude, rotate
from powerinfer_cli.model import POSITION_OFFSET, ModelConfig, load_weights
from powerinfer_cli.placement import ActivationStatistics
from powerinfer_cli.runtime.build import Builder, resident_bytes
from powerinfer_cli.runtime.ffn import SparsityStats
from powerinfer_cli.runtime.kv_cache import KVCache, kv_bytes
from powerinfer_cli.runtime.memory import available_memory

__all__ = ["ContextFull", "Engine", "EngineOptions"]

Logits = npt.NDArray[np.float32]


class ContextFull(PowerInferError):
    """More tokens than the KV cache holds."""


@dataclass(frozen=True)
class EngineOptions:
    """How to run a model. n_ctx 0: the training context, or what fits half of the free memory; n_threads None: all.

    `resident`: keep float32 copies of the weights (True), dequantise on use (False), or decide by free memory (None).
    """

    n_ctx: int = 0
    n_batch: int = 512
    n_threads: int | None = None
    n_threads_batch: int | None = None
    resident: bool | None = None

    def __post_init__(self) -> None:
        """Raises UsageError: numbers that make no sense."""
        least = {"n_ctx": 0, "n_batch": 1, "n_threads": 1, "n_threads_batch": 1}
        for name, low in least.items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise UsageError(f"{name} is {value}, but must be at least {low}")


class Engine:
    """Appends tokens to its context and tells the logits of what may come next."""

    def __init__(self, gguf: GGUFFile, options: EngineOptions, statistics: ActivationStatistics | None = None) -> None:
        """Build the layers of a model.

        Raises:
            PowerInferError: what `ModelConfig.from_gguf` and `load_weights` raise, or a context that does not fit.
        """
        self.config = ModelConfig.from_gguf(gguf)
        self.options = options
        self.stats = SparsityStats()
        weights = load_weights(gguf, self.config)
        resident = options.resident
        if resident is None:
            resident = resident_bytes(weights) <= available_memory() // 2
        build = Builder(self.config, resident=resident)
        self._token_embd = build.matrix(weights.token_embd)
        self._position_embd = build.matrix(weights.position_embd) if weights.position_embd else None
        self._layers = [
            build.layer(layer, self.stats, statistics.activity(i) if statistics and self.config.sparse else None)
            for i, layer in enumerate(weights.layers)
        ]
        self._output_norm = build.norm(weights.output_norm)
        self._output = build.projection(weights.output)
        self._set_up_rope(to_float32(weights.rope_freqs) if weights.rope_freqs else None)
        self._cache = KVCache(self.config, context_size(self.config, options.n_ctx))
        self._ids: list[int] = []

    def _set_up_rope(self, divisors: Tensor | None) -> None:
        rope = self.config.rope
        self._frequencies = rope_frequencies(rope, divisors) if rope else None
        self._magnitude = rope_magnitude(rope) if rope else 1.0

    @classmethod
    def load(
        cls, gguf: GGUFFile, options: EngineOptions | None = None, statistics: ActivationStatistics | None = None
    ) -> "Engine":
        return cls(gguf, options or EngineOptions(), statistics)

    @property
    def n_ctx(self) -> int:
        return self._cache.n_ctx

    @property
    def n_past(self) -> int:
        """Tokens in the context so far."""
        return self._cache.n_past

    @property
    def tokens(self) -> Sequence[int]:
        """The ids in the context so far."""
        return self._ids

    def prefill(self, ids: Sequence[int], on_batch: Callable[[int, int], None] | None = None) -> Logits:
        """Append ids, n_batch at a time; the logits [n_vocab] that follow the last. `on_batch(done, all)` is progress.

        Raises:
            ContextFull: the context has no room for them (nothing was appended).
        """
        if not ids:
            raise ValueError("no tokens to evaluate")
        self._check(ids)
        hidden = torch.empty(0)
        for start in range(0, len(ids), self.options.n_batch):
            batch = ids[start : start + self.options.n_batch]
            hidden = self._forward(batch)
            if on_batch:
                on_batch(start + len(batch), len(ids))
        return self._last_logits(hidden)

    def decode(self, token: int) -> Logits:
        """Append one token; the logits [n_vocab] that follow it. Raises ContextFull."""
        self._check([token])
        return self._last_logits(self._forward([token]))

    def logits(self, ids: Sequence[int]) -> Logits:
        """Append ids; the logits after each of them, [len(ids), n_vocab]. Raises ContextFull."""
        self._check(ids)
        batches = range(0, len(ids), self.options.n_batch)
        none = np.empty((0, self.config.n_vocab), np.float32)
        return np.concatenate(
            [none, *(self._logits(self._forward(ids[i : i + self.options.n_batch])) for i in batches)]
        )

    def truncate(self, n: int) -> None:
        """Forget all but the first n tokens."""
        if not 0 <= n <= self.n_past:
            raise ValueError(f"cannot keep {n} of {self.n_past} tokens")
        self._cache.n_past = n
        del self._ids[n:]

    def reset(self) -> None:
        """Forget the whole context."""
        self.truncate(0)

    @torch.inference_mode()
    def shift(self, n_keep: int, n_discard: int) -> None:
        """Drop tokens [n_keep, n_keep + n_discard) and move the rest down to their place."""
        if n_keep < 0 or n_discard < 0 or n_keep + n_discard > self.n_past:
            raise ValueError(f"cannot drop {n_discard} tokens after {n_keep} of {self.n_past}")
        moved = self._ids[n_keep + n_discard :]
        rope = self.config.rope
        if rope is None or self._frequencies is None:
            # Learned positions are inside the keys: what moves is evaluated anew.
            self.truncate(n_keep)
            if moved:
                self.prefill(moved)
            return
        angle = -n_discard * self._frequencies
        cos, sin = angle.cos().float()[None], angle.sin().float()[None]
        self._cache.shift(n_keep, n_discard, partial(rotate, cos=cos, sin=sin, style=rope.style))
        self._ids[n_keep:] = moved

    def _check(self, ids: Sequence[int]) -> None:
        bad = next((i for i in ids if not 0 <= i < self.config.n_vocab), None)
        if bad is not None:
            raise PowerInferError(f"token id {bad} is not in the vocabulary of {self.config.n_vocab}")
        if self.n_past + len(ids) > self.n_ctx:
            raise ContextFull(
                f"{self.n_past + len(ids)} tokens do not fit the context of {self.n_ctx}: "
                "shorten the prompt or give a larger -c"
            )

    @torch.inference_mode()
    def _forward(self, ids: Sequence[int]) -> Tensor:
        """Evaluate one batch behind n_past -> the last layer's output [T, n_embd]."""
        self._use_threads(len(ids))
        positions = torch.arange(self.n_past, self.n_past + len(ids))
        x = self._token_embd.rows(torch.tensor(ids, dtype=torch.int64))
        if self._position_embd is not None:
            x = x + self._position_embd.rows(positions + POSITION_OFFSET)
        turn = self._turn(positions)
        for index, layer in enumerate(self._layers):
            x = layer.forward(x, turn, partial(self._cache.append, index))
        self._cache.n_past += len(ids)
        self._ids += ids
        return x

    def _turn(self, positions: Tensor) -> Callable[[Tensor], Tensor]:
        rope = self.config.rope
        if rope is None or self._frequencies is None:
            return lambda x: x
        angles = positions.double()[:, None] * self._frequencies  # [T, n_rot / 2]
        cos, sin = (self._magnitude * angles.cos()).float(), (self._magnitude * angles.sin()).float()
        return partial(rotate, cos=cos, sin=sin, style=rope.style)

    def _last_logits(self, hidden: Tensor) -> Logits:
        """hidden [T, n_embd] -> [n_vocab]"""
        last: Logits = self._logits(hidden[-1:])[0]
        return last

    @torch.inference_mode()
    def _logits(self, hidden: Tensor) -> Logits:
        """hidden [T, n_embd] -> [T, n_vocab]"""
        logits: Logits = self._output(self._output_norm(hidden)).numpy()
        return logits

    def _use_threads(self, n_tokens: int) -> None:
        options = self.options
        wanted = options.n_threads if n_tokens == 1 else options.n_threads_batch or options.n_threads
        wanted = wanted or _usable_cores()
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)


def _usable_cores() -> int:
    """How many cores this process may run on: fewer than the machine has where a container or `taskset` says so."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def context_size(config: ModelConfig, wanted: int) -> int:
    """Positions to keep: what was asked for, or the training context, or what fits half of the free memory.

    Raises:
        PowerInferError: more than memory holds, or than a model with learned positions knows.
    """
    free = available_memory()
    if wanted == 0:
        fitting = free // 2 // kv_bytes(config, 1)
        return max(1, min(config.n_ctx_train, math.floor(fitting / 256) * 256 or fitting))
    if config.rope is None and wanted > config.n_ctx_train:
        raise PowerInferError(f"-c {wanted}: the model knows only {config.n_ctx_train} positions")
    needed = kv_bytes(config, wanted)
    if needed > free:
        raise PowerInferError(
            f"-c {wanted}: the KV cache needs {needed / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB are free"
        )
    return wanted
