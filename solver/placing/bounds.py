"""What no plan goes below, whichever layers it puts on GPUs."""

from collections.abc import Mapping

import numpy as np

from powerinfer_cli.placement import MAIN_MEMORY, LayerPlacement, all_neurons, main_memory_plan, no_neurons
from solver.placing.costs import CostOf, Counts, Floats, handover
from solver.placing.device_profile import DeviceProfile, Processor
from solver.placing.problem import priced_bound
from solver.placing.simulation import Work, before_ffn, layer_time, simulate

__all__ = ["least_seconds"]


def least_seconds(
    work: Work,
    profile: DeviceProfile,
    cost_of: CostOf,
    rooms: Mapping[int, int],
    settled: Mapping[int, int],
    *,
    first: int,
    whole: bool,
) -> float:
    """Seconds for a token, by linear relaxation over every layer's choice: main memory, or a GPU with any hot neurons.

    rooms: bytes by GPU for layers and the head, the GPUs' taken together. settled: layers that lie on a GPU with all
    their neurons whatever that costs, and the GPU of each; they and their GPUs are not in `rooms`. Of layers before
    `first` all is in main memory. whole: a layer goes to a GPU with all its neurons or not at all.
    """
    everything_in_main = simulate(main_memory_plan(len(work.sizes.layers)), work, profile, cost_of).seconds
    gpus = [profile.gpu(gpu) for gpu in (*rooms, *settled.values())]
    if not gpus:
        return everything_in_main
    open_gpus = _different(profile, rooms)
    fixed = sum(
        layer_time(i, LayerPlacement(gpu, all_neurons(work.sizes.layers[i].neurons)), work, profile, cost_of).total
        for i, gpu in settled.items()
    )
    choices = [
        _choices(index, work, profile, cost_of, open_gpus if index >= first else {}, whole=whole)
        for index in range(len(work.sizes.layers))
        if index not in settled
    ]
    head = [work.head_seconds(on) for on in (profile.cpu, *gpus)]
    if settled:  # it may lie on a GPU whose room is not counted here
        fixed += min(head)
    else:
        choices.append((np.array([head[0], min(head[1:])]), np.array([0.0, float(work.sizes.head)])))
    entry = handover(profile.link, work.n_embd) / 2 + profile.cpu.token + min(gpu.token for gpu in gpus)
    times, sizes = [time for time, _ in choices], [size for _, size in choices]
    found = fixed + entry + priced_bound(times, sizes, sum(rooms.values()))
    return found if settled else min(found, everything_in_main)


def _different(profile: DeviceProfile, rooms: Mapping[int, int]) -> dict[int, Processor]:
    """One GPU of each kind."""
    found: dict[int, Processor] = {}
    for gpu in rooms:
        if profile.gpu(gpu) not in found.values():
            found[gpu] = profile.gpu(gpu)
    return found


def _choices(
    index: int, work: Work, profile: DeviceProfile, cost_of: CostOf, gpus: Mapping[int, Processor], *, whole: bool
) -> tuple[Floats, Floats]:
    """A layer's seconds, and the bytes that they take: in main memory, then on each GPU."""
    layer = work.sizes.layers[index]
    times: list[Floats] = [
        np.array([layer_time(index, LayerPlacement(MAIN_MEMORY, no_neurons()), work, profile, cost_of).total])
    ]
    sizes: list[Floats] = [np.zeros(1)]
    for gpu, on in gpus.items():
        costs = cost_of(index, gpu)
        counts: Counts = np.array([costs.n_ff]) if whole or not layer.divisible else np.arange(costs.n_ff + 1)
        times.append(before_ffn(layer, on, work, profile) + costs.time(counts))
        sizes.append(layer.fixed + counts.astype(np.float64) * layer.neuron)
    return np.concatenate(times), np.concatenate(sizes)
