"""What a short text shows of a model: how often its neurons are active, and what its predictors would have to tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from powerinfer_cli.runtime import LoadEvents
from solver.predictor.samples import Samples, packed_bits, unit_halves
from solver.profile import ActiveRule, Chunks, Recordable, check_numbers
from solver.profile.recording import Floats

__all__ = ["LOOKED_AT", "Look", "look", "short_text", "tokens_of"]

LOOKED_AT = 4  # layers that predictors are tried in
PIECE = 256  # tokens
MOST, LEAST = 4096, 512  # tokens in all
WORK = 4e12  # multiplications: some 10 to 60 s


@dataclass(frozen=True)
class Look:
    """counts: of each layer, [n_ff]: for how many of the `tokens` a neuron was active. samples: of some layers."""

    tokens: int
    counts: tuple[npt.NDArray[np.int64], ...]
    samples: Mapping[int, Samples]

    @property
    def densities(self) -> tuple[float, ...]:
        """Share of active neurons by layer."""
        return tuple(float(counts.sum()) / (counts.size * self.tokens) for counts in self.counts)


def short_text(chunks: Chunks, weights: int) -> list[Sequence[int]]:
    """Pieces from all over a text."""
    wanted = max(1, tokens_of(weights) // PIECE)
    every = max(1, len(chunks) // wanted)
    return [chunk[:PIECE] for chunk in chunks[::every][:wanted]]


def tokens_of(weights: int) -> int:
    """How many tokens are looked at: 4,096, fewer for a model with very many weights, at least 512."""
    return max(LEAST, min(MOST, int(WORK / max(1, weights))))


def look(engine: Recordable, pieces: Chunks, rule: ActiveRule, events: LoadEvents, what: str) -> Look:
    """Run the pieces through; progress is told as `what`. Raises PowerInferError: activations that are no numbers."""
    n_layer, n_ff = engine.config.n_layer, engine.config.n_ff
    kept = sorted({round(i * (n_layer - 1) / max(1, LOOKED_AT - 1)) for i in range(LOOKED_AT)})
    counts = tuple(np.zeros(n, np.int64) for n in n_ff)
    inputs: dict[int, list[npt.NDArray[np.float16]]] = {layer: [] for layer in kept}
    masks: dict[int, list[npt.NDArray[np.uint8]]] = {layer: [] for layer in kept}
    done, total = 0, sum(map(len, pieces))

    def tap(layer: int, residual: Floats, activations: Floats) -> None:
        nonlocal done
        check_numbers(done, layer, residual, activations)
        mask = rule.mask(activations)
        counts[layer][:] += mask.sum(axis=0)
        if layer in inputs:
            inputs[layer].append(unit_halves(residual))
            masks[layer].append(packed_bits(mask))
        if layer == n_layer - 1:
            done += len(residual)
            events.progress(what, done, total)

    for piece in pieces:
        engine.record(piece, tap)
    samples = {
        layer: Samples(
            torch.from_numpy(np.concatenate(inputs.pop(layer))),
            torch.from_numpy(np.concatenate(masks.pop(layer))),
            n_ff[layer],
        )
        for layer in kept
    }
    return Look(total, counts, samples)
