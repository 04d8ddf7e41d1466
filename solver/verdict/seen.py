"""What predictors do that a model has: how much they let through, and what that is worth here. Measured, in seconds."""

from contextlib import closing
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

from powerinfer_cli.model import Activation, Model
from powerinfer_cli.model.blocks import predictor_of
from powerinfer_cli.runtime import Engine, LoadEvents
from solver.decoding import Decoding, measure_decoding
from solver.profile import ActiveRule, Chunks
from solver.stages import SolverModel
from solver.verdict.estimate import layer_bytes
from solver.verdict.look import look, short_text
from solver.verdict.verdict import Kind, always_read

__all__ = ["LayerSeen", "Seen", "look_at_predictors"]

READING, MEASURING = "verdict: reading with every neuron", "verdict: reading and decoding with predictors"
SECONDS = 2.0  # of decoding, each


@dataclass(frozen=True)
class LayerSeen:
    """Shares of neurons: predicted, let through; fired, of these not 0; active, not 0 where all are computed, None:
    no zeros are exact. rank: 0 without a predictor. bytes_now, bytes_dense: of a token, so and with every neuron.
    """

    predicted: float
    fired: float
    active: float | None
    rank: int
    bytes_now: float
    bytes_dense: float


@dataclass(frozen=True)
class Seen:
    """tokens: that were read. always: bytes of a token besides FFNs. sparse, dense: as they decode on this machine."""

    activation: Activation
    layers: tuple[LayerSeen, ...]
    tokens: int
    always: int
    sparse: Decoding
    dense: Decoding

    @property
    def ratio(self) -> float:
        return self.dense.seconds / self.sparse.seconds

    @property
    def found(self) -> float | None:
        """Of the neurons that are active, the share that predictors let through, in all layers."""
        active = sum(layer.active or 0.0 for layer in self.layers)
        known = all(layer.active is not None for layer in self.layers)
        return min(1.0, sum(layer.fired for layer in self.layers) / active) if known and active else None

    def lines(self) -> list[str]:
        """For people."""
        n_layer, some = len(self.layers), [layer for layer in self.layers if layer.rank]
        let_through = f"  predictors let {fmean(layer.predicted for layer in some):.1%} of the neurons through"
        if self.found is not None:
            active = fmean(layer.active or 0.0 for layer in some)
            let_through += f", where {active:.1%} are active; of these they find {self.found:.1%}"
        now, dense = (
            self.always + sum(getattr(layer, name) for layer in self.layers) for name in ("bytes_now", "bytes_dense")
        )
        return [
            f"verdict: {self.activation.value}, {Kind.PREDICTED}; {self.tokens:,} tokens looked at",
            let_through,
            *([] if n_layer == len(some) else [f"  {n_layer - len(some)} of {n_layer} layers are dense"]),
            "  let through by layer, %: " + " ".join(f"{100 * layer.predicted:.0f}" for layer in self.layers),
            *self._truth(),
            f"  a token reads {now / 1e6:,.1f} MB, {dense / 1e6:,.1f} MB with every neuron",
            f"  tokens/s, this machine: {self.sparse.tokens_per_second:,.1f}, "
            f"{self.dense.tokens_per_second:,.1f} with every neuron of this file (measured)",
        ]

    def _truth(self) -> list[str]:
        if self.found is None:
            return []
        return ["  active by layer, %:      " + " ".join(f"{100 * (one.active or 0.0):.0f}" for one in self.layers)]

    def sentence(self) -> str:
        """In one line, what comes of it."""
        if self.ratio > 1:
            return f"predictors make it {self.ratio:.2f} times as fast as with every neuron: there is nothing to make"
        return f"predictors gain nothing here ({self.ratio:.2f} times as fast): a dense file of this model is as good"

    def data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "kind": Kind.PREDICTED.name.lower(),
            "activation": self.activation.value,
            "tokens": self.tokens,
            "found": self.found,
            "bytes_now": self.always + sum(layer.bytes_now for layer in self.layers),
            "bytes_dense": self.always + sum(layer.bytes_dense for layer in self.layers),
            "tokens_per_second": {"sparse": self.sparse.tokens_per_second, "dense": self.dense.tokens_per_second},
            "gain": self.ratio - 1,
            "says": self.sentence(),
            "layers": [asdict(layer) for layer in self.layers],
        }


def look_at_predictors(model: SolverModel, chunks: Chunks, events: LoadEvents) -> Seen:
    """Of a model that has predictors, over a text. Raises PowerInferError."""
    pieces = short_text(chunks, model.weights)
    exact, tokens = model.config.activation.has_exact_zeros, sum(map(len, pieces))
    engine = model.open_engine()
    active: tuple[float, ...] | None = look(engine, pieces, ActiveRule(), events, READING).densities if exact else None
    model.check_weights()
    dense = measure_decoding(engine, pieces[0], SECONDS)
    del engine
    model.forget_engine()
    with closing(Engine(model.model, model.engine_options(), None, events)) as engine:
        for number, piece in enumerate(pieces):
            engine.reset()
            engine.prefill(piece)
            events.progress(MEASURING, number, len(pieces))
        predicted, fired = engine.stats.shares(model.config.n_layer)
        sparse = measure_decoding(engine, pieces[0], SECONDS)
    events.progress(MEASURING, 1, 1)
    layers = tuple(
        _seen(model.model, i, float(predicted[i]), float(fired[i]), None if active is None else active[i])
        for i in range(model.config.n_layer)
    )
    return Seen(model.config.activation, layers, tokens, always_read(model.model), sparse, dense)


def _seen(model: Model, number: int, predicted: float, fired: float, active: float | None) -> LayerSeen:
    layer = model.layers[number]
    predictor, size = predictor_of(layer.ffn.selection), layer_bytes(layer, model.config)
    if predictor is None:
        return LayerSeen(1.0, active or 1.0, active, 0, size.dense, size.dense)
    now = size.sparse(predicted, fired, 0) + predictor.fc1.nbytes + predictor.fc2.nbytes
    return LayerSeen(predicted, fired, active, predictor.fc1.shape[0], now, size.dense)
