"""Models with predictors from elsewhere: a dense one becomes sparse, a sparse one gets other predictors."""

from dataclasses import replace
from typing import TypeAlias

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFFile, Tensor, retyped, transposed
from powerinfer_cli.gguf_io.encoders import Fit
from powerinfer_cli.model.blocks import FFN, Everything, Layer, Linear, Neurons, Predicted, with_ffn
from powerinfer_cli.model.model import Model, read_model
from powerinfer_cli.model.predictors import LayerPredictor, Predictors
from powerinfer_cli.model.turned import FLOATS, DownType, Width, down_type

__all__ = ["load_model", "with_predictors"]

TensorLayer: TypeAlias = Layer[Tensor, Tensor]


def load_model(gguf: GGUFFile, predictors: Predictors | None = None, fit: Fit | None = None) -> Model:
    """A file's model, with these predictors if there are any. fit: see `with_predictors`.

    Raises:
        PowerInferError: what `read_model` and `with_predictors` raise.
    """
    model = read_model(gguf)
    return with_predictors(model, predictors, fit) if predictors else model


def with_predictors(model: Model, predictors: Predictors, fit: Fit | None = None, down: DownType = Width.AUTO) -> Model:
    """The same model, sparse by these predictors; what it computes of a neuron stays as it was.

    A down matrix is transposed when its bytes are asked for, and where it is quantised it is quantised anew, in the
    type that `down_type` says of `down`; `fit` searches for its scales. Predictors take the type that fits the neurons'
    own. A layer without one stays as it is, and runs dense: rows here and there of what is not 0 can take longer.
    Raises PowerInferError: predictors of another model.
    """
    n_layer = len(model.layers)
    if model.has_experts:
        raise PowerInferError("predictors are for models without experts: a router says which neurons are needed")
    if len(predictors.layers) != n_layer:
        raise PowerInferError(
            f"predictors of another model: {len(predictors.layers)} layers, but the model has {n_layer}"
        )
    pairs = zip(model.layers, predictors.layers, strict=True)
    layers = tuple(_sparse_layer(layer, predictor, model.config.n_embd, fit, down) for layer, predictor in pairs)
    sparse = any(predictor is not None for predictor in predictors.layers)
    config = replace(model.config, sparse=sparse, sparse_threshold=predictors.threshold)
    return replace(model, config=config, layers=layers)


def _sparse_layer(
    layer: TensorLayer, predictor: LayerPredictor | None, n_embd: int, fit: Fit | None, down: DownType
) -> TensorLayer:
    neurons = layer.ffn.neurons
    if predictor is None:
        return with_ffn(layer, FFN(neurons, Everything()))
    fc1, fc2 = predictor.fc1, predictor.fc2
    rank = fc1.shape[0]
    if fc1.shape != (rank, n_embd) or fc2.shape != (neurons.n_ff, rank):
        raise PowerInferError(
            f"a predictor of another model: matrices {fc1.shape} and {fc2.shape} "
            f"instead of (rank, {n_embd}) and ({neurons.n_ff}, rank)"
        )
    kind = neurons.up.weight.type
    selection = Predicted(*(retyped(one, _predictor_type(kind, one), fit) for one in (fc1, fc2)))
    return with_ffn(layer, FFN(_by_rows(neurons, n_embd, fit, down), selection))


def _by_rows(
    neurons: Neurons[Tensor, Tensor], n_embd: int, fit: Fit | None, wanted: DownType
) -> Neurons[Tensor, Tensor]:
    """With the down matrix transposed."""
    if neurons.transposed:
        return neurons
    down = neurons.down.weight
    turned = transposed(down, down.name.replace("ffn_down", "ffn_down_t"), down_type(down.type, n_embd, wanted), fit)
    return replace(neurons, down=Linear(turned, neurons.down.bias), transposed=True)


def _predictor_type(neurons: GGMLType, matrix: Tensor) -> GGMLType:
    """As exact as the neurons that it predicts, and as small: it is read for every token."""
    if neurons is GGMLType.F32:
        return GGMLType.F32
    return GGMLType.F16 if neurons in FLOATS else _eight_bits(matrix.shape[1])


def _eight_bits(columns: int) -> GGMLType:
    """Q8_0, where rows are whole blocks of it."""
    return GGMLType.F16 if columns % BLOCK[GGMLType.Q8_0][0] else GGMLType.Q8_0
