"""Configurations with ReLU in place of another activation, as models with sparse neurons have them.

`relu`; ProSparse's `fatrelu`, x above a threshold and else 0, and its shifted ReLU, relu(x - shift), which is a ReLU of
a gate with a bias.
"""

from dataclasses import dataclass

import numpy as np

from powerinfer_cli.convert.checkpoint import Config
from powerinfer_cli.gguf_io import GGMLType, Tensor
from powerinfer_cli.model import Activation, Architecture

__all__ = ["Relu", "relu_of", "shifted_gates"]

NAMES = ("hidden_act", "activation_function", "hidden_activation", "activation")
SHIFTED = ("shiftrelu", "shifted_relu", "shift_relu")
THRESHOLDED = ("fatrelu", "fat_relu")
KINDS = {"relu": Activation.RELU, "relu2": Activation.RELU_SQUARED}
KINDS |= dict.fromkeys((*SHIFTED, *THRESHOLDED), Activation.RELU)  # FATReLU of 0 is ReLU


@dataclass(frozen=True)
class Relu:
    """kind: with exact zeros. shift: of what it is taken of. threshold: FATReLU's."""

    kind: Activation
    shift: float = 0.0
    threshold: float = 0.0


def relu_of(config: Config, arch: Architecture) -> Relu | None:
    """None: the model's neurons are as the architecture has them, and have no zeros. Raises PowerInferError."""
    name = str(config.first(*NAMES)).lower()
    if name not in KINDS:
        return Relu(arch.activation) if arch.activation.has_exact_zeros else None
    number = config.number("hidden_act_param", default=0.0)
    if name in SHIFTED:
        return Relu(KINDS[name], shift=number)
    if name in THRESHOLDED and number > 0:
        return Relu(Activation.FATRELU, threshold=number)
    return Relu(KINDS[name])


def shifted_gates(tensors: dict[str, Tensor], shift: float) -> dict[str, Tensor]:
    """With biases of gates that shift them."""
    found = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(".ffn_gate.weight"):
            bias = np.full(tensor.shape[0], -shift, np.float32)
            stem = name.removesuffix(".weight")
            found[f"{stem}.bias"] = Tensor(f"{stem}.bias", GGMLType.F32, bias.shape, bias.view(np.uint8), tensor.path)
    return found
