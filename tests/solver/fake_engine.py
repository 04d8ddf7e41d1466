"""An engine of a few linear layers, for what only wants to see residuals and activations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from powerinfer_cli.model import Activation, ModelConfig

Tap = Callable[[int, np.ndarray, np.ndarray], None]


def fake_config(**changes: Any) -> ModelConfig:
    sizes = {
        "n_layer": 3,
        "n_embd": 16,
        "n_ff": (21,) * 3,
        "n_vocab": 50,
        "n_ctx_train": 64,
        "activation": Activation.RELU,
    }
    config: Any = SimpleNamespace(**(sizes | changes))
    return config


@dataclass
class FakeEngine:
    """What a token does depends on the token and the layer alone. `fail_at`: the chunk in which `failure` is raised."""

    config: ModelConfig = field(default_factory=fake_config)
    batch: int = 5
    fail_at: int | None = None
    failure: BaseException = field(default_factory=KeyboardInterrupt)
    recorded: list[list[int]] = field(default_factory=list)

    def values(self, layer: int, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """residual [T, n_embd], activations [T, n_ff] of either sign, most of them 0."""
        rng = np.random.default_rng(layer)
        table = rng.standard_normal((self.config.n_vocab, self.config.n_embd)).astype(np.float32) + 1
        n_ff = self.config.n_ff[layer]
        rows = rng.standard_normal((n_ff, self.config.n_embd)).astype(np.float32)
        residual = 100 * table[list(ids)]
        gate = np.maximum(residual @ rows.T - 400, 0)
        return residual, gate * np.where(np.arange(n_ff) % 2, 1, -1).astype(np.float32)

    def record(self, ids: Sequence[int], tap: Tap) -> None:
        for start in range(0, len(ids), self.batch):
            part = ids[start : start + self.batch]
            if len(self.recorded) == self.fail_at and start:
                raise self.failure
            for layer in range(self.config.n_layer):
                tap(layer, *self.values(layer, part))
        self.recorded.append(list(ids))

    def whole(self) -> "FakeEngine":
        """The same without its failure."""
        return replace(self, fail_at=None, recorded=[])
