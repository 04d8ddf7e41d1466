"""From wishes to a placement plan: one that is kept, if it fits, or else a new one, in seconds."""

from dataclasses import dataclass, replace

from powerinfer_cli.errors import UsageError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.planning.gpus import find_target
from powerinfer_cli.opening.planning.overrides import check_overrides, parse_overrides
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.placement import Placement
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.runtime.whole_texts import whole_text_options

__all__ = ["PlacingResult", "place"]


@dataclass(frozen=True)
class PlacingResult:
    """Where a model lies: without a placement, in main memory. lines: what lies on which GPU, for people."""

    placement: Placement | None = None
    lines: tuple[str, ...] = ()


def place(
    gguf: GGUFFile,
    model: Model,
    options: EngineOptions,
    wishes: PlacementWishes,
    beside: Companions,
    events: LoadEvents,
    *,
    keep: bool = True,
) -> PlacingResult:
    """Decide what of a model goes to GPUs. A new plan is kept beside the model, and one that is kept is read: not so
    of a part of it, which is not to `keep`.

    Raises:
        UsageError: wishes that cannot be.
        PowerInferError: no model that can be run.
    """
    if options.reference and wishes.given:
        raise UsageError(f"--reference excludes {', '.join(wishes.given)}: it computes on the CPU only")
    check_overrides(gguf, parse_overrides(wishes.override_tensor))
    target = None if options.reference else find_target(wishes, events.note)
    if target is None:
        return PlacingResult()
    if wishes.max_layers == 0 or (target.budgets is not None and not any(target.budgets)):
        events.note("no GPU memory may be used: everything runs on the CPU")
        return PlacingResult()
    wishes = wishes if keep else replace(wishes, reset_gpu_index=False, disable_gpu_index=True)
    options = options if model.config.causal else whole_text_options(options, model.config)
    from powerinfer_cli.opening.planning.gpu_placing import place_on  # imports torch, which takes a second

    return PlacingResult(*place_on(target, gguf, model, options, wishes, beside, events))
