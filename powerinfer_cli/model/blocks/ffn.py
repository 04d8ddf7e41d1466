"""Neurons, and who says which of them a token needs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Generic, TypeAlias, assert_never, cast

from powerinfer_cli.model.blocks.parts import XIELU, Activation, Curve, FatReLU, Linear, M, N, Norm, Norms, V, W

__all__ = [
    "FFN",
    "LEAST_SUM",
    "LOWEST_SCORE",
    "NEAR",
    "Everything",
    "ExpertLatents",
    "Gating",
    "Neurons",
    "Predicted",
    "Routed",
    "Router",
    "Selection",
    "SharedExpert",
    "predictor_of",
    "routing_of",
]


@dataclass(frozen=True)
class Neurons(Generic[M, V]):
    """act(gate x) * up x, or act(up x) without a gate, times down.

    gate and up [n_ff, n_embd]; down [n_embd, n_ff], or `transposed` [n_ff, n_embd], so that a neuron is a row of each;
    its bias is of n_embd. n_ff 0: there are none, as in a layer that is a mixer alone; such have no leaves. relu_on_up:
    up passes through ReLU as well. curve: the activation's numbers, where it has any.
    """

    n_ff: int
    gate: Linear[M, V] | None
    up: Linear[M, V]
    down: Linear[M, V]
    transposed: bool
    activation: Activation
    relu_on_up: bool = False
    curve: Curve | None = None

    def __post_init__(self) -> None:
        kinds = {Activation.XIELU: XIELU, Activation.FATRELU: FatReLU}
        if type(self.curve) is not kinds.get(self.activation, type(None)):
            raise ValueError(f"numbers {self.curve} for neurons of {self.activation}")
        if self.activation.bends_up and (self.gate is None or self.transposed):
            raise ValueError(f"{self.activation} without a gate, or neuron by neuron")

    @property
    def threshold(self) -> float:
        """What has exact zeros is 0 up to this."""
        return self.curve.threshold if isinstance(self.curve, FatReLU) else 0.0

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
        if not self.n_ff:
            return cast("Neurons[N, W]", self)
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
LOWEST_SCORE = -3e38
"""No logit counts as lower: neither what is infinitely low, nor what is no number; nor as higher than its opposite."""
LEAST_SUM = 2.0**-14
"""What the weights of chosen experts are divided by at least: a float16's smallest normal number."""


@dataclass(frozen=True)
class Router(Generic[M, V]):
    """Chooses `n_chosen` of E experts for a token, those of the highest scores, of equal ones the first; and says how
    much each counts: its score, all of them divided by their sum where `normed`, times `scale`.

    logits [E, n_embd], of what the experts read, or, where there is a norm, of the normed residual stream where the FFN
    begins. choice_bias [E]: added to the scores for the choice alone. n_groups:
    experts come in so many groups of neighbours, and are chosen from the `n_groups_used` whose `group_best` highest
    scores, two or one, have the highest sums. early: logits are of the layer's input, before attention and any norm,
    so that experts are known before they are needed. on_input: an expert's weight multiplies what it reads, not what it
    makes; such experts have no biases. gains [E]: what a chosen expert's weight is multiplied by in the end.
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
    group_best: int = 2
    on_input: bool = False
    norm: Norm[V] | None = None
    gains: V | None = None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Router[N, W]":
        norm = None if self.norm is None else self.norm.map(vector)
        logits = self.logits.map(matrix, vector)
        bias, gains = (None if one is None else vector(one) for one in (self.choice_bias, self.gains))
        return replace(cast("Router[N, W]", self), logits=logits, choice_bias=bias, norm=norm, gains=gains)


@dataclass(frozen=True)
class SharedExpert(Generic[M, V]):
    """Neurons that every token needs; times sigmoid(gate . x) where there is a gate, [n_embd]. norm: of their sum."""

    neurons: Neurons[M, V]
    gate: V | None = None
    norm: Norm[V] | None = None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "SharedExpert[N, W]":
        gate = None if self.gate is None else vector(self.gate)
        norm = None if self.norm is None else self.norm.map(vector)
        return SharedExpert(self.neurons.map(matrix, vector), gate, norm)


@dataclass(frozen=True)
class ExpertLatents(Generic[M, V]):
    """Experts read enter(x), of L numbers, L <= n_embd, and as many are their sum; what they make is leave(sum).

    enter [L, n_embd]; leave [n_embd, L].
    """

    enter: Linear[M, V]
    leave: Linear[M, V]

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "ExpertLatents[N, W]":
        return ExpertLatents(self.enter.map(matrix, vector), self.leave.map(matrix, vector))


@dataclass(frozen=True)
class Routed(Generic[M, V]):
    """A router says which of `n_experts` equal groups of the neurons a token needs, and how much each counts.

    The FFN's neurons are all experts': of n_experts * ff, expert e's are the ff from e * ff on. So gate and up are
    [n_experts * ff, n_embd], with biases of as many; down is [n_experts * n_embd, ff], an expert's n_embd rows behind
    another's, with a bias of n_experts * n_embd; or, transposed, [n_experts * ff, n_embd].

    apart: experts are within norms of their own, beside those of the FFN: they read the residual stream where the FFN
    begins, and their sum is normed before it is added to what the shared expert makes.

    latents: experts, but for the shared one, work on latents; where shapes here say n_embd, theirs have L.
    """

    n_experts: int
    router: Router[M, V]
    shared: SharedExpert[M, V] | None = None
    apart: Norms[V] | None = None
    latents: ExpertLatents[M, V] | None = None

    def __post_init__(self) -> None:
        if self.apart is not None and self.latents is not None:
            raise ValueError("experts within norms of their own, and on latents")

    @property
    def sums_apart(self) -> bool:
        """Whether the experts' sum passes through something before the shared expert's is added."""
        return self.apart is not None or self.latents is not None

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Routed[N, W]":
        router, shared = self.router.map(matrix, vector), self.shared
        apart = None if self.apart is None else self.apart.map(vector)
        latents = None if self.latents is None else self.latents.map(matrix, vector)
        return Routed(self.n_experts, router, None if shared is None else shared.map(matrix, vector), apart, latents)


Selection: TypeAlias = Everything | Predicted[M] | Routed[M, V]


@dataclass(frozen=True)
class FFN(Generic[M, V]):
    """Neurons, and who says which of them a token needs."""

    neurons: Neurons[M, V]
    selection: "Selection[M, V]"

    @property
    def n_groups(self) -> int:
        """How many parts it has that are placed by themselves: neurons, or experts."""
        routed = routing_of(self.selection)
        return self.neurons.n_ff if routed is None else routed.n_experts

    @property
    def divisible(self) -> bool:
        """Whether some of these may lie on a GPU and the others not."""
        return routing_of(self.selection) is not None or self.neurons.divisible

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
