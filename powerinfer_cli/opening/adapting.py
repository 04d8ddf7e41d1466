"""Whether what is hot changes while a model runs, and by which rule: as somebody wishes, or as a route trace says."""

from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.opening.plan_job import PlanJob
from powerinfer_cli.placement import HEAT, HeatRule, Plan
from powerinfer_cli.runtime import LoadEvents
from powerinfer_cli.runtime.device.bytes import staged_groups
from powerinfer_cli.runtime.device.slots import adaptable

__all__ = ["adaptive_rule"]

REPLAYED = 1024  # tokens of a trace: with 48 layers of 128 experts, of which 8 are chosen, two seconds


def adaptive_rule(job: PlanJob, plan: Plan, wish: str, events: LoadEvents) -> HeatRule | None:
    """None: what is hot stays. wish: on, off or auto."""
    if wish == "off":
        return None
    if not any(_adapts(job, plan, index) for index in range(len(plan.layers))):
        events.note("adaptive: off, as no layer is divided into hot and cold experts, or neurons with a predictor")
        return None
    if wish == "on":
        return HEAT
    trace = job.beside.routes(job.model, events.note)
    if trace is None:
        record = f"powerinfer solve -m {job.path} --profile-only"
        events.note(f"adaptive: off, as no route trace tells whether it pays ({record})")
        return None
    from solver.placing.replay import choose_policy

    slots = [plan.layers[index].hot.size for index in trace.layers]
    choice = choose_policy(trace, slots, REPLAYED, staged_groups(job.model, HEAT)[0])
    events.note(choice.line())
    return choice.rule


def _adapts(job: PlanJob, plan: Plan, index: int) -> bool:
    ffn, hot = job.model.layers[index].ffn, plan.layers[index].hot.size
    least = 1 if routing_of(ffn.selection) is not None else HEAT.neurons
    return adaptable(ffn) and least <= hot <= ffn.n_groups - least
