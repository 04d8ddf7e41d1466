"""What mixes a token with those before it: attention, or what is left of it where that is less."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from powerinfer_cli.model.blocks.parts import Linear, M, N, Norm, V, W
from powerinfer_cli.model.blocks.recurrent import Mamba2, NoCache, Recurrent
from powerinfer_cli.model.rope import Rope

__all__ = [
    "Attention",
    "HeadNorms",
    "LatentAttention",
    "LinearMixer",
    "Mixer",
    "NoMixer",
    "SharedAttention",
    "Squeeze",
    "Temperature",
    "alibi_exponents",
]


@dataclass(frozen=True)
class HeadNorms(Generic[V]):
    """Of queries and keys. Weights [D] for all heads alike, or [heads * D]: each head its own, or, where `whole`, the
    norm is over all heads together. after_rope: of heads that have been turned. values: these are normed as well, each
    head by its root mean square and the keys' epsilon, without a weight.
    """

    q: Norm[V]
    k: Norm[V]
    whole: bool = False
    after_rope: bool = False
    values: bool = False

    def map(self, vector: Callable[[V], W]) -> "HeadNorms[W]":
        return HeadNorms(self.q.map(vector), self.k.map(vector), self.whole, self.after_rope, self.values)


@dataclass(frozen=True)
class Temperature:
    """What a query is multiplied by: 1 + gain * log(1 + (position + ahead) // length), more the further on it is."""

    gain: float
    length: int
    ahead: int = 0

    def at(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return (1 + self.gain * np.log1p((positions + self.ahead) // self.length)).astype(np.float32)


def alibi_exponents(n_head: int) -> npt.NDArray[np.float64]:
    """[n_head]: a head's slope is 2 ** (-alibi * its exponent). k / n for the first n, the largest power of two; then,
    between those, odd multiples of 1 / 2n (Press et al. 2022).
    """
    n = 1 << n_head.bit_length() - 1
    return np.concatenate((np.arange(1, n + 1) / n, (2 * np.arange(n_head - n) + 1) / (2 * n)))


@dataclass(frozen=True)
class Attention(Generic[M, V]):
    """Attention of n_head queries of D to n_head_kv keys and values, of their own token and of those before it.

    rope None: nothing is turned. scale: of scores. window: how many positions a query sees, its own and those before
    it; None: all. chunk: it sees those from the last multiple of so many on. softcap c: scores are c tanh(score / c).
    alibi: scores fall with distance, by each head's slope; temperature None: queries are as they are. clamp c: numbers
    of q, k and v are kept within -c and c, before their norms. sinks [n_head]: scores that are in each head's softmax,
    and have no values. gate [n_head * D, n_embd]: what is attended to is multiplied by sigmoid(gate(x)). beside: what
    reads the same, and adds what it makes. causal False: queries see those behind them as well, as far as the text
    goes, or with a reach as many to each side; such a text is read whole, and nothing of it is kept.
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
    chunk: int | None = None
    gate: Linear[M, V] | None = None
    causal: bool = True
    reach: int | None = None
    beside: Mamba2[M, V] | None = None

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
        gate = None if self.gate is None else self.gate.map(matrix, vector)
        beside = None if self.beside is None else self.beside.map(matrix, vector)
        made = replace(made, alibi=self.alibi, temperature=self.temperature, gate=gate, beside=beside)
        made = replace(made, clamp=self.clamp, sinks=sinks, chunk=self.chunk)
        return replace(made, causal=self.causal, reach=self.reach)


@dataclass(frozen=True)
class SharedAttention(Generic[M, V]):
    """Attention of n_head queries of D to the keys and values that the layer `source`, which comes before, keeps of
    n_head_source heads of D. It keeps none: its cache has no heads.

    norm: of each head's queries by itself, with one weight [D], before they are turned. scale, window: as attention's;
    the source has the same window.
    """

    n_head: int
    head_dim: int
    source: int
    n_head_source: int
    q: Linear[M, V]
    output: Linear[M, V]
    norm: Norm[V]
    rope: Rope | None
    scale: float
    window: int | None = None
    n_head_kv: int = 0
    n_kv: int = 0

    @property
    def n_q(self) -> int:
        """Numbers of a token's queries."""
        return self.n_head * self.head_dim

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "SharedAttention[N, W]":
        q, norm = self.q.map(matrix, vector), self.norm.map(vector)
        made = cast("SharedAttention[N, W]", self)
        return replace(made, q=q, norm=norm, output=self.output.map(matrix, vector))


@dataclass(frozen=True)
class Squeeze(Generic[M, V]):
    """norm(linear(x)): what queries are made of, where they are made in two steps."""

    linear: Linear[M, V]
    norm: Norm[V]

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "Squeeze[N, W]":
        return Squeeze(self.linear.map(matrix, vector), self.norm.map(vector))


@dataclass(frozen=True)
class LatentAttention(Generic[M, V]):
    """Causal attention of n_head queries to what is kept of a token: one vector, [turned, latent], which is its key and
    its value for all heads alike (DeepSeek 2024, absorbed).

    q [n_head * (plain + n_rot), n_embd, or what is squeezed]: of a head, what is compared with latents, and what is
    turned. turned [n_rot, n_embd]; latent [rank, n_embd], which is normed. keys [n_head * rank, plain]: a head's plain
    part times its rows is its query to latents. values [n_head * value_dim, rank]: a head's rows times the latents that
    it attended to, which `output` [n_embd, n_head * value_dim] reads. scale: of scores.
    """

    n_head: int
    rank: int
    plain: int
    value_dim: int
    squeeze: Squeeze[M, V] | None
    q: Linear[M, V]
    turned: Linear[M, V]
    latent: Linear[M, V]
    norm: Norm[V]
    keys: M
    values: M
    output: Linear[M, V]
    rope: Rope
    scale: float
    n_head_kv: int = 1
    window: None = None

    @property
    def head_dim(self) -> int:
        """Numbers of what is kept of a token."""
        return self.rope.n_rot + self.rank

    @property
    def n_q(self) -> int:
        """Numbers of a token's queries."""
        return self.n_head * self.head_dim

    @property
    def n_kv(self) -> int:
        return self.head_dim

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "LatentAttention[N, W]":
        q, turned, latent, output = (one.map(matrix, vector) for one in (self.q, self.turned, self.latent, self.output))
        made = replace(cast("LatentAttention[N, W]", self), q=q, turned=turned, latent=latent, output=output)
        squeeze = None if self.squeeze is None else self.squeeze.map(matrix, vector)
        keys, values = matrix(self.keys), matrix(self.values)
        return replace(made, squeeze=squeeze, norm=self.norm.map(vector), keys=keys, values=values)


@dataclass(frozen=True)
class LinearMixer(NoCache, Generic[M, V]):
    """What is left of attention that was found to need no other tokens: output(x)."""

    output: Linear[M, V]

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "LinearMixer[N, W]":
        return LinearMixer(self.output.map(matrix, vector))


@dataclass(frozen=True)
class NoMixer(NoCache):
    """Nothing: the layer is an FFN alone."""

    def map(self, matrix: Callable[[Any], Any], vector: Callable[[Any], Any]) -> "NoMixer":
        return self


Mixer: TypeAlias = (
    Attention[M, V] | SharedAttention[M, V] | LatentAttention[M, V] | Recurrent[M, V] | LinearMixer[M, V] | NoMixer
)
