"""What layers get of a token beside the residual stream, and how they take it up."""

from torch import Tensor

from powerinfer_cli.kernels.matrix import Matrix
from powerinfer_cli.kernels.reference import activate
from powerinfer_cli.model.blocks import InputGate, LayerInputs
from powerinfer_cli.runtime.reference.products import multiply, normed

__all__ = ["input_share", "inputs_of"]


def inputs_of(inputs: LayerInputs[Matrix, Tensor], ids: Tensor, x: Tensor) -> Tensor:
    """Of tokens ids int64 [T], whose embeddings x [T, n_embd] are: [T, n_layer, width]."""
    shape = len(ids), inputs.n_layer, inputs.width
    rows, projected = inputs.tokens.rows(ids), multiply(inputs.projection, x)
    return inputs.scale * rows.view(shape) + normed(inputs.norm, projected.view(shape))


def input_share(gate: InputGate[Matrix, Tensor], x: Tensor, inputs: Tensor) -> Tensor:
    """What a layer adds to x [T, n_embd] of the inputs [T, n_layer, width]."""
    opened = activate(gate.gain * multiply(gate.gate, x), gate.activation)
    return normed(gate.norm, multiply(gate.output, opened * inputs[:, gate.layer]))
