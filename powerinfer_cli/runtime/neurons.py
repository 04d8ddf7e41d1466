"""What an engine tells of its layers: where their neurons and experts are, and how often they are needed."""

from collections.abc import Sequence

from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import routing_of
from powerinfer_cli.placement import Plan
from powerinfer_cli.runtime.backend import Backend
from powerinfer_cli.runtime.stats import LayerExperts, LayerNeurons, SparsityStats

__all__ = ["Sizes", "neurons_of", "sizes_of"]

Sizes = Sequence[tuple[int, int | None]]
"""By layer its neurons, and its experts, None where it has none."""


def sizes_of(model: Model) -> Sizes:
    ffns = [layer.ffn for layer in model.layers]
    return [(ffn.neurons.n_ff, ffn.n_groups if routing_of(ffn.selection) is not None else None) for ffn in ffns]


def neurons_of(sizes: Sizes, plan: Plan | None, stats: SparsityStats, backend: Backend) -> tuple[LayerNeurons, ...]:
    """Of each layer; plan: None where everything is in main memory."""
    now, found = backend.experts(), []
    for i, (n_ff, n_experts) in enumerate(sizes):
        planned = () if plan is None else tuple(plan.layers[i].hot.tolist())
        experts = None
        if n_experts is not None:
            hot, chosen = now.get(i, (planned, ()))
            experts = LayerExperts(n_experts, hot, chosen, stats.hit_rate_of(i))
        n_hot = len(planned) * n_ff // (n_experts or n_ff) if planned else 0
        found.append(LayerNeurons(n_ff, n_hot, stats.active(i), experts))
    return tuple(found)
