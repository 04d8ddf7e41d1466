"""The cold tiers of all divided layers, and what passes between them and the devices."""

import numpy as np
import numpy.typing as npt
import torch

from powerinfer_cli.kernels.few import FEW
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.runtime.batch import Batch, BatchKind
from powerinfer_cli.runtime.device.flow import DeviceFlow
from powerinfer_cli.runtime.device.side import DeviceSide
from powerinfer_cli.runtime.hybrid.adaptive import Adaptive
from powerinfer_cli.runtime.hybrid.cold_experts import ColdExperts, ExpertSizes, make_chosen_buffers, workspace_for
from powerinfer_cli.runtime.hybrid.cold_tier import ColdTier, make_cold_buffers
from powerinfer_cli.runtime.hybrid.cpu_runs import CPURuns
from powerinfer_cli.runtime.stats import SparsityStats

__all__ = ["ColdSide"]

Sides = dict[int, DeviceSide]


class ColdSide:
    """counts [n_layer, FEW, 2]: neurons let through, and fired, are added to it: of each of a few tokens in its place,
    of many all in the first.
    """

    def __init__(
        self, cpu: CPURuns, sides: Sides, model: Model, stats: SparsityStats, adaptive: Adaptive | None
    ) -> None:
        """sides: the device of each divided layer, by its number."""
        self._cpu, self._sides, self._stats, self._adaptive = cpu, sides, stats, adaptive
        self._n_embd = model.config.n_embd
        self.counts = np.zeros((model.config.n_layer, FEW, 2), np.int64)
        cold, n_tokens = cpu.weights.cold, len(cpu.many.ids)
        most = max((len(layer.numbers) for layer in cold if layer and not layer.routed), default=0)
        host = next(iter(sides.values())).link.host
        self._buffers = make_cold_buffers(host, n_tokens, cpu.most_few, self._n_embd, most)
        self._sizes = {
            index: ExpertSizes.of(model.layers[index].ffn) for index, layer in enumerate(cold) if layer and layer.routed
        }
        self._chosen = make_chosen_buffers(host, self._buffers, list(self._sizes.values()))
        told = [] if adaptive is None else [adaptive.neurons_of(index) for index in range(len(cold))]
        groups = max((slots.n_groups for slots in told if slots is not None), default=0)
        self._uses = host(n_tokens * groups, dtype=torch.int16)
        self._last: dict[int, tuple[int, ...]] = {}  # experts that the last token chose, by layer
        self.make()

    def make(self) -> None:
        """The tiers, for as many threads as there are."""
        self.tiers: dict[int, ColdTier | ColdExperts] = {}
        cpu, workspace = self._cpu, None
        if self._sizes:
            n_tokens, scratch = len(cpu.many.ids), cpu.room.products.scratch
            workspace = workspace_for(n_tokens, self._n_embd, list(self._sizes.values()), scratch)
        for index, layer in enumerate(cpu.weights.cold):
            if layer is not None and layer.routed:
                assert self._chosen is not None  # made for such layers
                assert workspace is not None
                shared = self._buffers, self._chosen, workspace, cpu.room.panels, cpu.team, cpu.threads
                self.tiers[index] = ColdExperts(layer, self._sizes[index], *shared)
            elif layer is not None:
                asked = self._sides[index].layers[index].modes is not None
                numbers = None if layer.alone else layer.numbers
                where = self._buffers, cpu.room, cpu.team, self.counts[index]
                self.tiers[index] = ColdTier(layer.neurons, numbers, *where, asked=asked, few=cpu.most_few)
        cpu.prepare(kernel for tier in self.tiers.values() for kernel in tier.kernels)

    def begin(self, batch: Batch) -> None:
        """A pass begins."""
        self._batch = batch

    def send(self, flow: DeviceFlow, index: int, n: int) -> None:
        """From the device: the FFN's input, and who of its neurons counts, or which experts are chosen."""
        side = self._sides[index]
        layer = side.layers[index]
        seen = flow.ffn.experts_of(layer).seen[:n]
        side.link.copy(self._buffers.normed_of(seen.shape), seen)
        routed = routing_of(layer.block.ffn.selection)
        if routed is not None and self._chosen is not None:
            found, count = flow.ffn.chosen(routed), routed.router.n_chosen
            side.link.copy(self._chosen.experts_of(n, count), found.experts[:n])
            side.link.copy(self._chosen.weights_of(n, count), found.weights[:n])
        if layer.modes is not None:
            mask = self._buffers.mask[: n * layer.n_cold].view(n, layer.n_cold)
            side.link.copy(mask, flow.ffn.mask[:n, layer.n_hot : layer.n_hot + layer.n_cold].contiguous())
        self.send_uses(flow, index, n)

    def send_uses(self, flow: DeviceFlow, index: int, n: int) -> None:
        """Where groups of neurons are placed by use: how many of each group are let through."""
        slots = None if self._adaptive is None else self._adaptive.neurons_of(index)
        if slots is not None:
            self._sides[index].link.copy(self._uses_of(n, slots.n_groups), slots.counts(flow.ffn.mask[:n]))

    def send_choice(self, flow: DeviceFlow, index: int, n: int) -> bool:
        """From the device, where all else stays there: what has to be known here. False: nothing."""
        routed = routing_of(self._sides[index].layers[index].block.ffn.selection)
        if routed is None:
            self.send_uses(flow, index, n)
            return self._adaptive is not None and self._adaptive.neurons_of(index) is not None
        assert self._chosen is not None
        self._sides[index].link.copy(
            self._chosen.experts_of(n, routed.router.n_chosen), flow.ffn.chosen(routed).experts[:n]
        )
        return True

    def chosen_of(self, index: int, n: int) -> npt.NDArray[np.int64]:
        """The experts that were sent, [T, n_chosen]."""
        assert self._chosen is not None
        found: npt.NDArray[np.int64] = self._chosen.experts_of(n, self._sizes[index].n_chosen).numpy()
        return found

    def numbers(self, index: int) -> npt.NDArray[np.int32]:
        """A layer's cold neurons, in the mask's order, or experts."""
        cold = self._cpu.weights.cold[index]
        assert cold is not None
        return cold.numbers

    def note(self, index: int, n: int) -> None:
        """What was sent has come: count who was chosen, and who of them is hot."""
        if index in self._sizes:
            chosen = self.chosen_of(index, n).copy()
            tier = self.tiers[index]
            assert isinstance(tier, ColdExperts)
            if self._batch.stepwise:
                hot = [tier.n_hot(one) for one in chosen]  # as the tier is now
                self._stats.trials.count(self._batch, lambda t: self._count(index, chosen[t : t + 1], hot[t]))
            else:
                self._count(index, chosen, tier.n_hot(chosen))
            if self._adaptive is not None:
                self._adaptive.note_experts(index, chosen)
        elif self._adaptive is not None and (slots := self._adaptive.neurons_of(index)) is not None:
            self._adaptive.note_neurons(index, self._uses_of(n, slots.n_groups).numpy())

    def _count(self, index: int, chosen: npt.NDArray[np.int64], hot: int) -> None:
        self._stats.add_routed(index, chosen.size, hot)
        self._last[index] = tuple(chosen[-1].tolist())

    def run(self, index: int, n: int, kind: BatchKind) -> None:
        """The partial sums of what has come."""
        self.note(index, n)
        self.tiers[index].run(n, self._cpu.threads_for(kind), kind)

    def receive(self, flow: DeviceFlow, index: int, n: int) -> None:
        """To the device: the partial sums."""
        cold = flow.ffn.experts_of(self._sides[index].layers[index]).cold[:n]
        self._sides[index].link.copy(cold, self._buffers.result[: cold.numel()].view(cold.shape))

    def experts(self) -> dict[int, tuple[tuple[int, ...], tuple[int, ...]]]:
        """By layer with cold experts: the hot ones now, and those that the last token chose."""
        found = {}
        for index, sizes in self._sizes.items():
            hot = np.setdiff1d(np.arange(sizes.n_experts), self.numbers(index))
            found[index] = tuple(hot.tolist()), self._last.get(index, ())
        return found

    def _uses_of(self, n: int, n_groups: int) -> torch.Tensor:
        return self._uses[: n * n_groups].view(n, n_groups)
