"""Random neurons of a layer for tests of the sparse FFN, and its result, in float64 over each token's own neurons."""

from dataclasses import dataclass
from functools import partial
from math import erf

import numpy as np
import numpy.typing as npt

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.cpu.sparse.asking import ALWAYS, ASK, NEVER, Predictor, asked_neurons
from powerinfer_cli.kernels.cpu.sparse.token import NeuronMask, RowNeurons
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.model import Activation
from powerinfer_cli.model.blocks import XIELU, Curve, FatReLU, Linear, Neurons
from tests.helpers.kernels.kernel_data import Floats, bundled_rows, values_for, weight_rows
from tests.helpers.rounding import bent, curve_of

Q4_0, F32 = GGMLType.Q4_0, GGMLType.F32
RANK = 96
THRESHOLD = 0.1
BUNDLED = [kind for kind, found in FORMATS.items() if found.dot_bundle is not None]


@dataclass
class SparseLayer:
    """Neurons, and what their matrices hold, in float64."""

    neurons: RowNeurons
    predictor: Predictor | NeuronMask | None
    gate: Floats | None
    up: Floats
    down_t: Floats
    fc2: Floats
    asking: GGMLType
    modes: npt.NDArray[np.uint8]

    def through(self, hidden: Vectors, tokens: int) -> npt.NDArray[np.bool_]:
        """Who is let through, [tokens, n_ff], by the predictor."""
        logits = values_for(self.asking, hidden)[:tokens] @ self.fc2.T
        found: npt.NDArray[np.bool_] = (self.modes == ALWAYS) | ((self.modes == ASK) & (logits >= THRESHOLD))
        return found


def sparse_layer(
    kinds: tuple[GGMLType, GGMLType, GGMLType] = (Q4_0, Q4_0, Q4_0),
    n_ff: int = 70,
    n: int = 96,
    *,
    gated: bool = True,
    biases: bool = False,
    relu_on_up: bool = False,
    predicted: bool = True,
    activation: Activation = Activation.RELU,
    threads: int = 0,
    asking: GGMLType = F32,
    settled: bool = True,
) -> SparseLayer:
    """asking: the type of fc2, which is bundled where it can be. settled: of some neurons statistics say all."""
    rng = np.random.default_rng(5)
    (gate, w_gate), (up, w_up), (down, w_down) = (
        weight_rows(kind, n_ff, n, seed=i, scratch_threads=threads) for i, kind in enumerate(kinds)
    )
    vectors = [rng.standard_normal(m).astype(np.float32) / 4 if biases else None for m in (n_ff, n_ff, n)]
    gates, ups, downs = (Linear(*pair) for pair in zip((gate, up, down), vectors, strict=True))
    modes = rng.choice(np.array([NEVER if settled else ASK, ASK, ASK, ASK, ALWAYS], np.uint8), n_ff)
    made = weight_rows if FORMATS[asking].dot_bundle is None else partial(bundled_rows, numbers=asked_neurons(modes))
    fc2, w_fc2 = made(asking, n_ff, RANK, seed=7)
    return SparseLayer(
        Neurons(n_ff, gates if gated else None, ups, downs, True, activation, relu_on_up, curve_of(activation)),
        Predictor.of(fc2, modes, THRESHOLD) if predicted else None,
        w_gate if gated else None,
        w_up,
        w_down,
        w_fc2,
        asking,
        modes,
    )


def activated(x: Floats, activation: Activation, curve: Curve | None = None) -> Floats:
    match curve:
        case XIELU():
            return bent(x, curve)
        case FatReLU():
            return np.where(x > curve.threshold, x, 0)
    if activation.has_exact_zeros:
        return np.maximum(x, 0) ** (1 if activation is Activation.RELU else 2)
    gates = {
        Activation.SILU: lambda: 1 / (1 + np.exp(-x)),
        Activation.GELU: lambda: (1 + np.vectorize(erf)(x / 2**0.5)) / 2,
        Activation.GELU_TANH: lambda: (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2,
    }
    return x * gates[activation]()


def plain_ffn(made: SparseLayer, x: Vectors, hidden: Vectors, tokens: int) -> tuple[Floats, Floats, list[int]]:
    """The result, the sums of its terms' absolute values, and the counts."""
    neurons, n_ff = made.neurons, len(made.up)
    mask = np.ones((tokens, n_ff), bool)
    if isinstance(made.predictor, Predictor):
        mask = made.through(hidden, tokens)
    first, linear = made.gate, neurons.gate
    if first is None or linear is None:
        first, linear = made.up, neurons.up
    value = values_for(linear.weight.format.type, x)[:tokens] @ first.T
    value += 0 if linear.bias is None else linear.bias
    value = activated(value, neurons.activation, neurons.curve) * mask
    fired = value > 0 if neurons.activation.has_exact_zeros else mask
    counts = [int(mask.sum()), int(fired.sum())]
    if neurons.gate is not None:
        up = values_for(neurons.up.weight.format.type, x)[:tokens] @ made.up.T
        up += 0 if neurons.up.bias is None else neurons.up.bias
        value *= np.maximum(up, 0) if neurons.relu_on_up else up
    shift = 0 if neurons.down.bias is None else neurons.down.bias
    return value @ made.down_t + shift, np.abs(value) @ np.abs(made.down_t) + np.abs(shift), counts
