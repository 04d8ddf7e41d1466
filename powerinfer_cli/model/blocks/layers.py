"""Layers, of a mixer and an FFN in residuals, and a model's two ends."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias

from powerinfer_cli.model.blocks.attention import Attention, LatentAttention, Mixer
from powerinfer_cli.model.blocks.ffn import FFN, Everything, predictor_of
from powerinfer_cli.model.blocks.parts import Linear, M, N, Norm, Norms, V, W

__all__ = [
    "Embedding",
    "Fusion",
    "Head",
    "Layer",
    "Parallel",
    "Sequential",
    "all_active",
    "attentions",
    "latent_attentions",
    "leaves",
    "with_ffn",
]


@dataclass(frozen=True)
class Sequential(Generic[M, V]):
    """x += scale * attention(x), then x += scale * ffn(x), each within its norms; `attention` may be something less."""

    attention_norms: Norms[V]
    attention: "Mixer[M, V]"
    ffn_norms: Norms[V]
    ffn: FFN[M, V]
    scale: float = 1.0

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Sequential[N, W]":
        return Sequential(
            self.attention_norms.map(vector),
            self.attention.map(matrix, vector),
            self.ffn_norms.map(vector),
            self.ffn.map(matrix, vector),
            self.scale,
        )


@dataclass(frozen=True)
class Parallel(Generic[M, V]):
    """x += attention(norm(x)) + ffn(ffn_norm(x)); ffn_norm None: the FFN reads what attention reads."""

    norm: Norm[V]
    attention: Attention[M, V]
    ffn_norm: Norm[V] | None
    ffn: FFN[M, V]

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Parallel[N, W]":
        return Parallel(
            self.norm.map(vector),
            self.attention.map(matrix, vector),
            None if self.ffn_norm is None else self.ffn_norm.map(vector),
            self.ffn.map(matrix, vector),
        )


Layer: TypeAlias = Sequential[M, V] | Parallel[M, V]


@dataclass(frozen=True)
class Fusion(Generic[M, V]):
    """token(token_norm(e)) + hidden(hidden_norm(h)), of an embedding e and of what a model made of the token before, h,
    its hidden state behind the last norm (DeepSeek-V3 2024, section 2.2); both [n_embd, n_embd].
    """

    token_norm: Norm[V]
    hidden_norm: Norm[V]
    token: Linear[M, V]
    hidden: Linear[M, V]

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Fusion[N, W]":
        token, hidden = (one.map(matrix, vector) for one in (self.token, self.hidden))
        return Fusion(self.token_norm.map(vector), self.hidden_norm.map(vector), token, hidden)


@dataclass(frozen=True)
class Embedding(Generic[M, V]):
    """scale * tokens[id] + positions[position + offset], normed; tokens [n_vocab, n_embd]. fusion: what becomes of it
    where a hidden state comes with each token.
    """

    tokens: M
    positions: M | None = None
    offset: int = 0
    scale: float = 1.0
    norm: Norm[V] | None = None
    fusion: Fusion[M, V] | None = None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Embedding[N, W]":
        positions = None if self.positions is None else matrix(self.positions)
        norm = None if self.norm is None else self.norm.map(vector)
        fusion = None if self.fusion is None else self.fusion.map(matrix, vector)
        return Embedding(matrix(self.tokens), positions, self.offset, self.scale, norm, fusion)


@dataclass(frozen=True)
class Head(Generic[M, V]):
    """Logits: scale * output(norm(x)), or softcap c: c tanh(that / c). Where a file has no head of its own, `output`
    has the token embedding's weight itself.
    """

    norm: Norm[V]
    output: Linear[M, V]
    scale: float = 1.0
    softcap: float | None = None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Head[N, W]":
        return Head(self.norm.map(vector), self.output.map(matrix, vector), self.scale, self.softcap)


def attentions(layers: "Iterable[Layer[M, V]]") -> list[Attention[M, V]]:
    """Of those layers that attend to keys and values of heads."""
    return [layer.attention for layer in layers if isinstance(layer.attention, Attention)]


def latent_attentions(layers: "Iterable[Layer[M, V]]") -> list[LatentAttention[M, V]]:
    """Of those that attend to latents."""
    return [layer.attention for layer in layers if isinstance(layer.attention, LatentAttention)]


def with_ffn(layer: "Layer[M, V]", ffn: FFN[M, V]) -> "Layer[M, V]":
    """The same layer with another FFN."""
    return replace(layer, ffn=ffn)


def all_active(layer: "Layer[M, V]") -> "Layer[M, V]":
    """The same layer without a predictor: all of its neurons are computed, or all of the chosen experts'."""
    if predictor_of(layer.ffn.selection) is None:
        return layer
    return with_ffn(layer, replace(layer.ffn, selection=Everything()))


def leaves(block: Any) -> tuple[list[Any], list[Any]]:
    """The matrices and the vectors of a block, in the order of their use."""
    matrices: list[Any] = []
    vectors: list[Any] = []
    block.map(matrices.append, vectors.append)
    return matrices, vectors
