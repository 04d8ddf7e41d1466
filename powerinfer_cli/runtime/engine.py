"""Engine: prefill and decode over one model and one KV cache."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import ModelConfig, Predictors, load_model
from powerinfer_cli.placement import ActivationStatistics, Plan
from powerinfer_cli.runtime.backend import Backend, Logits, Parts, Tap
from powerinfer_cli.runtime.cache_size import kv_bytes
from powerinfer_cli.runtime.memory import available_memory
from powerinfer_cli.runtime.options import EngineOptions, LoadEvents
from powerinfer_cli.runtime.stats import SparsityStats

__all__ = ["ContextFull", "Engine"]


class ContextFull(PowerInferError):
    """More tokens than the KV cache holds."""


class Engine:
    """Appends tokens to its context and tells the logits of what may come next."""

    def __init__(
        self,
        gguf: GGUFFile,
        options: EngineOptions,
        statistics: ActivationStatistics | None = None,
        events: LoadEvents | None = None,
        plan: Plan | None = None,
        *,
        predictors: Predictors | None = None,
    ) -> None:
        """Build the layers of a model, on the options' devices as a plan says; without one, in main memory.

        `predictors` make a dense model sparse, and replace those of a sparse one.

        Raises:
            PowerInferError: what `load_model` raises, or a context that does not fit.
        """
        self.config, weights = load_model(gguf, predictors)
        self.options = options
        self.stats = SparsityStats()
        self._plan = plan if plan is not None and plan.gpus else None
        packed = options.repack and not options.reference and self._plan is None
        n_ctx = context_size(self.config, options, sum(t.nbytes for t in gguf.tensors.values()) if packed else 0)
        parts = Parts(self.config, weights, options, self.stats, statistics, n_ctx, events or LoadEvents())
        try:
            self._backend = self._start(parts)
        except MemoryError as error:
            raise PowerInferError(
                f"no memory for the model with a context of {n_ctx} tokens and batches of {self._step}: "
                "choose a smaller -c or -ub"
            ) from error
        self._ids: list[int] = []

    def _start(self, parts: Parts) -> Backend:
        if self.options.reference:
            from powerinfer_cli.runtime.reference_backend import ReferenceBackend

            return ReferenceBackend(parts)
        if self._plan is not None:
            from powerinfer_cli.runtime.hybrid_backend import HybridBackend

            return HybridBackend(parts, self._plan, self.options.devices)
        from powerinfer_cli.runtime.cpu_backend import CPUBackend

        return CPUBackend(parts)

    @classmethod
    def load(
        cls,
        gguf: GGUFFile,
        options: EngineOptions | None = None,
        statistics: ActivationStatistics | None = None,
        events: LoadEvents | None = None,
        plan: Plan | None = None,
        *,
        predictors: Predictors | None = None,
    ) -> "Engine":
        return cls(gguf, options or EngineOptions(), statistics, events, plan, predictors=predictors)

    @property
    def n_ctx(self) -> int:
        return self._backend.n_ctx

    @property
    def n_past(self) -> int:
        """Tokens in the context so far."""
        return len(self._ids)

    @property
    def tokens(self) -> Sequence[int]:
        """The ids in the context so far."""
        return self._ids

    def prefill(self, ids: Sequence[int], on_batch: Callable[[int, int], None] | None = None) -> Logits:
        """Append ids, a batch at a time; the logits [n_vocab] that follow the last. `on_batch(done, all)` is progress.

        Raises:
            ContextFull: the context has no room for them (nothing was appended).
        """
        if not ids:
            raise ValueError("no tokens to evaluate")
        self._check(ids)
        step = self._step
        for start in range(0, len(ids), step):
            batch = ids[start : start + step]
            self._forward(batch)
            if on_batch:
                on_batch(start + len(batch), len(ids))
        return self._backend.last_logits()

    def decode(self, token: int) -> Logits:
        """Append one token; the logits [n_vocab] that follow it. Raises ContextFull."""
        self._check([token])
        self._forward([token])
        return self._backend.last_logits()

    def logits(self, ids: Sequence[int]) -> Logits:
        """Append ids; the logits after each of them, [len(ids), n_vocab]. Raises ContextFull."""
        self._check(ids)
        found = [np.empty((0, self.config.n_vocab), np.float32)]
        for start in range(0, len(ids), self._step):
            self._forward(ids[start : start + self._step])
            found.append(self._backend.all_logits())
        return np.concatenate(found)

    def record(self, ids: Sequence[int], tap: Tap) -> None:
        """Evaluate ids from an empty context, with every neuron computed, and show what passes through the layers.

        `tap(layer, residual, activations)` is called for each layer of each batch, layers in order: residual
        [T, n_embd] is what a predictor looks at; activations [T, n_ff] is what meets the down matrix: act(gate) * up,
        or act(up) where there is no gate. Both are float32, read-only, and valid during the call only. The context
        is empty before and after; `stats` counts nothing.

        Raises:
            ContextFull: the context has no room for them.
        """
        self.reset()
        self._check(ids)
        for start in range(0, len(ids), self._step):
            self._backend.record(ids[start : start + self._step], start, tap)

    def truncate(self, n: int) -> None:
        """Forget all but the first n tokens."""
        if not 0 <= n <= self.n_past:
            raise ValueError(f"cannot keep {n} of {self.n_past} tokens")
        del self._ids[n:]

    def reset(self) -> None:
        """Forget the whole context."""
        self.truncate(0)

    def shift(self, n_keep: int, n_discard: int) -> None:
        """Drop tokens [n_keep, n_keep + n_discard) and move the rest down to their place."""
        if n_keep < 0 or n_discard < 0 or n_keep + n_discard > self.n_past:
            raise ValueError(f"cannot drop {n_discard} tokens after {n_keep} of {self.n_past}")
        moved = self._ids[n_keep + n_discard :]
        if self._backend.shift(self.n_past, n_keep, n_discard):
            self._ids[n_keep:] = moved
            return
        self.truncate(n_keep)
        if moved:
            self.prefill(moved)

    def use_threads(self, n_threads: int | None = None, n_threads_batch: int | None = None) -> None:
        """Change how many threads compute, as EngineOptions counts them. Weights, context and results stay the same."""
        self.options = replace(self.options, n_threads=n_threads, n_threads_batch=n_threads_batch)
        self._backend.use_threads(self.options)

    @property
    def _step(self) -> int:
        return min(self.options.n_batch, self.options.n_ubatch)

    def _check(self, ids: Sequence[int]) -> None:
        bad = next((i for i in ids if not 0 <= i < self.config.n_vocab), None)
        if bad is not None:
            raise PowerInferError(f"token id {bad} is not in the vocabulary of {self.config.n_vocab}")
        if self.n_past + len(ids) > self.n_ctx:
            raise ContextFull(
                f"{self.n_past + len(ids)} tokens do not fit the context of {self.n_ctx}: "
                "shorten the prompt or give a larger -c"
            )

    def _forward(self, ids: Sequence[int]) -> None:
        self._backend.forward(ids, self.n_past)
        self._ids += ids


def context_size(config: ModelConfig, options: EngineOptions, weights: int) -> int:
    """Positions to keep: what was asked for, or the training context, or what fits half of the memory that so many
    bytes of weights leave.

    Raises:
        PowerInferError: more than memory holds, or than a model with learned positions knows.
    """
    free, wanted = available_memory(), options.n_ctx
    types = ("f32", "f32") if options.reference else (options.type_k, options.type_v)
    if wanted == 0:
        fitting = max(0, free - weights) // 2 // kv_bytes(config, 1, *types)
        return max(1, min(config.n_ctx_train, math.floor(fitting / 256) * 256 or fitting))
    if config.rope is None and wanted > config.n_ctx_train:
        raise PowerInferError(f"-c {wanted}: the model knows only {config.n_ctx_train} positions")
    needed = kv_bytes(config, wanted, *types)
    if needed > free:
        raise PowerInferError(
            f"-c {wanted}: the KV cache needs {needed / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB are free"
        )
    return wanted
