"""Mixers that keep a state of fixed size of a sequence instead of keys and values of each of its tokens."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, cast

from powerinfer_cli.model.blocks.parts import Linear, M, N, Norm, V, W

if TYPE_CHECKING:
    from powerinfer_cli.model.blocks.layers import Layer

__all__ = ["Convolution", "DeltaNet", "NoCache", "Recurrent", "ShortConvolution", "recurrent_layers"]


class NoCache:
    """Of what has no keys and values: its cache has no heads."""

    n_head: int = 0
    n_head_kv: int = 0
    head_dim: int = 0
    rope: None = None
    window: None = None


@dataclass(frozen=True)
class Convolution(Generic[V]):
    """Causal, over the tokens of a sequence, each of `channels` numbers by itself: the sum over j < length of
    weight[:, j] times the input of length - 1 - j tokens before; weight [channels, length], bias [channels].

    It keeps the last length - 1 inputs, the oldest first, each in `stride` numbers.
    """

    channels: int
    length: int
    weight: V
    bias: V | None = None

    @property
    def stride(self) -> int:
        """float32 from one input that is kept to the next: whole vectors of 16."""
        return -(-self.channels // 16) * 16

    @property
    def state_size(self) -> int:
        return (self.length - 1) * self.stride

    def map(self, vector: Callable[[V], W]) -> "Convolution[W]":
        bias = None if self.bias is None else vector(self.bias)
        return Convolution(self.channels, self.length, vector(self.weight), bias)


@dataclass(frozen=True)
class ShortConvolution(NoCache, Generic[M, V]):
    """output(after(x) * convolution(before(x) * value(x))), all [n, n_embd] but output, [n_embd, n]."""

    before: Linear[M, V]
    after: Linear[M, V]
    value: Linear[M, V]
    convolution: Convolution[V]
    output: Linear[M, V]

    @property
    def state_size(self) -> int:
        """float32 of a sequence."""
        return self.convolution.state_size

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "ShortConvolution[N, W]":
        made = cast("ShortConvolution[N, W]", self)
        before, after, value = (one.map(matrix, vector) for one in (self.before, self.after, self.value))
        convolution = self.convolution.map(vector)
        output = self.output.map(matrix, vector)
        return replace(made, before=before, after=after, value=value, convolution=convolution, output=output)


@dataclass(frozen=True)
class DeltaNet(NoCache, Generic[M, V]):
    """A gated delta net (Yang et al. 2025). mixed [2 * n_keys * key_dim + n_values * value_dim, n_embd]: queries, keys,
    values, each head's behind another's, through the convolution and SiLU. A head of values has the state S
    [key_dim, value_dim], and the key head of its number modulo n_keys where they are `tiled`, or else as many
    neighbours share one. Of each token, with k and q divided by their lengths: S *= g; S += k (b (v - S.T k)).T; it
    makes S.T q / sqrt(key_dim). g = e**(decay * softplus(alpha(x) + shift)), b = sigmoid(beta(x)); decay, shift
    [n_values]. What heads make is normed, times SiLU(gate(x)).

    It keeps the convolution's inputs, and behind these the states, whose rows have `stride` numbers.
    """

    n_keys: int
    n_values: int
    key_dim: int
    value_dim: int
    tiled: bool
    mixed: Linear[M, V]
    gate: Linear[M, V]
    alpha: Linear[M, V]
    beta: Linear[M, V]
    convolution: Convolution[V]
    decay: V
    shift: V
    norm: Norm[V]
    output: Linear[M, V]

    @property
    def stride(self) -> int:
        return -(-self.value_dim // 16) * 16

    @property
    def state_size(self) -> int:
        """float32 of a sequence."""
        return self.convolution.state_size + self.n_values * self.key_dim * self.stride

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "DeltaNet[N, W]":
        made = cast("DeltaNet[N, W]", self)
        mixed, gate, alpha, beta = (x.map(matrix, vector) for x in (self.mixed, self.gate, self.alpha, self.beta))
        made = replace(made, mixed=mixed, gate=gate, alpha=alpha, beta=beta)
        made = replace(made, convolution=self.convolution.map(vector), decay=vector(self.decay))
        norm, output = self.norm.map(vector), self.output.map(matrix, vector)
        return replace(made, shift=vector(self.shift), norm=norm, output=output)


Recurrent: TypeAlias = ShortConvolution[M, V] | DeltaNet[M, V]


def recurrent_layers(layers: "Iterable[Layer[Any, Any]]") -> dict[int, Recurrent[Any, Any]]:
    """Those that keep a state, by number."""
    mixers = ((i, layer.attention) for i, layer in enumerate(layers))
    return {i: mixer for i, mixer in mixers if isinstance(mixer, ShortConvolution | DeltaNet)}
