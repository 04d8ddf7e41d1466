"""What `--n-cpu-moe N` would give: all experts of the first N layers in main memory, all else on the GPU."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from powerinfer_cli.placement import (
    MAIN_MEMORY,
    LayerPlacement,
    ModelBytes,
    Plan,
    Reservation,
    RowReading,
    all_neurons,
    no_neurons,
)

__all__ = ["least_cpu_moe"]


def least_cpu_moe(
    sizes: ModelBytes, budgets: Sequence[int], reserve_whole: Callable[[ModelBytes], Reservation]
) -> tuple[int, Plan]:
    """The least N with which all the rest fits, and that plan; where none does, that of all layers with experts, of
    which some then stay in main memory as a whole. reserve_whole: where layers lie with all that they have.
    """
    routed = [i for i, layer in enumerate(sizes.layers) if layer.reading is RowReading.CHOSEN]
    for n in range(len(routed) + 1):
        layers = list(sizes.layers)
        for i in routed[:n]:
            layers[i] = replace(layers[i], neurons=0)
        found = reserve_whole(replace(sizes, layers=tuple(layers)))
        if MAIN_MEMORY not in (*found.devices, found.output):
            break
    placed = []
    for layer, device in zip(layers, found.devices, strict=True):
        hot = no_neurons() if device == MAIN_MEMORY else all_neurons(layer.neurons)
        placed.append(LayerPlacement(device, hot))
    return n, Plan(tuple(budgets), tuple(placed), found.output, "layers", "")
