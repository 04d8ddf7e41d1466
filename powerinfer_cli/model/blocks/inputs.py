"""What layers get of a token beside the residual stream, as Gemma's per-layer embeddings."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, cast

from powerinfer_cli.model.blocks.parts import Activation, Linear, M, N, Norm, V, W

__all__ = ["InputGate", "LayerInputs"]


@dataclass(frozen=True)
class LayerInputs(Generic[M, V]):
    """`width` numbers for each of n_layer layers: scale * tokens[id] + norm(projection(x)) of a token's embedding x,
    the norm of each layer's numbers by themselves. tokens [n_vocab, n_layer * width], of which a token needs one row;
    projection [n_layer * width, n_embd]; the norm's weight [width].
    """

    width: int
    n_layer: int
    scale: float
    tokens: M
    projection: Linear[M, V]
    norm: Norm[V]

    @property
    def n(self) -> int:
        """Numbers of a token."""
        return self.n_layer * self.width

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "LayerInputs[N, W]":
        made, tokens = cast("LayerInputs[N, W]", self), matrix(self.tokens)
        projection = self.projection.map(matrix, vector)
        return replace(made, tokens=tokens, projection=projection, norm=self.norm.map(vector))


@dataclass(frozen=True)
class InputGate(Generic[M, V]):
    """How a layer takes up its inputs: norm(output(act(gain * gate(x)) * inputs)) of the residual stream x, which no
    norm comes before; gate [width, n_embd], output [n_embd, width]. layer: whose inputs, by its number.
    """

    layer: int
    width: int
    activation: Activation
    gain: float
    gate: Linear[M, V]
    output: Linear[M, V]
    norm: Norm[V]

    @property
    def first(self) -> int:
        """Where its inputs begin among a token's."""
        return self.layer * self.width

    def map(self, matrix: Callable[[M], N], vector: Callable[[V], W]) -> "InputGate[N, W]":
        gate, output = (one.map(matrix, vector) for one in (self.gate, self.output))
        return replace(cast("InputGate[N, W]", self), gate=gate, output=output, norm=self.norm.map(vector))
