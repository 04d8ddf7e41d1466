"""What a model is made of, as data: the one place that says what a layer is.

Blocks are generic in their leaves, matrices M and vectors V: tensors of a file, rows packed for the CPU, rows on a
device. `map` gives the same block with other leaves, visiting them in the order in which a token needs them; `leaves`
lists them. Neither torch nor Numba is known here. T tokens, D = head_dim.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Generic, Literal, TypeAlias, TypeVar, assert_never

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model.rope import Rope

__all__ = [
    "FFN",
    "LEAST_SUM",
    "NEAR",
    "XIELU",
    "Activation",
    "Attention",
    "Embedding",
    "Everything",
    "Gating",
    "Head",
    "HeadNorms",
    "Layer",
    "Linear",
    "LinearMixer",
    "Mixer",
    "Neurons",
    "NoMixer",
    "Norm",
    "NormKind",
    "Norms",
    "Parallel",
    "Predicted",
    "Routed",
    "Router",
    "Selection",
    "Sequential",
    "SharedExpert",
    "Temperature",
    "alibi_exponents",
    "all_active",
    "attentions",
    "leaves",
    "predictor_of",
    "routing_of",
    "with_ffn",
]

M = TypeVar("M")
V = TypeVar("V")
N = TypeVar("N")
W = TypeVar("W")


class Activation(StrEnum):
    """What a neuron's gate, or without one its up, passes through. GELU by the error function, or by tanh. Clamped
    swish: g sigmoid(1.702 g) of g = min(gate, 7), and up becomes 1 + itself, within -7 and 7, first.
    """

    RELU = "relu"
    RELU_SQUARED = "relu_squared"
    SILU = "silu"
    GELU = "gelu"
    GELU_TANH = "gelu_tanh"
    XIELU = "xielu"
    CLAMPED_SWISH = "clamped_swish"

    @property
    def has_exact_zeros(self) -> bool:
        """0 for every negative number: such neurons need not be computed, whatever else they would be."""
        match self:
            case Activation.RELU | Activation.RELU_SQUARED:
                return True
            case Activation.SILU | Activation.GELU | Activation.GELU_TANH | Activation.XIELU | Activation.CLAMPED_SWISH:
                return False
        assert_never(self)

    @property
    def bends_up(self) -> bool:
        """What it gates passes through something as well."""
        return self is Activation.CLAMPED_SWISH


@dataclass(frozen=True)
class XIELU:
    """Above 0: rise * x * x + beta * x; else fall * (e**min(x, eps) - 1 - x) + beta * x (Huang and Schlag 2024)."""

    rise: float
    fall: float
    beta: float
    eps: float

    @classmethod
    def trained(cls, alpha_n: float, alpha_p: float, beta: float, eps: float) -> "XIELU":
        """By the numbers that files hold, of which alphas are before softplus, log(1 + e**alpha)."""
        rise, fall = (float(np.logaddexp(0.0, alpha)) for alpha in (alpha_p, alpha_n))
        return cls(rise, beta + fall, beta, eps)


class NormKind(StrEnum):
    RMS = "rms"
    LAYER = "layer"

    @property
    def is_centred(self) -> bool:
        """The mean is taken out first."""
        match self:
            case NormKind.RMS:
                return False
            case NormKind.LAYER:
                return True
        assert_never(self)


@dataclass(frozen=True)
class Linear(Generic[M, V]):
    """x @ weight.T + bias: weight [rows, columns], bias [rows]."""

    weight: M
    bias: V | None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Linear[N, W]":
        return Linear(matrix(self.weight), None if self.bias is None else vector(self.bias))


@dataclass(frozen=True)
class Norm(Generic[V]):
    """By the root mean square, or by mean and variance; weight [n], bias [n]."""

    kind: NormKind
    eps: float
    weight: V
    bias: V | None

    def map(self, vector: Callable[[V], W]) -> "Norm[W]":
        bias = None if self.bias is None else vector(self.bias)
        return Norm(self.kind, self.eps, vector(self.weight), bias)


@dataclass(frozen=True)
class Norms(Generic[V]):
    """Of a block in a residual: of what it reads, of what it makes, or both. What reads is normed where `before` is."""

    before: Norm[V] | None
    after: Norm[V] | None = None

    def map(self, vector: Callable[[V], W]) -> "Norms[W]":
        before = None if self.before is None else self.before.map(vector)
        return Norms(before, None if self.after is None else self.after.map(vector))


@dataclass(frozen=True)
class HeadNorms(Generic[V]):
    """Of queries and keys. Weights [D] for all heads alike, or [heads * D]: each head its own, or, where `whole`, the
    norm is over all heads together. after_rope: of heads that have been turned.
    """

    q: Norm[V]
    k: Norm[V]
    whole: bool = False
    after_rope: bool = False

    def map(self, vector: Callable[[V], W]) -> "HeadNorms[W]":
        return HeadNorms(self.q.map(vector), self.k.map(vector), self.whole, self.after_rope)


@dataclass(frozen=True)
class Temperature:
    """What a query is multiplied by: 1 + gain * log(1 + position // length), more the further on it is."""

    gain: float
    length: int

    def at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return (1 + self.gain * np.log1p(positions // self.length)).astype(np.float32)


def alibi_exponents(n_head: int) -> npt.NDArray[np.float64]:
    """[n_head]: a head's slope is 2 ** (-alibi * its exponent). k / n for the first n, the largest power of two; then,
    between those, odd multiples of 1 / 2n (Press et al. 2022).
    """
    n = 1 << n_head.bit_length() - 1
    return np.concatenate((np.arange(1, n + 1) / n, (2 * np.arange(n_head - n) + 1) / (2 * n)))


@dataclass(frozen=True)
class Attention(Generic[M, V]):
    """Causal attention of n_head queries of D to n_head_kv keys and values.

    rope None: nothing is turned. scale: of scores. window: how many positions a query sees, its own and those before
    it; None: all. softcap c: scores are c tanh(score / c). alibi: scores fall with distance, by each head's slope;
    temperature None: queries are as they are. clamp c: numbers of q, k and v are kept within -c and c, before their
    norms. sinks [n_head]: scores that are in each head's softmax, and have no values.
    """

    n_head: int
    n_head_kv: int
    head_dim: int
    q: Linear[M, V]
    k: Linear[M, V]
    v: Linear[M, V]
    output: Linear[M, V]
    norms: HeadNorms[V] | None
    rope: Rope | None
    scale: float
    window: int | None = None
    softcap: float | None = None
    alibi: float | None = None
    temperature: Temperature | None = None
    clamp: float | None = None
    sinks: V | None = None

    @property
    def n_q(self) -> int:
        """Numbers of a token's queries."""
        return self.n_head * self.head_dim

    @property
    def n_kv(self) -> int:
        """Numbers of a token's keys, and of its values."""
        return self.n_head_kv * self.head_dim

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Attention[N, W]":
        q, k, v = (one.map(matrix, vector) for one in (self.q, self.k, self.v))
        norms = None if self.norms is None else self.norms.map(vector)
        output = self.output.map(matrix, vector)
        sizes = self.n_head, self.n_head_kv, self.head_dim
        made = Attention(*sizes, q, k, v, output, norms, self.rope, self.scale, self.window, self.softcap)
        sinks = None if self.sinks is None else vector(self.sinks)
        return replace(made, alibi=self.alibi, temperature=self.temperature, clamp=self.clamp, sinks=sinks)


class _NoCache:
    """Of what looks at no other token: its cache has no heads."""

    n_head: Literal[0] = 0
    n_head_kv: Literal[0] = 0
    head_dim: Literal[0] = 0
    rope: None = None
    window: None = None


@dataclass(frozen=True)
class LinearMixer(_NoCache, Generic[M, V]):
    """What is left of attention that was found to need no other tokens: output(x)."""

    output: Linear[M, V]

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "LinearMixer[N, W]":
        return LinearMixer(self.output.map(matrix, vector))


@dataclass(frozen=True)
class NoMixer(_NoCache):
    """Nothing: the layer is an FFN alone."""

    def map(self, matrix: Callable[[Any], Any], vector: Callable[[Any], Any]) -> "NoMixer":
        return self


Mixer: TypeAlias = Attention[M, V] | LinearMixer[M, V] | NoMixer


@dataclass(frozen=True)
class Neurons(Generic[M, V]):
    """act(gate x) * up x, or act(up x) without a gate, times down.

    gate and up [n_ff, n_embd]; down [n_embd, n_ff], or `transposed` [n_ff, n_embd], so that a neuron is a row of each;
    its bias is of n_embd. relu_on_up: up passes through ReLU as well. curve: xIELU's numbers; no other has any.
    """

    n_ff: int
    gate: Linear[M, V] | None
    up: Linear[M, V]
    down: Linear[M, V]
    transposed: bool
    activation: Activation
    relu_on_up: bool = False
    curve: XIELU | None = None

    def __post_init__(self) -> None:
        if (self.curve is not None) != (self.activation is Activation.XIELU):
            raise ValueError(f"numbers {self.curve} for neurons of {self.activation}")
        if self.activation.bends_up and (self.gate is None or self.transposed):
            raise ValueError(f"{self.activation} without a gate, or neuron by neuron")

    @property
    def divisible(self) -> bool:
        """Whether some may lie on a GPU and the others not: each must be a row of all its matrices."""
        return self.transposed

    @property
    def matrices(self) -> tuple[M, ...]:
        """Gate, where there is one, up and down."""
        return tuple(one.weight for one in (self.gate, self.up, self.down) if one is not None)

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Neurons[N, W]":
        return self.map_rows(matrix, vector, vector)

    def map_rows(self, matrix: Callable[[M], N], number: Callable[[V], W], vector: Callable[[V], W]) -> "Neurons[N, W]":
        """`number`: of biases that have a number a neuron; `vector`: of down's."""
        gate = None if self.gate is None else self.gate.map(matrix, number)
        up, down = self.up.map(matrix, number), self.down.map(matrix, vector)
        return Neurons(self.n_ff, gate, up, down, self.transposed, self.activation, self.relu_on_up, self.curve)


@dataclass(frozen=True)
class Everything:
    """Every neuron is computed, but for what exact zeros spare."""


@dataclass(frozen=True)
class Predicted(Generic[M]):
    """Those are computed whose logit, fc2 @ relu(fc1 @ x), is high enough; fc1 [rank, n_embd], fc2 [n_ff, rank].

    x: the residual stream where the FFN begins, before any norm.
    """

    fc1: M
    fc2: M

    def map(self, matrix: Callable[[M], N]) -> "Predicted[N]":
        return Predicted(matrix(self.fc1), matrix(self.fc2))


class Gating(StrEnum):
    """What makes scores of a router's logits: experts are chosen by them, and count by them. Softmax of the chosen:
    they are chosen by the logits, and count by the softmax of the chosen ones' logits. Near: each counts by its softmax
    among the logits that are hardly lower, by `NEAR` of the larger one's size, and not chosen before (Liu et al. 2024).
    """

    SOFTMAX = "softmax"
    SIGMOID = "sigmoid"
    SOFTMAX_OF_CHOSEN = "softmax_of_chosen"
    NEAR = "near"


NEAR = 0.02
LEAST_SUM = 2.0**-14
"""What the weights of chosen experts are divided by at least: a float16's smallest normal number."""


@dataclass(frozen=True)
class Router(Generic[M, V]):
    """Chooses `n_chosen` of E experts for a token, those of the highest scores, of equal ones the first; and says how
    much each counts: its score, all of them divided by their sum where `normed`, times `scale`.

    logits [E, n_embd], of what the experts read. choice_bias [E]: added to the scores for the choice alone. n_groups:
    experts come in so many groups of neighbours, and are chosen from the `n_groups_used` whose two highest scores have
    the highest sums. early: logits are of the layer's input, before attention and any norm, so that experts are known
    before they are needed.
    """

    logits: Linear[M, V]
    n_chosen: int
    gating: Gating
    choice_bias: V | None = None
    n_groups: int = 1
    n_groups_used: int = 1
    normed: bool = False
    scale: float = 1.0
    early: bool = False

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Router[N, W]":
        logits = self.logits.map(matrix, vector)
        bias = None if self.choice_bias is None else vector(self.choice_bias)
        groups = self.n_groups, self.n_groups_used
        return Router(logits, self.n_chosen, self.gating, bias, *groups, self.normed, self.scale, self.early)


@dataclass(frozen=True)
class SharedExpert(Generic[M, V]):
    """Neurons that every token needs; times sigmoid(gate . x) where there is a gate, [n_embd]."""

    neurons: Neurons[M, V]
    gate: V | None = None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "SharedExpert[N, W]":
        return SharedExpert(self.neurons.map(matrix, vector), None if self.gate is None else vector(self.gate))


@dataclass(frozen=True)
class Routed(Generic[M, V]):
    """A router says which of `n_experts` equal groups of the neurons a token needs, and how much each counts.

    The FFN's neurons are all experts': of n_experts * ff, expert e's are the ff from e * ff on. So gate and up are
    [n_experts * ff, n_embd], with biases of as many; down is [n_experts * n_embd, ff], an expert's n_embd rows behind
    another's, with a bias of n_experts * n_embd; or, transposed, [n_experts * ff, n_embd].
    """

    n_experts: int
    router: Router[M, V]
    shared: SharedExpert[M, V] | None = None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Routed[N, W]":
        router = self.router.map(matrix, vector)
        return Routed(self.n_experts, router, None if self.shared is None else self.shared.map(matrix, vector))


Selection: TypeAlias = Everything | Predicted[M] | Routed[M, V]


@dataclass(frozen=True)
class FFN(Generic[M, V]):
    """Neurons, and who says which of them a token needs."""

    neurons: Neurons[M, V]
    selection: "Selection[M, V]"

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "FFN[N, W]":
        selection = self.selection
        match selection:
            case Everything():
                return FFN(self.neurons.map(matrix, vector), selection)
            case Predicted():
                asked = selection.map(matrix)  # before any of them is read
                return FFN(self.neurons.map(matrix, vector), asked)
            case Routed():
                routed = selection.map(matrix, vector)
                return FFN(self.neurons.map(matrix, vector), routed)
        assert_never(selection)


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
class Embedding(Generic[M, V]):
    """scale * tokens[id] + positions[position + offset], normed; tokens [n_vocab, n_embd]."""

    tokens: M
    positions: M | None = None
    offset: int = 0
    scale: float = 1.0
    norm: Norm[V] | None = None


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
    """Of those layers that attend."""
    return [layer.attention for layer in layers if isinstance(layer.attention, Attention)]


def with_ffn(layer: "Layer[M, V]", ffn: FFN[M, V]) -> "Layer[M, V]":
    """The same layer with another FFN."""
    return replace(layer, ffn=ffn)


def predictor_of(selection: "Selection[M, V]") -> Predicted[M] | None:
    """The predictor, where there is one."""
    match selection:
        case Everything() | Routed():
            return None
        case Predicted():
            return selection
    assert_never(selection)


def routing_of(selection: "Selection[M, V]") -> Routed[M, V] | None:
    """The router and what belongs to it, where neurons are experts."""
    match selection:
        case Everything() | Predicted():
            return None
        case Routed():
            return selection
    assert_never(selection)


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
