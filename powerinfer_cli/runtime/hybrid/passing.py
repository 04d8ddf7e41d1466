"""Pages of a KV cache in main memory that pass through a device, a few at a time, and are gone again.

While some are attended to, the next are on their way: two passages take turns.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from powerinfer_cli.kernels.cache import PAGE, KeysValues
from powerinfer_cli.kernels.device.cache import DeviceCache, cache_bytes
from powerinfer_cli.runtime.device.link import Link, make_stream
from powerinfer_cli.runtime.device.staging import Passage
from powerinfer_cli.runtime.device.widths import chunk_pages

__all__ = ["PassingPages"]

Numbers: TypeAlias = npt.NDArray[np.int32]
_PARTS = 4  # of a cache
_ALIGNED = 16  # bytes, where a part begins


class PassingPages:
    """Of the layers of one device."""

    def __init__(self, link: Link, caches: Mapping[int, KeysValues], n_pages: Mapping[int, int]) -> None:
        """By layer: what is in main memory of its cache, and how many pages that has with those on the device."""
        pages = {index: _page_bytes(cache) for index, cache in caches.items()}
        self._most = {index: chunk_pages(n_pages[index], size) for index, size in pages.items()}
        size = max(self._most[index] * size for index, size in pages.items()) + _PARTS * _ALIGNED
        self._passages = [Passage(link, size) for _ in range(2)]
        self._copies, self._turn, self._caches = make_stream(link.device), 0, caches

    def most(self, index: int) -> int:
        """Of a layer's pages, at a time."""
        return self._most[index]

    @contextmanager
    def on_device(self, index: int, pages: Numbers) -> Iterator[DeviceCache]:
        """Of a layer these pages, in this order, for what is launched within; those before may still be read."""
        cache, passage = self._caches[index], self._passages[self._turn]
        self._turn = 1 - self._turn
        host, end, shapes = passage.host().numpy(), 0, []
        for part in _parts(cache, pages):
            shapes.append((end, part))
            host[end : end + part.nbytes].view(part.dtype).reshape(part.shape)[...] = part
            end += -(-part.nbytes // _ALIGNED) * _ALIGNED
        passage.go(end, self._copies)
        there = passage.arrived()
        found = [_view(there[begin : begin + part.nbytes], part) for begin, part in shapes]
        yield _cache_of(cache, found, len(pages))
        passage.release()


def _page_bytes(cache: KeysValues) -> int:
    shape = cache.shape
    return cache_bytes(shape.n_head_kv, PAGE, shape.head_dim, cache.type_k, cache.type_v)


def _parts(cache: KeysValues, pages: Numbers) -> list[npt.NDArray[Any]]:
    """Keys, values and their scales of these pages, [heads, pages, ...] each; scales empty where there are none."""
    heads, dims = cache.shape.n_head_kv, cache.shape.head_dim

    def keys(part: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return part.reshape(heads, -1, PAGE // 16, *part.shape[2:])[:, pages] if part.size else part

    def values(part: npt.NDArray[Any], width: int) -> npt.NDArray[Any]:
        return part.reshape(heads, -1, PAGE, part.shape[2])[:, pages, :, :width] if part.size else part

    scales = cache.v_scales.shape[2]
    return [keys(cache.k), keys(cache.k_scales), values(cache.v, dims), values(cache.v_scales, scales)]


def _view(raw: Tensor, part: npt.NDArray[Any]) -> Tensor:
    return raw.view(torch.from_numpy(part[:0]).dtype).view(part.shape)


def _cache_of(cache: KeysValues, parts: list[Tensor], n: int) -> DeviceCache:
    """As a device has it, of n pages."""
    heads = cache.shape.n_head_kv
    k, k_scales = (one.transpose(-1, -2).reshape(heads, n * PAGE, -1) if one.numel() else None for one in parts[:2])
    v, v_scales = (one.view(heads, n * PAGE, -1) if one.numel() else None for one in parts[2:])
    assert k is not None
    assert v is not None
    return DeviceCache(cache.type_k, cache.type_v, k, k_scales, v, v_scales)
