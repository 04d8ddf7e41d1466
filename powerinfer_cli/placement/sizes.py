"""How many bytes a model takes on a GPU, and which of them a plan puts where."""

from collections.abc import Set
from dataclasses import dataclass, replace
from enum import Enum, auto

from powerinfer_cli.placement.plan import MAIN_MEMORY, Plan

__all__ = ["DeviceUse", "LayerBytes", "ModelBytes", "RowReading", "cached", "device_use", "hot_bytes"]


class RowReading(Enum):
    """Which rows of a layer's neurons a token reads: all, from front to back; those of neurons that a predictor lets
    through; the first row of each, and the others of those that are active, as zeros are exact; or all of the experts
    that a router chooses.
    """

    ALL = auto()
    PREDICTED = auto()
    FIRST = auto()
    CHOSEN = auto()


@dataclass(frozen=True)
class LayerBytes:
    """One layer's bytes on a GPU.

    attention: with the norms. predictor: 0 without one; of a mixture, its router and its shared expert. kv: for the
    whole context. neuron: gate, up and down row of one neuron; of a mixture, one expert. neurons: how many the layer
    has of these. first: of `neuron`, what is read before it is known whether the neuron is active: gate, or up without
    one; all of it where zeros are not exact. divisible: neurons may lie apart. chosen: how many experts a token reads.
    shared: of `predictor`, the shared expert, which is computed where its layer is. n_pages: of the KV cache, each of
    `page` bytes; pages: how many of them are to lie on the GPU, None: all. spare: what a GPU needs besides that holds
    only some of them. windowed: the cache keeps what a window needs. state: of `kv`, what a recurrent layer keeps of a
    sequence; each of its tokens reads and writes it. reads: where in `ModelBytes.shared` the cache is
    that it reads, None: `kv` is; shared_kv, shared_page: as `kv` and `page`, of that one, which has n_pages as well.
    """

    attention: int
    predictor: int
    kv: int
    neuron: int
    neurons: int
    first: int = 0
    reading: RowReading = RowReading.PREDICTED
    divisible: bool = True
    chosen: int = 0
    shared: int = 0
    n_pages: int = 0
    page: int = 0
    spare: int = 0
    windowed: bool = False
    pages: int | None = None
    state: int = 0
    shared_kv: int = 0
    shared_page: int = 0
    reads: int | None = None

    @property
    def fixed(self) -> int:
        """What must lie on a GPU before its first neuron does."""
        return self.attention + self.predictor + self.cache(self.pages)

    def cache(self, pages: int | None) -> int:
        """What so many pages of the KV cache take on a GPU; None: all."""
        return self.kv if pages is None or pages >= self.n_pages else self.page * pages + self.spare

    def outside(self, pages: int | None) -> int:
        """What is left of its own KV cache to main memory."""
        return 0 if pages is None else self.page * max(0, self.n_pages - pages)

    def read_outside(self, pages: int | None) -> int:
        """What is left to main memory of the KV cache that it reads, its own or not."""
        return 0 if pages is None else (self.page + self.shared_page) * max(0, self.n_pages - pages)

    def seen(self, depth: float) -> float:
        """Bytes of the cache that a token reads, with so much of the context before it, 0 to 1; of a state, also those
        that it writes.
        """
        return 2.0 * self.state if self.state else depth * (self.kv + self.shared_kv)

    def expected_outside(self, pages: int | None) -> float:
        """Bytes of the KV cache that a token reads in main memory, where the first so many pages lie on a GPU: the
        mean over a context that fills.
        """
        whole = self.kv + self.shared_kv
        return self.read_outside(pages) ** 2 / (2 * whole) if whole else 0.0

    @property
    def least(self) -> int:
        """What a GPU must have room for that is to hold the layer."""
        return self.fixed if self.divisible else self.fixed + self.ffn

    @property
    def ffn(self) -> int:
        """All neurons."""
        return self.neuron * self.neurons


@dataclass(frozen=True)
class ModelBytes:
    """head: with the last norm. scratch: on each GPU in use, measured. joining: what else one needs that holds a layer
    whose KV cache has pages in main memory. shared: layers whose caches others read as well, with these caches, which
    are wherever one of those layers is.
    """

    layers: tuple[LayerBytes, ...]
    head: int
    scratch: int
    joining: int = 0
    shared: tuple[LayerBytes, ...] = ()

    def with_pages(self, pages: int | None, windowed: int | None = None) -> "ModelBytes":
        """With so many pages of each layer's KV cache on GPUs, and so many of those that keep what a window needs;
        None: all.
        """
        layers, shared = (
            tuple(replace(one, pages=windowed if one.windowed else pages) for one in those)
            for those in (self.layers, self.shared)
        )
        found = replace(self, layers=layers, shared=shared)
        if all(one.cache(one.pages) == one.kv for one in (*layers, *shared)):
            return found
        return replace(found, scratch=self.scratch + self.joining, joining=0)

    @property
    def on_each(self) -> int:
        """On each GPU in use: scratch, and the caches that layers there may read."""
        return self.scratch + sum(one.cache(one.pages) for one in self.shared)

    @property
    def total(self) -> int:
        """On one GPU that holds everything."""
        return sum(layer.fixed + layer.ffn for layer in self.layers) + self.head + self.on_each

    def shared_pages(self, plan: Plan) -> tuple[int | None, ...]:
        """How many pages of each shared cache a plan has on GPUs: the fewest of the layers there that read it."""
        found: list[int | None] = [None] * len(self.shared)
        for one, placed in zip(self.layers, plan.layers, strict=True):
            at, pages = one.reads, placed.pages
            if at is not None and pages is not None:
                before = found[at]
                found[at] = pages if before is None else min(before, pages)
        return tuple(found)


@dataclass(frozen=True)
class DeviceUse:
    """Bytes of a plan on one GPU, or in main memory, where scratch is not counted."""

    attention: int = 0
    predictor: int = 0
    head: int = 0
    kv: int = 0
    scratch: int = 0
    neurons: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.attention + self.predictor + self.head + self.kv + self.scratch + self.neurons


def hot_bytes(sizes: ModelBytes, plan: Plan) -> int:
    """Of all hot neurons, on all GPUs."""
    return sum(layer.neuron * count for layer, count in zip(sizes.layers, plan.hot_counts, strict=True))


def cached(sizes: ModelBytes, plan: Plan, gpus: Set[int]) -> tuple[int, int]:
    """Of the KV caches that layers on these GPUs read: bytes in main memory, and all bytes."""
    outside = whole = 0
    for one, placed in zip(sizes.layers, plan.layers, strict=True):
        if placed.device in gpus and not one.state:
            outside, whole = outside + one.outside(placed.pages), whole + one.kv
    for at, (one, pages) in enumerate(zip(sizes.shared, sizes.shared_pages(plan), strict=True)):
        if gpus & _readers(sizes, plan, at):
            outside, whole = outside + one.outside(pages), whole + one.kv
    return outside, whole


def _readers(sizes: ModelBytes, plan: Plan, at: int) -> set[int]:
    """The devices of the layers that read a shared cache."""
    pairs = zip(sizes.layers, plan.layers, strict=True)
    return {placed.device for one, placed in pairs if one.reads == at}


def device_use(sizes: ModelBytes, plan: Plan, device: int) -> DeviceUse:
    """What a plan puts on one GPU, or in MAIN_MEMORY, which also holds the neurons that are not hot."""
    pairs = list(zip(sizes.layers, plan.layers, strict=True))
    here = [layer for layer, placed in pairs if placed.device == device]
    if device == MAIN_MEMORY:
        neurons = sum(layer.neuron * (layer.neurons - placed.hot.size) for layer, placed in pairs)
        kv = sum(layer.kv for layer in here) + sum(layer.outside(placed.pages) for layer, placed in pairs)
    else:
        neurons = sum(layer.neuron * placed.hot.size for layer, placed in pairs if placed.device == device)
        kv = sum(layer.cache(placed.pages) for layer, placed in pairs if placed.device == device)
    for at, (one, pages) in enumerate(zip(sizes.shared, sizes.shared_pages(plan), strict=True)):
        if device in _readers(sizes, plan, at):
            kv += one.kv if device == MAIN_MEMORY else one.cache(pages)
        elif device == MAIN_MEMORY:
            kv += one.outside(pages)
    joining = sizes.joining if any(one.pages is not None for one in plan.layers if one.device == device) else 0
    return DeviceUse(
        attention=sum(layer.attention for layer in here),
        predictor=sum(layer.predictor for layer in here),
        head=sizes.head if plan.output == device else 0,
        kv=kv,
        scratch=sizes.scratch + joining if device in plan.gpus else 0,
        neurons=neurons,
    )
