"""What trial predictors are worth, measured: of small models, whose time is not their bytes, and which are in memory
twice before anybody minds.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from powerinfer_cli.kernels.cpu.encoding.fitting import CompiledFit
from powerinfer_cli.model import Model, Predictors, with_predictors
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from solver.decoding import Decoding, compare_decoding
from solver.predictor.layer import TrainedPredictor

__all__ = ["TriedDecoding", "decode_with_trials", "is_small"]

SMALL = 256 << 20  # bytes of weights: with a second engine solve takes no more than a GiB besides them
SECONDS = 2.0  # of each model


@dataclass(frozen=True)
class TriedDecoding:
    """dense; and sparse in some layers, in turns with it."""

    dense: Decoding
    sparse: Decoding


def is_small(model: Model) -> bool:
    """Whether two engines may be open."""
    return model.nbytes <= SMALL


def decode_with_trials(
    model: Model,
    options: EngineOptions,
    trained: Mapping[int, TrainedPredictor],
    ids: Sequence[int],
    on_round: Callable[[int, int], None],
) -> TriedDecoding:
    """A dense model as it is, and with predictors in some layers, by their number. ids: a text."""
    pairs = [trained.get(layer) for layer in range(model.config.n_layer)]
    predictors = Predictors.of([None if one is None else (one.fc1.numpy(), one.fc2.numpy()) for one in pairs])
    made = with_predictors(model, predictors, CompiledFit())
    silent = LoadEvents()
    dense = Engine(model, replace(options, all_active=True), None, silent)
    with closing(dense), closing(Engine(made, replace(options, all_active=False), None, silent)) as sparse:
        one, other = compare_decoding([dense, sparse], ids, SECONDS, on_round)
    return TriedDecoding(one, other)
