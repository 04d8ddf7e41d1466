"""What may be done with each layer on a machine, and what that takes there."""

from dataclasses import dataclass

import numpy as np

from powerinfer_cli.placement import MAIN_MEMORY, LayerPlacement, no_neurons
from solver.machines.network import Machine
from solver.machines.problem import Options, Site
from solver.machines.texts import profile_for, work_for
from solver.placing.costs import CostOf, handover
from solver.placing.device_profile import DeviceProfile
from solver.placing.simulation import Work, before_ffn, layer_costs, layer_time

__all__ = ["MainBytes", "make_site"]

STEPS = 8  # into which a layer's experts or neurons are cut for a GPU
MARGIN = 1 / 32  # of a GPU's budget, which stays free

Triple = tuple[float, float, float]  # seconds, bytes of main memory and of GPUs


@dataclass(frozen=True)
class MainBytes:
    """What a rank has in main memory: of each layer its weights and its KV cache; of the last the head as well; and of
    any, `rank` besides. whole: layers from it on belong together.
    """

    weights: tuple[int, ...]
    cache: tuple[int, ...]
    head: int
    rank: int
    whole: int


def make_site(work: Work, main: MainBytes, machine: Machine, n_texts: int) -> Site:
    """A machine with a step of so many texts. work: of one. Its GPUs count as one, like its first."""
    profile, several = profile_for(machine.profile, work, n_texts), work_for(work, n_texts)
    used = [budget for budget in machine.vram if budget]
    room = sum(budget * (1 - MARGIN) - work.sizes.on_each for budget in used)
    options = _Options(several, main, profile, layer_costs(several, profile), room > 0)
    layers = [options.of(index) for index in range(len(main.weights))]
    layers[-1] = options.with_head(layers[-1])
    fixed = profile.cpu.token
    if room > 0:
        fixed += profile.gpu(0).token + handover(profile.link, work.n_embd)
    units = layers[: main.whole]
    if main.whole < len(layers):
        units.append(_together(layers[main.whole :]))
    made = tuple(Options(*np.array(one).T) for one in units)
    return Site(made, float(machine.memory - main.rank), max(0.0, room), fixed)


def _together(layers: list[list[Triple]]) -> list[Triple]:
    """All in main memory, or all on the GPU."""
    ends = {0, -1}
    return [tuple(np.sum([one[at] for one in layers], axis=0)) for at in sorted(ends, reverse=True)]


@dataclass(frozen=True)
class _Options:
    work: Work
    main: MainBytes
    profile: DeviceProfile
    cost_of: CostOf
    gpu: bool

    def of(self, index: int) -> list[Triple]:
        """In main memory; and where there is a GPU, there but for so many neurons or experts, and at last whole."""
        weights, cache = self.main.weights[index], self.main.cache[index]
        stay = LayerPlacement(MAIN_MEMORY, no_neurons())
        found = [(layer_time(index, stay, self.work, self.profile, self.cost_of).total, float(weights + cache), 0.0)]
        if not self.gpu:
            return found
        sizes, costs = self.work.sizes.layers[index], self.cost_of(index, 0)
        before = before_ffn(sizes, self.profile.gpu(0), self.work, self.profile)
        divided = sizes.divisible and not self.work.activity.dense
        parts = np.linspace(0, costs.n_ff, STEPS + 1).astype(np.int64)[1 if divided else -1 :]
        for count in np.unique(parts):
            cold = sizes.neuron * (costs.n_ff - int(count))
            left = weights * cold / (sizes.attention + sizes.predictor + sizes.ffn)
            seconds = before + float(costs.time(np.array([count]))[0])
            found.append((seconds, left, float(sizes.fixed + sizes.ffn - cold)))
        return found

    def with_head(self, layer: list[Triple]) -> list[Triple]:
        """The last layer's, with the head in main memory, or on the GPU where all of the layer is."""
        head = self.work.head_seconds(self.profile.cpu)
        found = [(seconds + head, main + self.main.head, gpu) for seconds, main, gpu in layer]
        if self.gpu:
            seconds, main, gpu = layer[-1]
            on = self.work.head_seconds(self.profile.gpu(0))
            found.append((seconds + on, main, gpu + self.work.sizes.head))
        return found
