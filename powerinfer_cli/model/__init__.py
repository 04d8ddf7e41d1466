"""What a GGUF says about a transformer: its sizes, its kind of layers, and its weights by name."""

from powerinfer_cli.model.architecture import Activation, Architecture, NormKind, RopeStyle
from powerinfer_cli.model.config import ModelConfig, RopeConfig, RopeScaling
from powerinfer_cli.model.keys import key_notes
from powerinfer_cli.model.opt import POSITION_OFFSET
from powerinfer_cli.model.predictors import LayerPredictor, Predictors, load_predictors
from powerinfer_cli.model.sparse import load_model, with_predictors
from powerinfer_cli.model.weights import LayerWeights, Linear, Norm, Weights, load_weights

__all__ = [
    "POSITION_OFFSET",
    "Activation",
    "Architecture",
    "LayerPredictor",
    "LayerWeights",
    "Linear",
    "ModelConfig",
    "Norm",
    "NormKind",
    "Predictors",
    "RopeConfig",
    "RopeScaling",
    "RopeStyle",
    "Weights",
    "key_notes",
    "load_model",
    "load_predictors",
    "load_weights",
    "with_predictors",
]
