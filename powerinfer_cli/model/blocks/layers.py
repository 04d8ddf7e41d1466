"""Layers, of a mixer and an FFN in residuals, and a model's two ends."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, TypeAlias

from powerinfer_cli.model.blocks.attention import Attention, LatentAttention, Mixer, SharedAttention
from powerinfer_cli.model.blocks.ffn import FFN, Everything, predictor_of
from powerinfer_cli.model.blocks.inputs import InputGate, LayerInputs
from powerinfer_cli.model.blocks.parts import Linear, M, N, Norm, Norms, V, W
from powerinfer_cli.model.blocks.recurrent import DeltaNet, Mamba2, Recurrent, ShortConvolution

__all__ = [
    "Border",
    "Embedding",
    "Fusion",
    "Head",
    "Layer",
    "Parallel",
    "PostNorm",
    "Scorer",
    "ScorerActivation",
    "Sequential",
    "Source",
    "all_active",
    "attentions",
    "cache_owner",
    "input_gate_of",
    "latent_attentions",
    "leaves",
    "recurrent_layers",
    "shared_attentions",
    "sources",
    "with_ffn",
]


class ScorerActivation(StrEnum):
    """Of a classification head."""

    TANH = "tanh"
    GELU = "gelu"


@dataclass(frozen=True)
class Sequential(Generic[M, V]):
    """x += scale * attention(x), then x += scale * ffn(x), each within its norms; `attention` may be something less.
    input_gate: at last x += scale * what it makes.
    """

    attention_norms: Norms[V]
    attention: "Mixer[M, V]"
    ffn_norms: Norms[V]
    ffn: FFN[M, V]
    scale: float = 1.0
    input_gate: InputGate[M, V] | None = None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Sequential[N, W]":
        return Sequential(
            self.attention_norms.map(vector),
            self.attention.map(matrix, vector),
            self.ffn_norms.map(vector),
            self.ffn.map(matrix, vector),
            self.scale,
            None if self.input_gate is None else self.input_gate.map(matrix, vector),
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


@dataclass(frozen=True)
class PostNorm(Generic[M, V]):
    """x = norm(x + attention(x)), then x = ffn_norm(x + ffn(x)) (Vaswani et al. 2017). again: in between, x becomes
    again(x + what attention read).
    """

    attention: Attention[M, V]
    norm: Norm[V]
    ffn: FFN[M, V]
    ffn_norm: Norm[V]
    again: Norm[V] | None = None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "PostNorm[N, W]":
        return PostNorm(
            self.attention.map(matrix, vector),
            self.norm.map(vector),
            self.ffn.map(matrix, vector),
            self.ffn_norm.map(vector),
            None if self.again is None else self.again.map(vector),
        )


Layer: TypeAlias = Sequential[M, V] | Parallel[M, V] | PostNorm[M, V]


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
    """scale * tokens[id] + positions[position + offset] + shift, normed; tokens [n_vocab, n_embd], shift [n_embd].
    fusion: what becomes of it where a hidden state comes with each token. inputs: what layers get besides.
    """

    tokens: M
    positions: M | None = None
    offset: int = 0
    scale: float = 1.0
    norm: Norm[V] | None = None
    fusion: Fusion[M, V] | None = None
    shift: V | None = None
    inputs: LayerInputs[M, V] | None = None

    @property
    def tables(self) -> tuple[M, ...]:
        """Of which a token needs one row each."""
        positions = () if self.positions is None else (self.positions,)
        return (self.tokens, *positions, *(() if self.inputs is None else (self.inputs.tokens,)))

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Embedding[N, W]":
        positions = None if self.positions is None else matrix(self.positions)
        norm = None if self.norm is None else self.norm.map(vector)
        fusion = None if self.fusion is None else self.fusion.map(matrix, vector)
        shift = None if self.shift is None else vector(self.shift)
        inputs = None if self.inputs is None else self.inputs.map(matrix, vector)
        return Embedding(matrix(self.tokens), positions, self.offset, self.scale, norm, fusion, shift, inputs)


@dataclass(frozen=True)
class Border(Generic[M, V]):
    """Where layers before are somewhere else: x [T, n_embd] comes with the tokens as it is. embedding: where layers get
    inputs besides, these are made of it anew.
    """

    embedding: Embedding[M, V] | None = None

    @property
    def tables(self) -> tuple[M, ...]:
        """Of which a token needs one row each."""
        return () if self.embedding is None else self.embedding.tables

    @property
    def inputs(self) -> LayerInputs[M, V] | None:
        return None if self.embedding is None else self.embedding.inputs

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Border[N, W]":
        return Border(None if self.embedding is None else self.embedding.map(matrix, vector))


Source: TypeAlias = Embedding[M, V] | Border[M, V]  # where the first of some layers has x from


@dataclass(frozen=True)
class Head(Generic[M, V]):
    """Logits: scale * output(norm(x)), or softcap c: c tanh(that / c). Where a file has no head of its own, `output`
    has the token embedding's weight itself. An encoder has no output, and no norm where its layers end with one; where
    layers behind are somewhere else, there is neither.
    """

    norm: Norm[V] | None
    output: Linear[M, V] | None
    scale: float = 1.0
    softcap: float | None = None

    @property
    def parts(self) -> tuple[Norm[V], Linear[M, V]]:
        """Norm and output. Raises ValueError: an encoder's, which has no logits."""
        if self.norm is None or self.output is None:
            raise ValueError("an encoder has no logits")
        return self.norm, self.output

    @property
    def weight(self) -> M:
        """Of the output. Raises ValueError: an encoder's."""
        return self.parts[1].weight

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Head[N, W]":
        norm = None if self.norm is None else self.norm.map(vector)
        output = None if self.output is None else self.output.map(matrix, vector)
        return Head(norm, output, self.scale, self.softcap)


@dataclass(frozen=True)
class Scorer(Generic[M, V]):
    """Scores of a text: output(norm(activation(dense(x)))) of its pooled vector x; what is None is passed over.

    pooling: "cls", "mean" or "last". labels: of the scores, which are shares of 1 where `softmax`.
    """

    dense: Linear[M, V] | None
    activation: ScorerActivation
    norm: Norm[V] | None
    output: Linear[M, V] | None
    pooling: str
    labels: tuple[str, ...] = ()
    softmax: bool = False

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Scorer[N, W]":
        dense, output = (None if one is None else one.map(matrix, vector) for one in (self.dense, self.output))
        norm = None if self.norm is None else self.norm.map(vector)
        return Scorer(dense, self.activation, norm, output, self.pooling, self.labels, self.softmax)


def attentions(layers: "Iterable[Layer[M, V]]") -> list[Attention[M, V]]:
    """Of those layers that attend to keys and values of heads."""
    return [layer.attention for layer in layers if isinstance(layer.attention, Attention)]


def latent_attentions(layers: "Iterable[Layer[M, V]]") -> list[LatentAttention[M, V]]:
    """Of those that attend to latents."""
    return [layer.attention for layer in layers if isinstance(layer.attention, LatentAttention)]


def shared_attentions(layers: "Iterable[Layer[M, V]]") -> list[SharedAttention[M, V]]:
    """Of those that attend to what others keep."""
    return [layer.attention for layer in layers if isinstance(layer.attention, SharedAttention)]


def sources(layers: "Iterable[Layer[M, V]]") -> set[int]:
    """The numbers of those whose keys and values these read."""
    return {one.source for one in shared_attentions(layers)}


def cache_owner(layers: "Sequence[Layer[Any, Any]]", number: int) -> int:
    """Whose keys and values one of these reads: an earlier one's, or its own."""
    a = layers[number].attention
    return a.source if isinstance(a, SharedAttention) else number


def input_gate_of(layer: "Layer[M, V]") -> InputGate[M, V] | None:
    """How it takes up its inputs, if it has any."""
    return layer.input_gate if isinstance(layer, Sequential) else None


def recurrent_layers(layers: "Iterable[Layer[M, V]]") -> dict[int, Recurrent[M, V]]:
    """Those that keep a state, by number."""
    found = {}
    for i, layer in enumerate(layers):
        mixer = layer.attention.beside if isinstance(layer.attention, Attention) else layer.attention
        if isinstance(mixer, ShortConvolution | DeltaNet | Mamba2):
            found[i] = mixer
    return found


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
