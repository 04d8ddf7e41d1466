"""The llama family: RMS norm, rotary positions, gated FFN."""

from powerinfer_cli.model.architecture import Activation, Architecture, NormKind, RopeStyle
from powerinfer_cli.model.tensors import Bias, Sizes, TensorSpec, attention, embeddings, ffn, norm

__all__ = ["BAMBOO", "LLAMA", "QWEN2", "QWEN3"]


def _model(s: Sizes) -> list[TensorSpec]:
    # llama3's scaling of long wavelengths: one divisor for each pair of rotated dimensions.
    return [*embeddings(s), TensorSpec("rope_freqs.weight", (s.n_rot // 2,), required=False)]


def _layer(s: Sizes, qkv_bias: Bias = "optional") -> list[TensorSpec]:
    return [
        *norm("attn_norm", s.n_embd),
        *attention(s, qkv_bias, output_bias="optional"),
        *norm("ffn_norm", s.n_embd),
        *ffn(s, gated=True, bias="optional"),
    ]


def _qwen2_layer(s: Sizes) -> list[TensorSpec]:
    return _layer(s, qkv_bias="required")


def _qwen3_layer(s: Sizes) -> list[TensorSpec]:
    """Queries and keys are normed, head by head, before they are rotated."""
    return [*_layer(s), *norm("attn_q_norm", s.head_dim), *norm("attn_k_norm", s.head_dim)]


RELU, SILU = Activation.RELU, Activation.SILU
LLAMA = Architecture("llama", NormKind.RMS, RopeStyle.INTERLEAVED, RELU, SILU, _model, _layer)
BAMBOO = Architecture("bamboo", NormKind.RMS, RopeStyle.INTERLEAVED, RELU, RELU, _model, _layer, relu_on_up=True)
QWEN2 = Architecture("qwen2", NormKind.RMS, RopeStyle.NEOX, RELU, SILU, _model, _qwen2_layer)
QWEN3 = Architecture("qwen3", NormKind.RMS, RopeStyle.NEOX, RELU, SILU, _model, _qwen3_layer)
