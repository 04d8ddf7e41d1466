"""How many pages of the KV cache GPUs get: all, or fewer, so that layers are there that had no room beside them."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace

from powerinfer_cli.placement import (
    MAIN_MEMORY,
    LayerBytes,
    LayerPlacement,
    ModelBytes,
    Plan,
    Reservation,
    cached,
    device_use,
    shown_bytes,
)

__all__ = ["overflow_line", "with_fitting_pages", "with_room_for_pages"]

TRIES = 256
WAIT = 1 << 20  # bytes that the CPU might read while a layer waits for its part of attention


def with_fitting_pages(
    sizes: ModelBytes,
    reserve: Callable[[ModelBytes], Reservation],
    *,
    whole: bool,
    cold: Callable[[Reservation], float] | None = None,
) -> ModelBytes:
    """The sizes with as many pages as make the CPU read least, by the mean over a context that fills; all where they
    fit. Layers with a window keep theirs. whole: layers in main memory are there with all their neurons. cold: what is
    read of neurons or experts that have no room on GPUs, so that a page is weighed against them; None: they do not
    count.
    """

    def read(pages: int | None) -> float:
        tried = sizes.with_pages(pages)
        room = reserve(tried)
        total = (float(sizes.head) if room.output == MAIN_MEMORY else 0.0) + (cold(room) if cold else 0.0)
        for layer, device in zip(tried.layers, room.devices, strict=True):
            if device == MAIN_MEMORY:
                total += layer.attention + layer.predictor + layer.seen(1 / 2)
                total += layer.ffn if whole or not layer.divisible else 0
            elif outside := layer.read_outside(layer.pages):
                total += layer.expected_outside(layer.pages) + WAIT * outside / (layer.kv + layer.shared_kv)
        return total

    if read(None) < 1:  # a rounding of what nobody reads
        return sizes
    most = max((one.n_pages for one in sizes.layers if not one.windowed), default=0)
    tries = [None, *range(most - 1, 0, -max(1, most // TRIES)), 0]
    return sizes.with_pages(min(tries, key=read))


def with_room_for_pages(sizes: ModelBytes, plan: Plan, margin: int) -> Plan:
    """The plan with more pages on each GPU, as many more of each layer there, as far as it leaves room: pages are
    fitted before it is known which layers are there, and how much of them. margin: bytes that stay free.
    """
    layers = list(plan.layers)
    for gpu in plan.gpus:
        here = {
            i: (size, placed.pages)
            for i, (size, placed) in enumerate(zip(sizes.layers, layers, strict=True))
            if placed.device == gpu and placed.pages is not None and size.read_outside(placed.pages)
        }
        read = {size.reads for size, _ in here.values()}
        shared = [
            pair for at, pair in enumerate(zip(sizes.shared, sizes.shared_pages(plan), strict=True)) if at in read
        ]
        caches = [*here.values(), *((size, pages) for size, pages in shared if pages is not None)]

        def taken(more: int, caches: Sequence[tuple[LayerBytes, int]] = caches) -> int:
            return sum(size.cache(pages + more) - size.cache(pages) for size, pages in caches)

        left = plan.budgets[gpu] - margin - device_use(sizes, plan, gpu).total
        most = max((size.n_pages - pages for size, pages in here.values()), default=0)
        more = bisect_right(range(1, most + 1), left, key=taken)
        for i, (size, pages) in here.items():
            layers[i] = replace(layers[i], pages=min(size.n_pages, pages + more))
    found = replace(plan, layers=tuple(layers))
    fewest = sizes.shared_pages(found)
    return replace(
        found, layers=tuple(_alike(size, one, fewest) for size, one in zip(sizes.layers, layers, strict=True))
    )


def _alike(size: LayerBytes, placed: LayerPlacement, shared: Sequence[int | None]) -> LayerPlacement:
    """With as many pages as other layers on GPUs have that read the same cache."""
    if size.reads is None or placed.device == MAIN_MEMORY:
        return placed
    return replace(placed, pages=shared[size.reads])


def overflow_line(sizes: ModelBytes, plan: Plan) -> str | None:
    """For people: how much of the KV cache of the layers on GPUs is not there."""
    outside, whole = cached(sizes, plan, set(plan.gpus))
    if not outside:
        return None
    return (
        f"{shown_bytes(outside)} of {shown_bytes(whole)} of the KV cache of layers on the GPU stay in main memory: "
        "the CPU attends to what lies there"
    )
