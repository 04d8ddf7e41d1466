"""Experts beside a dense FFN, both within norms of their own, as Gemma 4 has them."""

from dataclasses import replace

from powerinfer_cli.gguf_io import Tensor
from powerinfer_cli.model.blocks import FFN, Norm, Norms, Routed, SharedExpert, routing_of
from powerinfer_cli.model.cuts import scaled
from powerinfer_cli.model.parts.experts import expert_width, routed
from powerinfer_cli.model.tensors import LayerReader

__all__ = ["experts_beside"]


def experts_beside(t: LayerReader, dense: FFN[Tensor, Tensor], before: Norm[Tensor]) -> FFN[Tensor, Tensor]:
    """The dense FFN is the shared expert. before: the norm of what experts read; the router reads the same without its
    weights, times a vector of its own / sqrt(n_embd).
    """
    ffn = routed(t, width=expert_width(t), normed=True)
    found = routing_of(ffn.selection)
    assert found is not None
    scale = scaled(t.tensor("ffn_gate_inp.scale", t.n_embd), t.n_embd**-0.5)
    gains = t.maybe("ffn_down_exps.scale", found.n_experts)
    router = replace(found.router, norm=replace(before, weight=scale), gains=gains)
    shared = SharedExpert(dense.neurons, norm=t.norm("post_ffw_norm_1"))
    return FFN(ffn.neurons, Routed(found.n_experts, router, shared, Norms(before, t.norm("post_ffw_norm_2"))))
