"""OPT: learned positions, layer norms and biases everywhere, no gate, ReLU by birth."""

from powerinfer_cli.model.architecture import Activation, Architecture, NormKind
from powerinfer_cli.model.tensors import Sizes, TensorSpec, attention, embeddings, ffn, linear, norm

__all__ = ["OPT", "POSITION_OFFSET"]

POSITION_OFFSET = 2  # row p + 2 of position_embd belongs to position p, as in the original checkpoints


def _model(s: Sizes) -> list[TensorSpec]:
    return [*embeddings(s, norm_bias="required"), *linear("position_embd", None, s.n_embd)]


def _layer(s: Sizes) -> list[TensorSpec]:
    return [
        *norm("attn_norm", s.n_embd, "required"),
        *attention(s, "required"),
        *norm("ffn_norm", s.n_embd, "required"),
        *ffn(s, gated=False, bias="required"),
    ]


OPT = Architecture(
    "opt",
    NormKind.LAYER,
    rope_style=None,
    sparse_activation=Activation.RELU,
    dense_activation=Activation.RELU,
    model_tensors=_model,
    layer_tensors=_layer,
    learned_positions=True,
    norm_eps_default=1e-5,  # the original's converter does not write it
)
