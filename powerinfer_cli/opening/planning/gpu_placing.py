"""What of a model goes to which GPU: a plan that is kept, if it fits, or else a new one, in seconds."""

from collections.abc import Sequence

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.planning.adapting import adaptive_rule
from powerinfer_cli.opening.planning.cache_pages import overflow_line
from powerinfer_cli.opening.planning.gpus import Target
from powerinfer_cli.opening.planning.overrides import NOTHING_KEPT, kept_by_hand, parse_overrides
from powerinfer_cli.opening.planning.plan_files import keep_plan, kept_plan
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.opening.planning.whole_parts import plan_of_parts
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.placement import MAIN_MEMORY, Placement, Plan, Reservation, cached, device_use, shown_bytes
from powerinfer_cli.runtime import EngineOptions, LoadEvents

__all__ = ["place_on", "placement_lines"]

SLOW = "everything stays in main memory: the plan expects no GPU to make decoding faster"

Result = tuple[Placement | None, tuple[str, ...]]


def place_on(
    target: Target,
    gguf: GGUFFile,
    model: Model,
    options: EngineOptions,
    wishes: PlacementWishes,
    beside: Companions,
    events: LoadEvents,
) -> Result:
    """The placement and what lies where, a line each GPU; None: everything stays in main memory.

    Raises:
        UsageError: tensors are to be kept that are not to be divided from others.
        PowerInferError: no model that can be run.
    """
    kept = kept_by_hand(
        model,
        parse_overrides(wishes.override_tensor),
        events.note,
        cpu_moe=wishes.cpu_moe,
        n_cpu_moe=wishes.n_cpu_moe,
    )
    job = PlanJob.of(gguf, model, options, target, beside, wishes.max_layers, wishes.adaptive).asked(wishes, kept)
    counted = beside.statistics is not None
    slots = wishes.adaptive != "off" and not counted  # whose use will say what they hold: as many in each layer
    if kept != NOTHING_KEPT or (model.has_experts and (wishes.gpu_layers is not None or slots)):
        plan, remarks = plan_of_parts(job, kept, whole=wishes.gpu_layers is not None)
        none = () if kept.ffns else _no_expert(job, plan)
        return _placed(job, job.filled(plan), (*remarks, *none), events)
    divided = wishes.gpu_layers is None and job.divisible and (counted or model.has_experts)
    whole = job.whole_layers()
    if not divided or _holds_all(whole.plan):
        if wishes.gpu_layers is None and not _holds_all(whole.plan):
            events.note(_no_statistics(job))
        return _placed(job, whole.plan, whole.remarks, events)
    room = job.reservation()
    if set(room.devices) == {MAIN_MEMORY} and room.output == MAIN_MEMORY:
        return _placed(job, whole.plan, room.remarks, events)
    plan, remarks = _divided(job, wishes, room, events)
    return _placed(job, plan, (*remarks, *_no_expert(job, plan)), events)


def _no_expert(job: PlanJob, plan: Plan) -> tuple[str, ...]:
    """A remark, where GPUs hold layers of a mixture, and none of its experts."""
    experts = job.model.n_experts
    if not plan.gpus or not experts or any(plan.layers[i].hot.size for i in experts):
        return ()
    return ("the budget holds what is not experts: all experts stay in main memory",)


def _divided(
    job: PlanJob, wishes: PlacementWishes, room: Reservation, events: LoadEvents
) -> tuple[Plan, tuple[str, ...]]:
    """By neurons, or experts: the plan that is kept, or a new one; with its remarks."""
    profile, name = job.costs(events)
    conditions = job.conditions(name)
    kept = None
    if not (wishes.reset_gpu_index or wishes.disable_gpu_index):
        kept = kept_plan(job.path, conditions, job.model.n_groups, events.note, free=job.target.free)
    if kept is not None:
        plan, path = kept
        events.note(f"plan: {path}")
        return plan, room.remarks if plan.gpus else (SLOW,)
    result = job.make(profile)
    where = ""
    if not wishes.disable_gpu_index:
        routed = job.model.has_experts
        try:
            path = keep_plan(job.path, result.plan, conditions, job.sizes, events.note, routed=routed)
            where = f", kept in {path}"
        except PowerInferError as error:
            events.note(f"the plan is not kept: {error}")
    events.note(f"planned in {result.seconds:.1f} s, within {result.gap:.1%} of the best{where}")
    return result.plan, result.remarks


def _placed(job: PlanJob, plan: Plan, remarks: Sequence[str], events: LoadEvents) -> Result:
    overflow = overflow_line(job.sizes, plan)
    for remark in (*remarks, *([overflow] if overflow else [])):
        events.note(remark)
    if not plan.gpus:
        return None, ()
    stream_from = _stream_from(job, plan, events) if job.streams else None
    rule = adaptive_rule(job, plan, job.adaptive, events)
    return Placement(plan, job.target.devices, job.n_ctx, stream_from, rule), placement_lines(plan, job)


def _stream_from(job: PlanJob, plan: Plan, events: LoadEvents) -> int | None:
    placed = zip(plan.layers, job.model.n_groups, strict=True)
    if all(where.device == MAIN_MEMORY or where.hot.size == count for where, count in placed):
        return None
    counted = job.beside.statistics
    if counted is None and not job.model.has_experts:  # somebody has divided layers by hand
        return None
    from solver.placing import Work, activity_from, always_active, simulate, stream_from

    profile, _ = job.costs(events)
    activity = activity_from(counted, job.beside.together) if counted else always_active(job.sizes.layers)
    work = Work(job.sizes, activity, job.kind, job.config.n_embd)
    return stream_from(plan, job.sizes, simulate(plan, work, profile), profile)


def _holds_all(plan: Plan) -> bool:
    return plan.output != MAIN_MEMORY and all(layer.device != MAIN_MEMORY for layer in plan.layers)


def _no_statistics(job: PlanJob) -> str:
    if not all(job.model.n_groups):
        return "layers without neurons: whole layers go to the GPU"
    what = "no activation statistics" if job.divisible else "no predictor"
    return f"{what}: whole layers go to the GPU; `powerinfer solve -m {job.path}` makes what placing neurons needs"


def placement_lines(plan: Plan, job: PlanJob) -> tuple[str, ...]:
    """What each GPU holds, a line each."""
    lines = []
    for gpu in plan.gpus:
        here = [index for index, layer in enumerate(plan.layers) if layer.device == gpu]
        parts = [f"{len(here)} of {len(plan.layers)} layers"] if here else []
        for routed, name in ((False, "neurons"), (True, "experts")):
            ffns = {i: job.model.layers[i].ffn for i in here}
            counts = {i: ffn.n_groups for i, ffn in ffns.items() if (routing_of(ffn.selection) is not None) == routed}
            hot, groups = sum(plan.layers[i].hot.size for i in counts), sum(counts.values())
            if hot < groups:
                parts.append(f"{hot / groups:.1%} of their {name}")
        outside, whole = cached(job.sizes, plan, {gpu})
        if outside:
            parts.append(f"{1 - outside / whole:.1%} of their KV cache")
        if plan.output == gpu and job.model.head.output is not None:
            parts.append("the head")
        used = device_use(job.sizes, plan, gpu).total
        name = "rehearsed on the CPU" if job.target.rehearsed else job.target.devices[gpu]
        lines.append(f"{name}, {' and '.join(parts)}: {shown_bytes(used)} of {shown_bytes(plan.budgets[gpu])}")
    return tuple(lines)
