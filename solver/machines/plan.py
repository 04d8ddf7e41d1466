"""From a model and machines to layer ranges, and the tokens a second that they lead one to expect."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import pairwise

import numpy as np

from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import leaves
from powerinfer_cli.model.ranges import LayerRange, group_counts, whole_from
from powerinfer_cli.runtime import EngineOptions
from powerinfer_cli.runtime.context.cache_size import extent_of, kv_bytes
from solver.machines.dynamic import even_out, range_seconds, solve_dynamic
from solver.machines.milp import solve_division
from solver.machines.network import Machine, Network
from solver.machines.problem import Divided, Division, Site
from solver.machines.sites import MainBytes, make_site
from solver.placing.simulation import Work

__all__ = ["MachinesPlan", "Pipeline", "main_bytes", "plan_machines"]

PROCESS = 256 << 20  # bytes of a rank that has no layer yet: 110 MiB were measured, more of one that serves HTTP
BORDER = 3e-4  # seconds of a border beside its wire: 0.24 ms of sockets and Python, and cold caches behind them
FLOAT = 4


def main_bytes(model: Model, options: EngineOptions, n_ctx: int) -> MainBytes:
    """For n_ctx tokens of all texts together."""
    extent = extent_of(model.layers, options, n_ctx)
    weights = tuple(_size(model, index) for index in range(len(model.layers)))
    kept = tuple(kv_bytes([layer], extent, options.type_k, options.type_v) for layer in model.layers)
    n_ff = max(layer.ffn.neurons.n_ff for layer in model.layers)
    flow = FLOAT * options.most_tokens(n_ctx) * (8 * model.config.n_embd + 3 * n_ff)
    head = sum(one.nbytes for kind in leaves(model.head) for one in kind)
    return MainBytes(weights, kept, head, PROCESS + flow + FLOAT * model.config.n_vocab, whole_from(model))


def _size(model: Model, index: int) -> int:
    return sum(one.nbytes for kind in leaves(model.layers[index]) for one in kind)


@dataclass(frozen=True)
class Pipeline:
    """A model that is to be divided. work: one text's. n_ctx: tokens of all texts together. link: bytes of a
    number of x on its way. n_texts: at the same time.
    """

    work: Work
    main: MainBytes
    n_vocab: int
    n_ctx: int
    link: int = FLOAT
    n_texts: int = 1

    @property
    def needed(self) -> int:
        """Bytes of main memory on one machine without a GPU."""
        return sum(self.main.weights) + sum(self.main.cache) + self.main.head + self.main.rank


@dataclass(frozen=True)
class MachinesPlan:
    """machines: which of the network's; ranges: their layers. stages: seconds of a step on each. tokens_per_second: of
    all texts together, in `groups` groups; one_text: of one that is alone, with the same ranges. bound: tokens a second
    that no such division goes above; twin: what dynamic programming has found.
    """

    machines: tuple[int, ...]
    ranges: tuple[LayerRange, ...]
    stages: tuple[float, ...]
    tokens_per_second: float
    one_text: float
    bound: float
    twin: float
    groups: int = 1


def _units(pipeline: Pipeline) -> int:
    """How many there are of layers, but for those that belong together, which are one."""
    return min(len(pipeline.work.sizes.layers), pipeline.main.whole + 1)


def plan_machines(
    pipeline: Pipeline,
    network: Network,
    *,
    numbers: Sequence[int] | None = None,
    exact: bool = True,
    time_limit: float = 10.0,
) -> dict[int, MachinesPlan]:
    """The best division for each number of machines with which there is one; numbers: only for these. exact: by HiGHS
    where there are GPUs, in `time_limit` seconds in all; else by dynamic programming, which fills GPUs greedily.
    """
    most = min(len(network.machines), _units(pipeline))
    wanted = [n_used for n_used in numbers or range(1, most + 1) if n_used <= most]
    n_problems = sum(len(group_counts(min(n_used, pipeline.n_texts))) for n_used in wanted)
    planner = _Planner(pipeline, network, time_limit / max(1, n_problems) if exact else None)
    found = {n_used: planner.plan(n_used) for n_used in wanted}
    return {n_used: plan for n_used, plan in found.items() if plan is not None}


@dataclass(frozen=True)
class _Planner:
    pipeline: Pipeline
    network: Network
    time_limit: float | None

    def plan(self, n_used: int) -> MachinesPlan | None:
        """With as many groups of texts as are fastest, as a server finds out. None: so many have no room."""
        found = [self._plan(n_used, groups) for groups in group_counts(min(n_used, self.pipeline.n_texts))]
        plans = [one for one in found if one is not None]
        if not plans:
            return None
        best = max(plans, key=lambda one: one.tokens_per_second)
        return replace(best, bound=max(one.bound for one in plans), twin=max(one.twin for one in plans))

    def _plan(self, n_used: int, groups: int) -> MachinesPlan | None:
        n_texts = self.pipeline.n_texts
        problem = self._division(groups)
        twin = solve_dynamic(problem, n_used)
        if not any(site.gpu for site in problem.sites):
            made = twin and replace(twin, bound=twin.period)  # it is exact
        elif self.time_limit is None:
            made = twin
        else:
            made = solve_division(problem, n_used, time_limit=self.time_limit)
        if made is None:
            return None
        made = even_out(problem, made)
        n_layer = len(self.pipeline.work.sizes.layers)
        cuts = [*made.cuts[:-1], n_layer]
        return MachinesPlan(
            made.machines,
            tuple(LayerRange(begin, end) for begin, end in pairwise(cuts)),
            made.stages,
            n_texts / made.period,
            1.0 / (made.period if n_texts == 1 else self._alone(made)),
            n_texts / made.bound if made.bound else np.inf,
            n_texts / twin.period if twin else 0.0,
            groups,
        )

    def _alone(self, made: Divided) -> float:
        """Seconds of one text's token."""
        problem = self._single
        cuts = zip(made.machines, made.cuts[:-1], made.cuts[1:], strict=True)
        return problem.period(made.machines, [float(range_seconds(problem.sites[m])[a, b]) for m, a, b in cuts])

    @cached_property
    def _single(self) -> Division:
        return self._problem(1, 1)

    def _division(self, n_groups: int) -> Division:
        return self._problem(n_groups, -(-self.pipeline.n_texts // n_groups))

    def _problem(self, n_groups: int, n_texts: int) -> Division:
        """With so many groups of so many texts on their way."""
        pipeline, network = self.pipeline, self.network

        @cache
        def site(place: int) -> Site:
            return make_site(pipeline.work, pipeline.main, network.machines[place], n_texts)

        n = len(network.machines)
        alike = [next(i for i, one in enumerate(network.machines) if _alike(one, own)) for own in network.machines]
        border, carried, back = np.zeros((n, n)), np.zeros((n, n)), np.zeros(n)
        x, logits = pipeline.link * pipeline.work.n_embd * n_texts, FLOAT * pipeline.n_vocab * n_texts
        for j in range(1, n):
            for i in range(j):
                wire = network.wire(i, j)
                border[i, j], carried[i, j] = BORDER + wire.seconds(x), x / wire.bandwidth
            back[j] = BORDER + network.wire(0, j).seconds(logits)
        return Division(tuple(map(site, alike)), border, carried, back, n_groups)


def _alike(one: Machine, other: Machine) -> bool:
    return (one.profile, one.memory, one.vram) == (other.profile, other.memory, other.vram)
