"""The predictor's threshold: the file's, or the environment's."""

import math
import os

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.runtime.options import EngineOptions

__all__ = ["THRESHOLD_VARIABLE", "effective_threshold", "sparse_threshold"]

THRESHOLD_VARIABLE = "LLAMA_SPARSE_PRED_THRESHOLD"


def sparse_threshold(config: ModelConfig) -> float:
    """The file's predictor threshold, or the environment's LLAMA_SPARSE_PRED_THRESHOLD. Raises PowerInferError."""
    text = os.environ.get(THRESHOLD_VARIABLE)
    if not text:
        return config.sparse_threshold
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isnan(value):
        raise PowerInferError(f"environment variable {THRESHOLD_VARIABLE} is {text[:40]!r}, not a number")
    return value


def effective_threshold(config: ModelConfig, options: EngineOptions) -> float:
    """What a predictor's logits are compared with; every neuron passes where the options want all of them."""
    return -math.inf if options.all_active else sparse_threshold(config)
