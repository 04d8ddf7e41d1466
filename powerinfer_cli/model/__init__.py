"""What a GGUF says about a transformer: its sizes, its kind of layers, and its weights by name."""

from powerinfer_cli.model.architecture import Activation, Architecture, NormKind, RopeStyle
from powerinfer_cli.model.config import ModelConfig, RopeConfig, RopeScaling
from powerinfer_cli.model.opt import POSITION_OFFSET
from powerinfer_cli.model.weights import LayerWeights, Linear, Norm, Weights, load_weights

__all__ = [
    "POSITION_OFFSET",
    "Activation",
    "Architecture",
    "LayerWeights",
    "Linear",
    "ModelConfig",
    "Norm",
    "NormKind",
    "RopeConfig",
    "RopeScaling",
    "RopeStyle",
    "Weights",
    "load_weights",
]
