"""What a GGUF says about a transformer: its sizes, and its layers as blocks over its tensors."""

from powerinfer_cli.model.architecture import Architecture
from powerinfer_cli.model.blocks import Activation, NormKind
from powerinfer_cli.model.config import ACTIVATION_THRESHOLD, DENSE_LAYERS, ModelConfig
from powerinfer_cli.model.key_table import key_notes
from powerinfer_cli.model.model import Model
from powerinfer_cli.model.predictors import LayerPredictor, Predictors, load_predictors
from powerinfer_cli.model.registry import ARCHITECTURES
from powerinfer_cli.model.rope import Rope, RopeScaling, RopeStyle
from powerinfer_cli.model.sparse import load_model, with_predictors

__all__ = [
    "ACTIVATION_THRESHOLD",
    "ARCHITECTURES",
    "DENSE_LAYERS",
    "Activation",
    "Architecture",
    "LayerPredictor",
    "Model",
    "ModelConfig",
    "NormKind",
    "Predictors",
    "Rope",
    "RopeScaling",
    "RopeStyle",
    "key_notes",
    "load_model",
    "load_predictors",
    "with_predictors",
]
