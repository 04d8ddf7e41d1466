"""Names and shapes of the tensors that several architectures share. Shapes are rows first, as in NumPy."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["Bias", "Sizes", "TensorSpec", "attention", "embeddings", "ffn", "linear", "norm"]

Bias = Literal["none", "optional", "required"]


@dataclass(frozen=True)
class Sizes:
    """The sizes that shapes are made of."""

    n_embd: int
    n_ff: int
    n_q: int  # rows of the query projection: heads x head_dim
    n_kv: int  # rows of the key projection, and of the value projection
    head_dim: int
    n_rot: int
    n_vocab: int
    sparse: bool


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name within the model or within its layer, and its shape; None stands for any size."""

    name: str
    shape: tuple[int | None, ...]
    required: bool = True


def linear(name: str, rows: int | None, columns: int | None, bias: Bias = "none") -> list[TensorSpec]:
    """`name`.weight [rows, columns] and, where the architecture has one, `name`.bias [rows]."""
    weight = TensorSpec(f"{name}.weight", (rows, columns))
    return [weight] if bias == "none" else [weight, TensorSpec(f"{name}.bias", (rows,), bias == "required")]


def norm(name: str, size: int, bias: Bias = "none") -> list[TensorSpec]:
    weight = TensorSpec(f"{name}.weight", (size,))
    return [weight] if bias == "none" else [weight, TensorSpec(f"{name}.bias", (size,), bias == "required")]


def embeddings(s: Sizes, norm_bias: Bias = "none") -> list[TensorSpec]:
    """Token embedding, final norm, and the output head, which is the embedding where the file has none."""
    return [
        *linear("token_embd", s.n_vocab, s.n_embd),
        *norm("output_norm", s.n_embd, norm_bias),
        TensorSpec("output.weight", (s.n_vocab, s.n_embd), required=False),
        TensorSpec("output.bias", (s.n_vocab,), required=False),
    ]


def attention(s: Sizes, bias: Bias, output_bias: Bias | None = None) -> list[TensorSpec]:
    """Separate query, key, value and output projections; the output's bias is like the others' unless it is given."""
    return [
        *linear("attn_q", s.n_q, s.n_embd, bias),
        *linear("attn_k", s.n_kv, s.n_embd, bias),
        *linear("attn_v", s.n_kv, s.n_embd, bias),
        *linear("attn_output", s.n_embd, s.n_q, output_bias or bias),
    ]


def ffn(s: Sizes, *, gated: bool, bias: Bias) -> list[TensorSpec]:
    """A dense FFN, or a sparse one: its down matrix transposed, so that a neuron is a row, and its predictor."""
    inward = [*(linear("ffn_gate", s.n_ff, s.n_embd, bias) if gated else []), *linear("ffn_up", s.n_ff, s.n_embd, bias)]
    if not s.sparse:
        return [*inward, *linear("ffn_down", s.n_embd, s.n_ff, bias)]
    # The original's converter renames a bias along with its matrix; other writers keep llama.cpp's name.
    biases = [] if bias == "none" else [TensorSpec(f"{n}.bias", (s.n_embd,), False) for n in ("ffn_down", "ffn_down_t")]
    return [
        *inward,
        TensorSpec("ffn_down_t.weight", (s.n_ff, s.n_embd)),
        *biases,
        TensorSpec("fc1.weight", (None, s.n_embd)),
        TensorSpec("fc2.weight", (s.n_ff, None)),
    ]
