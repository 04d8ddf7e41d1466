"""Whether what is hot changes while a model runs, and by which rule: as somebody wishes, or as a trace says."""

from typing import TYPE_CHECKING

import numpy as np

from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.placement import HEAT, HeatRule, Plan, group_begins, ordered
from powerinfer_cli.runtime import LoadEvents
from powerinfer_cli.runtime.device.bytes import staged_groups
from powerinfer_cli.runtime.device.slots import adaptable

if TYPE_CHECKING:
    from solver.placing.replay import PolicyChoice

__all__ = ["adaptive_rule"]

REPLAYED = 1024  # tokens of a trace: with 48 layers of 128 experts, of which 8 are chosen, two seconds


def adaptive_rule(job: PlanJob, plan: Plan, wish: str, events: LoadEvents) -> HeatRule | None:
    """None: what is hot stays. wish: on, off or auto."""
    if wish == "off":
        return None
    adapting = [index for index in range(len(plan.layers)) if _adapts(job, plan, index)]
    if not adapting:
        events.note("adaptive: off, as no layer is divided into hot and cold experts, or neurons with a predictor")
        return None
    if wish == "on":
        return HEAT
    choice = _of_experts(job, plan, events) if job.model.has_experts else _of_neurons(job, plan, adapting, events)
    if choice is None:
        kind, anew = ("route", "") if job.model.has_experts else ("firing", " --anew")
        record = f"powerinfer solve -m {job.path} --profile-only{anew}"
        events.note(f"adaptive: off, as no {kind} trace tells whether it pays ({record})")
        return None
    events.note(choice.line())
    return choice.rule


def _of_experts(job: PlanJob, plan: Plan, events: LoadEvents) -> "PolicyChoice | None":
    """None: no trace."""
    from solver.placing.replay import choose_policy

    trace = job.beside.routes(job.model, events.note)
    if trace is None:
        return None
    slots = [plan.layers[index].hot.size for index in trace.layers]
    return choose_policy(trace, slots, REPLAYED, staged_groups(job.model, HEAT)[0])


def _of_neurons(job: PlanJob, plan: Plan, adapting: list[int], events: LoadEvents) -> "PolicyChoice | None":
    """adapting: the layers that do. None: no trace."""
    from solver.placing.replay_neurons import GroupUses, choose_neuron_policy

    trace, statistics = job.beside.firing(job.model, events.note), job.beside.statistics
    if trace is None:
        return None
    layers = []
    for index in adapting:
        uses = None if statistics is None else statistics.uses(index)
        hot, cold = ordered(plan.layers[index].hot, trace.n_ff[index], uses)
        begins = group_begins(hot.size, cold.size, HEAT.neurons)
        layers.append(GroupUses.of(trace.fired(index), np.concatenate((hot, cold)), begins, uses))
    return choose_neuron_policy(layers, staged_groups(job.model, HEAT)[0])


def _adapts(job: PlanJob, plan: Plan, index: int) -> bool:
    ffn, hot = job.model.layers[index].ffn, plan.layers[index].hot.size
    least = 1 if routing_of(ffn.selection) is not None else HEAT.neurons
    return adaptable(ffn) and least <= hot <= ffn.n_groups - least
