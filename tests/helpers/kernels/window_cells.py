"""What layers with a window have to hold, and what they need not: a cache whose other cells are no numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from powerinfer_cli.kernels.cache import CacheType, KeysValues
from powerinfer_cli.kernels.device import DeviceCache
from powerinfer_cli.runtime import Engine

Caches = Iterator[tuple[int | None, Any]]


def poison(engine: Engine, back: int = 0) -> None:
    """Fill whatever no window can see any more with NaN, unless a sequence goes back by some tokens."""
    pages, lengths = engine._pages, [len(engine.tokens_of(i)) for i in range(engine.n_sequences)]
    windowed = pages.windowed
    assert windowed is not None
    kept = [windowed.cells(i, windowed.first(max(0, n - back)), n) for i, n in enumerate(lengths)]
    for window, cache in caches_of(engine._backend):
        if window is not None:
            gone = np.setdiff1d(np.arange(pages.extent.n_cells(window)), np.concatenate(kept))
            _fill(cache, gone)


def caches_of(backend: Any) -> Caches:
    """Each layer's window and cache, wherever it is."""
    if hasattr(backend, "_cpu"):
        yield from _packed(backend._cpu)
        for side in backend._sides.values():
            for index, cache in side.caches.items():
                yield side.layers[index].block.attention.window, cache
    elif hasattr(backend, "team"):
        yield from _packed(backend)
    else:
        for layer, *parts in zip(backend._layers, backend.cache.k, backend.cache.v, strict=True):
            yield layer.block.attention.window, tuple(parts)


def _packed(side: Any) -> Caches:
    for layer, cache in zip(side.weights.layers, side.cache.layers, strict=True):
        yield layer.block.attention.window, cache


def _fill(cache: Any, cells: np.ndarray) -> None:
    if isinstance(cache, KeysValues):
        blocks, lanes = np.divmod(cells, 16)
        (cache.k_scales if cache.type_k is CacheType.Q8_0 else cache.k)[:, blocks, :, lanes] = np.nan
        (cache.v_scales if cache.type_v is CacheType.Q8_0 else cache.v)[:, cells] = np.nan
        return
    where = torch.from_numpy(cells)
    if isinstance(cache, DeviceCache):
        for part in cache.parts.values():
            if part.is_floating_point():
                part[:, where] = torch.nan
        return
    for part in cache:
        part[where] = torch.nan
