"""How a plan divides a model: runs of layers on one side, what goes to GPUs, and which plans cannot be."""

from dataclasses import dataclass
from itertools import groupby

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.placement import MAIN_MEMORY, Plan
from powerinfer_cli.runtime.backend import Parts

__all__ = ["Run", "check_plan", "runs_of", "uploaded_bytes"]


@dataclass(frozen=True)
class Run:
    """Consecutive layers on one side: a GPU's number, or MAIN_MEMORY."""

    side: int
    layers: tuple[int, ...]


def runs_of(plan: Plan) -> list[Run]:
    """The layers of a plan, those that follow another on the same side together."""
    numbered = enumerate(placed.device for placed in plan.layers)
    return [Run(side, tuple(i for i, _ in group)) for side, group in groupby(numbered, key=lambda pair: pair[1])]


def check_plan(plan: Plan, parts: Parts) -> None:
    """Raises PowerInferError: the plan is for other sizes, or divides a layer that cannot be divided."""
    n_ff = parts.config.n_ff
    try:
        plan.check(parts.config.n_layer, n_ff)
    except ValueError as error:
        raise PowerInferError(f"the placement plan is not for this model: {error}") from error
    divided = any(placed.device != MAIN_MEMORY and placed.hot.size < n_ff for placed in plan.layers)
    if divided and not parts.config.sparse:
        raise PowerInferError(
            "the placement plan divides layers of a dense model: it can only be placed by whole layers"
        )


def uploaded_bytes(parts: Parts, plan: Plan) -> int:
    """How much of the file goes to GPUs."""
    total = parts.weights.output.weight.nbytes if plan.output != MAIN_MEMORY else 0
    for layer, placed in zip(parts.weights.layers, plan.layers, strict=True):
        if placed.device == MAIN_MEMORY:
            continue
        linears = (layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output)
        total += sum(linear.weight.nbytes for linear in linears)
        total += sum(tensor.nbytes for tensor in (layer.fc1, layer.fc2) if tensor)
        parts_of_neurons = (layer.ffn_gate, layer.ffn_up, layer.ffn_down, layer.ffn_down_t)
        whole = sum(linear.weight.nbytes for linear in parts_of_neurons if linear)
        total += whole * placed.hot.size // layer.ffn_up.weight.shape[0]
    return total
