"""Falcon: attention and FFN in parallel on one normed input, layer norms with bias, fused query-key-value rows."""

from powerinfer_cli.model.architecture import Activation, Architecture, NormKind, RopeStyle
from powerinfer_cli.model.tensors import Sizes, TensorSpec, embeddings, ffn, linear, norm

__all__ = ["FALCON"]


def _model(s: Sizes) -> list[TensorSpec]:
    return embeddings(s, norm_bias="required")


def _layer(s: Sizes) -> list[TensorSpec]:
    return [
        *norm("attn_norm", s.n_embd, "required"),
        # Falcon-40B norms the attention's input apart from the FFN's.
        TensorSpec("attn_norm_2.weight", (s.n_embd,), required=False),
        TensorSpec("attn_norm_2.bias", (s.n_embd,), required=False),
        *linear("attn_qkv", s.n_q + 2 * s.n_kv, s.n_embd, "optional"),
        *linear("attn_output", s.n_embd, s.n_q, "optional"),
        *ffn(s, gated=False, bias="optional"),
    ]


FALCON = Architecture(
    "falcon",
    NormKind.LAYER,
    RopeStyle.NEOX,
    sparse_activation=Activation.RELU,
    dense_activation=Activation.GELU,
    model_tensors=_model,
    layer_tensors=_layer,
    parallel_ffn=True,
)
