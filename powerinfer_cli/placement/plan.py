"""The placement plan: for every layer its device, and which neurons, or experts, of its FFN are hot."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from powerinfer_cli.placement.heat_rule import HeatRule

__all__ = [
    "MAIN_MEMORY",
    "SOLVERS",
    "LayerPlacement",
    "Neurons",
    "Placement",
    "Plan",
    "all_neurons",
    "group_begins",
    "group_rows",
    "main_memory_plan",
    "no_neurons",
    "ordered",
]

MAIN_MEMORY = -1
SOLVERS = ("milp", "greedy", "frequency", "layers")

Neurons = npt.NDArray[np.int32]


def all_neurons(n_ff: int) -> Neurons:
    """Every neuron of a layer, [n_ff]."""
    return np.arange(n_ff, dtype=np.int32)


def no_neurons() -> Neurons:
    """None, [0]."""
    return np.empty(0, np.int32)


def cold_neurons(hot: Neurons, n_ff: int) -> Neurons:
    """Those of a layer that are not hot, ascending."""
    return np.setdiff1d(all_neurons(n_ff), hot, assume_unique=True)


def ordered(hot: Neurons, n_groups: int, uses: npt.NDArray[np.float64] | None) -> tuple[Neurons, Neurons]:
    """A layer's hot groups, and its cold ones, those that are used most first; ascending where that is not known."""
    cold = cold_neurons(hot, n_groups)
    if uses is None:
        return hot, cold
    return hot[np.argsort(-uses[hot], kind="stable")], cold[np.argsort(-uses[cold], kind="stable")]


def group_begins(n_hot: int, n_cold: int, size: int) -> tuple[range, range]:
    """Of neurons in an order that has the hot ones first, where groups of `size` of the hot ones begin, and of the cold
    ones. Those that fill no group are in none.
    """
    hot, cold = n_hot // size, n_cold // size
    return range(0, hot * size, size), range(n_hot, n_hot + cold * size, size)


def group_rows(groups: Neurons, n_groups: int, n_rows: int) -> Neurons:
    """Which of a matrix's rows belong to some of the n_groups, neurons or experts, that it has as many of each of."""
    size = n_rows // n_groups
    return (groups[:, None] * size + np.arange(size)).reshape(-1).astype(np.int32)


@dataclass(frozen=True, eq=False)
class LayerPlacement:
    """Where a layer lies.

    device: the GPU, counted from 0, of its attention, norms, predictor or router, shared expert and KV cache; or
    MAIN_MEMORY. hot: [hot count] ascending; the neurons, or, of a mixture, the experts, whose rows lie on that GPU, all
    others in main memory. Empty where the device is MAIN_MEMORY. pages: how many of the KV cache's pages lie there, the
    first by number, all others in main memory; None: all.
    Raises ValueError: anything else.
    """

    device: int
    hot: Neurons
    pages: int | None = None

    def __post_init__(self) -> None:
        if self.device < MAIN_MEMORY:
            raise ValueError(f"there is no device {self.device}")
        if self.hot.ndim != 1 or self.hot.dtype != np.int32:
            raise ValueError(f"hot neurons are {self.hot.dtype}{list(self.hot.shape)}, but must be a vector of int32")
        if self.hot.size and (self.hot[0] < 0 or (np.diff(self.hot) <= 0).any()):
            raise ValueError("hot neurons must be ascending numbers from 0, none of them twice")
        if self.device == MAIN_MEMORY and self.hot.size:
            raise ValueError("a layer in main memory has no hot neurons")
        if self.pages is not None and (self.pages < 0 or self.device == MAIN_MEMORY):
            raise ValueError(f"layer's cache has {self.pages} pages on device {self.device}")


@dataclass(frozen=True, eq=False)
class Plan:
    """Where a model lies.

    budgets: bytes by GPU. output: the GPU of the last norm and the head, or MAIN_MEMORY; the token embedding is always
    in main memory. solver: what chose the hot neurons, one of SOLVERS; "frequency" is the original PowerInfer's
    objective, "layers" whole layers as `-ngl` counts them. fingerprint: of the model it was made for.
    Raises ValueError: a negative budget, a device without one, an unknown solver, no layer.
    """

    budgets: tuple[int, ...]
    layers: tuple[LayerPlacement, ...]
    output: int
    solver: str
    fingerprint: str

    def __post_init__(self) -> None:
        if any(budget < 0 for budget in self.budgets):
            raise ValueError("a budget is negative")
        if not self.layers:
            raise ValueError("a plan has at least one layer")
        if self.solver not in SOLVERS:
            raise ValueError(f"there is no solver {self.solver[:60]!r}")
        devices = [layer.device for layer in self.layers] + [self.output]
        if min(devices) < MAIN_MEMORY or max(devices) >= len(self.budgets):
            raise ValueError(f"a device is none of the {len(self.budgets)} that have a budget")

    @property
    def gpus(self) -> tuple[int, ...]:
        """The GPUs that hold anything, ascending."""
        used = {layer.device for layer in self.layers} | {self.output}
        return tuple(sorted(used - {MAIN_MEMORY}))

    @property
    def hot_counts(self) -> tuple[int, ...]:
        """Hot neurons, or experts, by layer."""
        return tuple(layer.hot.size for layer in self.layers)

    def check(self, n_groups: Sequence[int]) -> None:
        """Raises ValueError: the plan is for a model of other sizes than these, each layer's neurons or experts."""
        if len(self.layers) != len(n_groups):
            raise ValueError(f"it places {len(self.layers)} layers, but the model has {len(n_groups)}")
        for index, (layer, count) in enumerate(zip(self.layers, n_groups, strict=True)):
            if layer.hot.size and layer.hot[-1] >= count:
                raise ValueError(f"it places neuron or expert {layer.hot[-1]} of layer {index}, which has only {count}")


@dataclass(frozen=True, eq=False)
class Placement:
    """What placing a model on this machine found: a plan for GPUs, and what these are.

    devices: the plan's GPUs, as torch names them ("cuda:0"); or "cpu", where the GPU's part is rehearsed. n_ctx: tokens
    of context that the plan has room for; None: as many as are asked for. stream_from: batches of so many tokens or
    more have the cold neurons pass through the GPU (None: none have). adaptive: by which rule what is hot changes while
    the model runs (None: it stays as planned).
    """

    plan: Plan
    devices: tuple[str, ...]
    n_ctx: int | None = None
    stream_from: int | None = None
    adaptive: HeatRule | None = None

    @property
    def used(self) -> tuple[str, ...]:
        """The devices that hold something."""
        return tuple(self.devices[gpu] for gpu in self.plan.gpus)


def main_memory_plan(n_layer: int, fingerprint: str = "", budgets: tuple[int, ...] = ()) -> Plan:
    """Everything in main memory: no GPU, or a budget of 0."""
    layers = tuple(LayerPlacement(MAIN_MEMORY, no_neurons()) for _ in range(n_layer))
    return Plan(budgets, layers, MAIN_MEMORY, "layers", fingerprint)
