"""Mixers that keep a state of fixed size of a sequence instead of keys and values of each of its tokens."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeAlias, cast

from powerinfer_cli.model.blocks.parts import Linear, M, N, Norm, V, W

__all__ = ["Convolution", "DeltaNet", "Mamba2", "NoCache", "Recurrent", "ShortConvolution"]

LANES = 16  # columns of a state that lie together


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

    It keeps the convolution's inputs, and behind these the states, [n_values, n_blocks, key_dim, 16]: 16 columns
    together.
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
    def n_blocks(self) -> int:
        """Of 16 columns, that a head's state has."""
        return -(-self.value_dim // LANES)

    @property
    def state_size(self) -> int:
        """float32 of a sequence."""
        return self.convolution.state_size + self.n_values * self.n_blocks * self.key_dim * LANES

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "DeltaNet[N, W]":
        made = cast("DeltaNet[N, W]", self)
        mixed, gate, alpha, beta = (x.map(matrix, vector) for x in (self.mixed, self.gate, self.alpha, self.beta))
        made = replace(made, mixed=mixed, gate=gate, alpha=alpha, beta=beta)
        made = replace(made, convolution=self.convolution.map(vector), decay=vector(self.decay))
        norm, output = self.norm.map(vector), self.output.map(matrix, vector)
        return replace(made, shift=vector(self.shift), norm=norm, output=output)


@dataclass(frozen=True)
class Mamba2(NoCache, Generic[M, V]):
    """A state-space layer (Dao and Gu 2024). mixed [n_heads * value_dim + 2 * n_groups * state_dim, n_embd]: what heads
    add to their states, each head's behind another's, then by group how it is written, b, and read, c; all through the
    convolution and SiLU. n_heads / n_groups neighbours are a group, and have the state S [state_dim, value_dim] each.
    Of each token, with d = softplus(steps(x) + shift): S *= e**(decay * d); S += b (d v).T; it makes S.T c + skip * v.
    decay, shift, skip [n_heads]. What heads make, times SiLU(gate(x)), is normed, each group's by itself.

    It keeps the convolution's inputs, and behind these the states, [n_heads, n_blocks, state_dim, 16]: 16 columns
    together.
    """

    n_heads: int
    n_groups: int
    value_dim: int
    state_dim: int
    mixed: Linear[M, V]
    gate: Linear[M, V]
    steps: Linear[M, V]
    convolution: Convolution[V]
    decay: V
    shift: V
    skip: V
    norm: Norm[V] | None
    output: Linear[M, V]

    @property
    def inner(self) -> int:
        """Numbers of what all heads make."""
        return self.n_heads * self.value_dim

    @property
    def n_blocks(self) -> int:
        """Of 16 columns, that a head's state has."""
        return -(-self.value_dim // LANES)

    @property
    def state_size(self) -> int:
        """float32 of a sequence."""
        return self.convolution.state_size + self.n_heads * self.n_blocks * self.state_dim * LANES

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Mamba2[N, W]":
        made = cast("Mamba2[N, W]", self)
        mixed, gate, steps = (x.map(matrix, vector) for x in (self.mixed, self.gate, self.steps))
        made = replace(made, mixed=mixed, gate=gate, steps=steps, convolution=self.convolution.map(vector))
        made = replace(made, decay=vector(self.decay), shift=vector(self.shift), skip=vector(self.skip))
        norm = None if self.norm is None else self.norm.map(vector)
        return replace(made, norm=norm, output=self.output.map(matrix, vector))


Recurrent: TypeAlias = ShortConvolution[M, V] | DeltaNet[M, V] | Mamba2[M, V]
