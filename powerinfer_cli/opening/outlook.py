"""What to expect of a model on this machine: its kind, what lies beside it, whether it fits, and its speed."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import Model, load_model
from powerinfer_cli.opening.companions import Companions, find_companions
from powerinfer_cli.opening.model_file import open_model_file
from powerinfer_cli.opening.planning.gpus import Target, find_target
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.placement import gpuidx_path
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from powerinfer_cli.system.memory import available_memory

__all__ = ["Outlook", "model_kind", "outlook"]

USUAL_CONTEXT = 4096  # tokens that a prediction is for, where the model knows as many
OVERHEAD = 256 << 20  # bytes of a process beside weights and cache


@dataclass(frozen=True)
class Outlook:
    """type: that of most bytes. n_ctx: tokens that it was trained on. needed: bytes of memory, on GPUs and off them,
    with a context of `USUAL_CONTEXT`. beside: what was made for it: statistics, routes, predictors, plan.

    tokens_per_second: of decoding, as the planner predicts it; None where nobody asked.
    """

    kind: str
    type: str
    n_ctx: int
    needed: int
    fits: bool
    beside: tuple[str, ...]
    tokens_per_second: float | None


def outlook(path: Path, wishes: PlacementWishes, events: LoadEvents, *, speed: bool = True) -> Outlook:
    """Of a file. speed: costs of this machine are measured where they are not kept from before, which takes seconds.

    Raises PowerInferError: the model does not run here.
    """
    with open_model_file(path) as gguf:
        model = load_model(gguf)
        beside = find_companions(gguf, model, None, lambda line: None)
        target = find_target(wishes, lambda line: None) or Target((), ())
        n_ctx = min(model.config.n_ctx_train, USUAL_CONTEXT)
        options = EngineOptions(n_ctx=n_ctx)
        job = PlanJob.of(gguf, model, options, target, beside)
        needed = job.sizes.total + OVERHEAD
        if not target.devices:
            needed -= job.sizes.scratch
        rate = None
        if speed:
            profile, _ = job.costs(events)
            rate = job.make(profile).prediction.tokens_per_second
        return Outlook(
            kind=model_kind(model, gguf.metadata),
            type=_type(gguf),
            n_ctx=model.config.n_ctx_train,
            needed=needed,
            fits=needed <= available_memory() + sum(target.budgets or ()),
            beside=_beside(path, beside),
            tokens_per_second=rate,
        )


def model_kind(model: Model, metadata: Mapping[str, Any]) -> str:
    """In a word or a few."""
    if f"{model.config.architecture.name}.pooling_type" in metadata:
        return "embedding"
    if model.has_experts:
        return "experts"
    if model.config.sparse:
        return "sparse, with predictors"
    return "dense, with exact zeros" if model.config.activation.has_exact_zeros else "dense"


def _type(gguf: GGUFFile) -> str:
    bytes_of: Counter[str] = Counter()
    for tensor in gguf.tensors.values():
        bytes_of[tensor.type.name] += tensor.nbytes
    return bytes_of.most_common(1)[0][0] if bytes_of else "-"


def _beside(path: Path, found: Companions) -> tuple[str, ...]:
    there = {
        "statistics": found.statistics is not None,
        "routes": found.traced is not None,
        "predictors": (path.parent / "predictor").is_dir(),
        "plan": gpuidx_path(path).is_file(),
    }
    return tuple(name for name, is_there in there.items() if is_there)
