"""The cold tier of a mixture: what the chosen experts in main memory make of a layer's normed input, on the CPU."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from torch import Tensor

from powerinfer_cli.kernels.cpu.experts.asking import ask_for_experts
from powerinfer_cli.kernels.cpu.experts.batch import ExpertWorkspace, experts_batch, make_expert_workspace
from powerinfer_cli.kernels.cpu.experts.routing import Routes, make_routes, most_tiles, sort_pairs
from powerinfer_cli.kernels.cpu.experts.token import ExpertRoom, experts_token
from powerinfer_cli.kernels.cpu.norm import quantise
from powerinfer_cli.kernels.cpu.vectors import N_TOKENS, Vectors, make_records, make_vectors
from powerinfer_cli.kernels.jit import Kernel
from powerinfer_cli.kernels.jit.program import CompiledProgram, Operation, assemble
from powerinfer_cli.kernels.jit.team import Team
from powerinfer_cli.model.blocks import FFN, routing_of
from powerinfer_cli.runtime.batch import BatchKind
from powerinfer_cli.runtime.cpu.weights import ColdNeurons
from powerinfer_cli.runtime.hybrid.cold_tier import ColdBuffers

__all__ = ["ChosenBuffers", "ColdExperts", "ExpertSizes", "make_chosen_buffers", "workspace_for"]

Host: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True)
class ExpertSizes:
    """Of a layer: how many experts it has, how many are chosen, and neurons of each; width: numbers of what an expert
    reads and makes. on_input: see `Router`.
    """

    n_experts: int
    n_chosen: int
    ff: int
    width: int
    on_input: bool

    @classmethod
    def of(cls, ffn: FFN[Any, Any]) -> "ExpertSizes":
        """Of an FFN that has a router."""
        routed = routing_of(ffn.selection)
        assert routed is not None  # who asks has looked
        router, ff = routed.router, ffn.neurons.n_ff // routed.n_experts
        width = ffn.neurons.down.weight.shape[0] // routed.n_experts
        return cls(routed.n_experts, router.n_chosen, ff, width, router.on_input)


@dataclass(frozen=True, eq=False)
class _Room:
    """For up to so many tokens; layers share it. x: what they read."""

    x: Vectors
    routes: Routes
    experts: ExpertRoom


@dataclass(frozen=True, eq=False)
class ChosenBuffers:
    """What a device tells of chosen experts: int64 and float32 [tokens * most chosen], of T tokens [T, n_chosen]. And
    the room that experts of these sizes need, for one token and for many.
    """

    chosen: Tensor
    weights: Tensor
    one: dict[ExpertSizes, _Room]
    many: dict[ExpertSizes, _Room]

    def experts_of(self, n_tokens: int, n_chosen: int) -> Tensor:
        """[T, n_chosen]"""
        return self.chosen[: n_tokens * n_chosen].view(n_tokens, n_chosen)

    def weights_of(self, n_tokens: int, n_chosen: int) -> Tensor:
        """[T, n_chosen]"""
        return self.weights[: n_tokens * n_chosen].view(n_tokens, n_chosen)


def make_chosen_buffers(host: Host, buffers: ColdBuffers, sizes: Sequence[ExpertSizes]) -> ChosenBuffers | None:
    """`host` makes tensors that a device reaches; `buffers` may hold what is read. None: no layer has cold experts."""
    import torch

    if not sizes:
        return None
    most = len(buffers.many.floats) * max(one.n_chosen for one in sizes)
    return ChosenBuffers(
        host(most, dtype=torch.int64),
        host(most),
        {one: _room(buffers.one, one) for one in set(sizes)},
        {one: _room(buffers.many, one) for one in set(sizes)},
    )


def workspace_for(
    n_tokens: int, n_embd: int, sizes: Sequence[ExpertSizes], scratch: npt.NDArray[np.uint8]
) -> ExpertWorkspace:
    """scratch: of products, by so many threads as there are."""
    tiles = max(most_tiles(n_tokens, one.n_experts, one.n_chosen) for one in sizes)
    return make_expert_workspace(tiles, max(n_embd, *(one.ff for one in sizes)), scratch)


def _room(x: Vectors, sizes: ExpertSizes) -> _Room:
    """x: of as many tokens; what is read lies there, unless it has other sizes."""
    n_tokens = len(x.floats)
    pairs = n_tokens * sizes.n_chosen
    gate, up = (make_vectors(pairs, sizes.ff, records=False) for _ in range(2))
    value = replace(up, records=make_records(pairs, sizes.ff))
    seen = x if x.n == sizes.width else make_vectors(n_tokens, sizes.width)
    return _Room(seen, make_routes(n_tokens, sizes.n_experts, sizes.n_chosen), ExpertRoom(gate, up, value))


class ColdExperts:
    """One layer's cold experts."""

    def __init__(
        self,
        cold: ColdNeurons,
        sizes: ExpertSizes,
        buffers: ColdBuffers,
        chosen: ChosenBuffers,
        workspace: ExpertWorkspace,
        panels: npt.NDArray[np.uint8],
        team: Team,
        threads: int,
    ) -> None:
        """panels: of a few tokens. threads: for how many one token's rows are cut into shares."""
        self._buffers, self._chosen, self._team, self._sizes = buffers, chosen, team, sizes
        n_here = len(cold.numbers) if cold.alone else sizes.n_experts
        self._cold = cold
        self._numbers = np.full(sizes.n_experts, -1, np.int32)
        self._numbers[cold.numbers] = np.arange(n_here, dtype=np.int32) if cold.alone else cold.numbers
        b = buffers
        self._rooms = {
            BatchKind.ONE: chosen.one[sizes],
            BatchKind.FEW: chosen.many[sizes],
            BatchKind.MANY: chosen.many[sizes],
        }
        self._operations: dict[BatchKind, list[Operation]] = {}
        out = b.result.numpy()[: len(b.many.floats) * sizes.width].reshape(-1, sizes.width)
        for kind, room in self._rooms.items():
            routes, x = replace(room.routes, n_experts=n_here), room.x
            first = [quantise(b.state, x), sort_pairs(b.state, routes, self._numbers)]
            if kind is BatchKind.MANY:
                made = experts_batch(
                    b.state,
                    x,
                    cold.neurons,
                    routes,
                    room.experts,
                    out,
                    workspace,
                    add=False,
                    on_input=sizes.on_input,
                )
            else:
                first += ask_for_experts(cold.neurons, routes)
                made = experts_token(
                    b.state,
                    x,
                    cold.neurons,
                    routes,
                    room.experts,
                    out,
                    add=False,
                    threads=threads,
                    on_input=sizes.on_input,
                    panels=panels if kind is BatchKind.FEW else None,
                )
            self._operations[kind] = [*first, *made]
        self._programs: dict[BatchKind, CompiledProgram] = {}

    @property
    def kernels(self) -> Iterable[Kernel]:
        """What must be compiled before `run`."""
        return (op.kernel for ops in self._operations.values() for op in ops)

    def n_hot(self, chosen: npt.NDArray[np.int64]) -> int:
        """How many of chosen experts are on a device."""
        return int((self._numbers[chosen] < 0).sum())

    def take(self, begin: int, numbers: npt.NDArray[np.int32]) -> None:
        """From a place on among its experts it has these instead; all of the layer's are in main memory."""
        held = self._cold.numbers[begin : begin + len(numbers)]
        self._numbers[held] = -1
        held[:] = numbers
        self._numbers[held] = held

    def run(self, n_tokens: int, threads: int, kind: BatchKind) -> Tensor:
        """The sums [T, n_embd] over each token's cold experts, of what a device has put into the buffers."""
        b, room = self._buffers, self._rooms[kind]
        x, routes = room.x, room.routes
        b.state[N_TOKENS] = n_tokens
        x.floats[:n_tokens, : x.n] = b.normed_of((n_tokens, x.n)).numpy()
        routes.chosen[:n_tokens] = self._chosen.experts_of(n_tokens, self._sizes.n_chosen).numpy()
        routes.weights[:n_tokens] = self._chosen.weights_of(n_tokens, self._sizes.n_chosen).numpy()
        if kind not in self._programs:
            self._programs[kind] = assemble(self._operations[kind])
        self._team.run(self._programs[kind].table, threads)
        return b.result[: n_tokens * x.n].view(n_tokens, x.n)
