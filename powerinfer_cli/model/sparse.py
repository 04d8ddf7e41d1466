"""Models with predictors from elsewhere: a dense one becomes sparse, a sparse one gets other predictors."""

from dataclasses import replace

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFFile, Tensor, retyped, transposed
from powerinfer_cli.model.config import ModelConfig
from powerinfer_cli.model.predictors import LayerPredictor, Predictors
from powerinfer_cli.model.weights import LayerWeights, Linear, Weights, load_weights

__all__ = ["load_model", "with_predictors"]

_FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def load_model(gguf: GGUFFile, predictors: Predictors | None = None) -> tuple[ModelConfig, Weights]:
    """A file's sizes and tensors, with these predictors if there are any.

    Raises:
        PowerInferError: what `ModelConfig.from_gguf`, `load_weights` and `with_predictors` raise.
    """
    config = ModelConfig.from_gguf(gguf)
    weights = load_weights(gguf, config)
    return with_predictors(config, weights, predictors) if predictors else (config, weights)


def with_predictors(config: ModelConfig, weights: Weights, predictors: Predictors) -> tuple[ModelConfig, Weights]:
    """The same model, sparse by these predictors; what it computes of a neuron stays as it was.

    A down matrix is transposed when its bytes are asked for, and where it is quantised it becomes Q8_0, which moves no
    weight by more than 1/254 of the largest of 32. Predictors take the type that fits the neurons' own.
    Raises PowerInferError: predictors of another model.
    """
    if len(predictors.layers) != config.n_layer:
        raise PowerInferError(
            f"predictors of another model: {len(predictors.layers)} layers, but the model has {config.n_layer}"
        )
    pairs = zip(weights.layers, predictors.layers, strict=True)
    layers = tuple(_sparse_layer(config, layer, predictor) for layer, predictor in pairs)
    sparse = replace(config, sparse=True, sparse_threshold=predictors.threshold)
    return sparse, replace(weights, layers=layers)


def _sparse_layer(config: ModelConfig, layer: LayerWeights, predictor: LayerPredictor) -> LayerWeights:
    fc1, fc2 = predictor.fc1, predictor.fc2
    rank = fc1.shape[0]
    if fc1.shape != (rank, config.n_embd) or fc2.shape != (config.n_ff, rank):
        raise PowerInferError(
            f"a predictor of another model: matrices {fc1.shape} and {fc2.shape} "
            f"instead of (rank, {config.n_embd}) and ({config.n_ff}, rank)"
        )
    neurons = layer.ffn_up.weight.type
    sparse = replace(
        layer, fc1=retyped(fc1, _predictor_type(neurons, fc1)), fc2=retyped(fc2, _predictor_type(neurons, fc2))
    )
    if layer.ffn_down is None:
        return sparse
    down = layer.ffn_down.weight
    name = down.name.replace("ffn_down", "ffn_down_t")
    turned = transposed(down, name, down.type if down.type in _FLOATS else _eight_bits(config.n_embd))
    return replace(sparse, ffn_down=None, ffn_down_t=Linear(turned, layer.ffn_down.bias))


def _predictor_type(neurons: GGMLType, matrix: Tensor) -> GGMLType:
    """As exact as the neurons that it predicts, and as small: it is read for every token."""
    if neurons is GGMLType.F32:
        return GGMLType.F32
    return GGMLType.F16 if neurons in _FLOATS else _eight_bits(matrix.shape[1])


def _eight_bits(columns: int) -> GGMLType:
    """Q8_0, where rows are whole blocks of it."""
    return GGMLType.F16 if columns % BLOCK[GGMLType.Q8_0][0] else GGMLType.Q8_0
