"""How much memory a KV cache takes, and how many tokens it is for."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.kernels.cache import PAGE, CacheType, value_stride
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import Attention, Layer, Mixer, cache_owner
from powerinfer_cli.placement import MAIN_MEMORY, LayerPlacement
from powerinfer_cli.runtime.context.pages import Extent
from powerinfer_cli.runtime.context.states import state_bytes
from powerinfer_cli.runtime.options import EngineOptions
from powerinfer_cli.system.memory import available_memory

__all__ = ["context_size", "extent_of", "fitting_context", "kv_bytes", "overflow_bytes", "overflowing", "reads_whole"]

STEP = 256  # tokens: a context that is chosen is a multiple


def extent_of(layers: Sequence[Layer[Any, Any]], options: EngineOptions, n_ctx: int) -> Extent:
    """Of the cache of a model's layers for n_ctx tokens."""
    windows = [one for layer in layers if (one := layer.attention.window) is not None]
    window = None if options.swa_full else max(windows, default=None)
    most_tokens = min(options.n_batch, options.n_ubatch)
    return Extent(n_ctx, options.n_sequences, options.unified, window, most_tokens)


def overflowing(
    layers: Sequence[Layer[Any, Any]], placed: Mapping[int, LayerPlacement], extent: Extent
) -> dict[int, int]:
    """Of a model's layers, by number, those on devices that read a cache with pages in main memory: how many it has on
    the device. What several layers read is divided alike for all, by the fewest pages.
    """
    fewest: dict[int, int] = {}
    there = {i: cache_owner(layers, i) for i, where in placed.items() if where.device != MAIN_MEMORY}
    for index, owner in there.items():
        a, pages = layers[owner].attention, placed[index].pages
        if a.n_head_kv and pages is not None and pages < extent.n_cells(a.window) // PAGE:
            fewest[owner] = min(pages, fewest.get(owner, pages))
    return {index: fewest[owner] for index, owner in there.items() if owner in fewest}


def overflow_bytes(
    layers: Sequence[Layer[Any, Any]],
    placed: Sequence[LayerPlacement],
    extent: Extent,
    type_k: str = "f32",
    type_v: str = "f32",
) -> int:
    """Bytes in main memory of the caches of layers on devices, but of those that layers here read."""
    owners = [cache_owner(layers, i) for i in range(len(layers))]
    here = {owner for owner, where in zip(owners, placed, strict=True) if where.device == MAIN_MEMORY}
    pages = {owners[i]: n for i, n in overflowing(layers, dict(enumerate(placed)), extent).items()}
    cells = {i: extent.n_cells(layers[i].attention.window) - PAGE * n for i, n in pages.items() if i not in here}
    return sum(n * _position_bytes(layers[index], type_k, type_v) for index, n in cells.items())


def kv_bytes(layers: Sequence[Layer[Any, Any]], extent: Extent, type_k: str = "f32", type_v: str = "f32") -> int:
    """Bytes of these layers' cache, and of what recurrent ones keep of each sequence; encoders' layers share a room."""
    kept = [layer for layer in layers if not reads_whole(layer.attention)]
    cells = [extent.n_cells(layer.attention.window) for layer in kept]
    room = max((_position_bytes(layer, "f32", "f32") for layer in layers if reads_whole(layer.attention)), default=0)
    return (
        extent.n_sequences * state_bytes(layers)
        + extent.n_cells(None) * room
        + sum(n * _position_bytes(layer, type_k, type_v) for n, layer in zip(cells, kept, strict=True))
    )


def reads_whole(a: Mixer[Any, Any]) -> bool:
    """Whether texts are read whole, and nothing is kept of them."""
    return isinstance(a, Attention) and not a.causal


def fitting_context(layers: Sequence[Layer[Any, Any]], options: EngineOptions, most: int, n_bytes: int) -> int:
    """How many tokens, `most` at most, the cache has room for in n_bytes; but one for each sequence."""
    types = ("f32", "f32") if options.reference else (options.type_k, options.type_v)
    sizes = range(options.n_sequences, most + 1)
    count = bisect_right(sizes, n_bytes, key=lambda n: kv_bytes(layers, extent_of(layers, options, n), *types))
    fitting = max(options.n_sequences, sizes[count - 1] if count else 0)
    return fitting if fitting in (most, options.n_sequences) else fitting // STEP * STEP or fitting


def _position_bytes(layer: Layer[Any, Any], type_k: str, type_v: str) -> int:
    head_dim = layer.attention.head_dim
    dims = head_dim, value_stride(head_dim)
    per_head = sum(CacheType(kind).position_bytes(d) for kind, d in zip((type_k, type_v), dims, strict=True))
    return layer.attention.n_head_kv * per_head


def context_size(model: Model, options: EngineOptions, weights: int) -> int:
    """Tokens of all sequences together: what was asked for, or the training context, or what fits half of the memory
    that so many bytes of weights leave.

    Raises:
        PowerInferError: more than memory holds, or than a model with learned positions knows.
    """
    config, free, wanted = model.config, available_memory(), options.n_ctx
    types = ("f32", "f32") if options.reference else (options.type_k, options.type_v)
    if wanted == 0:
        return fitting_context(model.layers, options, config.n_ctx_train, max(0, free - weights) // 2)
    asked = f"a context of {wanted} tokens (-c, n_ctx)"
    if wanted < options.n_sequences:
        raise PowerInferError(f"{asked}: too few tokens for {options.n_sequences} sequences (-np)")
    longest = wanted if options.unified else wanted // options.n_sequences
    if config.learned_positions and longest > config.n_ctx_train:
        raise PowerInferError(f"{asked}: the model knows only {config.n_ctx_train} positions")
    needed = kv_bytes(model.layers, extent_of(model.layers, options, wanted), *types)
    if needed > free:
        raise PowerInferError(
            f"{asked}: the KV cache needs {needed / 2**30:.1f} GiB, but only {free / 2**30:.1f} GiB are free"
        )
    return wanted
