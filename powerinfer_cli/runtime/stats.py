"""How many neurons took part, where, and how long that took."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from powerinfer_cli.runtime.trials import Trials

__all__ = ["Drafted", "LayerExperts", "LayerNeurons", "SparsityStats", "TierSeconds"]

Ints = npt.NDArray[np.int64]
TOTAL, PREDICTED, FIRED = range(3)


@dataclass(frozen=True)
class LayerExperts:
    """Of a layer with experts: how many; those that lie on GPUs now; those that the last token chose, where a GPU has
    told; and how many of all chosen ones lay on GPUs, 0..1, None where that is not counted.
    """

    n_experts: int
    hot: tuple[int, ...]
    chosen: tuple[int, ...]
    hit_rate: float | None


@dataclass(frozen=True)
class LayerNeurons:
    """One layer: its neurons, those of them that lie on GPUs, and the mean share that was non-zero for a token, 0..1,
    None where nothing sparse has run; and its experts, where it has any.
    """

    n_neurons: int
    n_hot: int
    active: float | None
    experts: LayerExperts | None = None


@dataclass(frozen=True)
class Drafted:
    """Of one text: tokens that were proposed and verified, how many of these were right, and how many drafts."""

    proposed: int = 0
    accepted: int = 0
    drafts: int = 0


@dataclass
class TierSeconds:
    """Since the last reset. total: of forward passes and of logits; of these, cold: the CPU computed neurons of layers
    on GPUs; waiting: it waited for what it needs for that; outside_cold: all but `cold`. What a GPU does beside the
    cold neurons, hot ones for the most part, is in none of them: asking it how long that took would stop it.
    """

    total: float = 0.0
    cold: float = 0.0
    waiting: float = 0.0
    outside_cold: float = 0.0


@dataclass(eq=False)
class SparsityStats:
    """Counts over all sparse layers and tokens since the last reset: neurons there, predicted active, and non-zero.

    counts: the three by layer, int64 [n_layer, 3], with as many rows as were needed so far. hot: of the non-zero ones,
    those on GPUs. routed: by layer [n_layer, 2], experts that were chosen, and those of them that were on a GPU.
    uploads: experts, or groups of neurons, that were brought to a GPU in place of others; moved: their bytes.
    trials: proposed tokens, none of which is in the counts before it is accepted.
    Since ever: kv_gpus: bytes of the KV cache on GPUs; kv_overflow: of layers there, what of it is in main memory.
    """

    counts: Ints = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    routed: Ints = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    hot: int = 0
    uploads: int = 0
    moved: int = 0
    kv_gpus: int = 0
    kv_overflow: int = 0
    seconds: TierSeconds = field(default_factory=TierSeconds)
    trials: Trials = field(default_factory=Trials)

    def add(self, layers: Sequence[int] | slice, total: int | Ints, passed: Ints | None = None) -> None:
        """Of layers: total neurons in each, and how many the predictor let through and how many fired, [layers, 2]."""
        self.counts[layers, TOTAL] += total
        if passed is not None:
            self.counts[layers, PREDICTED:] += passed

    def add_routed(self, layer: int, chosen: int, hot: int) -> None:
        """Of a layer: so many experts were chosen, and so many of these were hot."""
        self.routed[layer] += chosen, hot

    def grow(self, n_layer: int) -> None:
        """Before `add`: room for so many layers."""
        if n_layer > len(self.counts):
            self.counts = np.concatenate([self.counts, np.zeros((n_layer - len(self.counts), 3), np.int64)])
            self.routed = np.concatenate([self.routed, np.zeros((n_layer - len(self.routed), 2), np.int64)])

    def reset(self) -> None:
        self.counts[:] = 0
        self.routed[:] = 0
        self.hot = self.uploads = self.moved = 0
        self.seconds = TierSeconds()

    @property
    def total(self) -> int:
        return int(self.counts[:, TOTAL].sum())

    @property
    def predicted(self) -> int:
        return int(self.counts[:, PREDICTED].sum())

    @property
    def fired(self) -> int:
        return int(self.counts[:, FIRED].sum())

    @property
    def mean_active(self) -> float | None:
        """Share of neurons that were non-zero, 0..1; None where nothing sparse has run."""
        return self.fired / self.total if self.total else None

    @property
    def mean_predicted(self) -> float | None:
        """Share of neurons that the predictor let through, 0..1; None where nothing sparse has run."""
        return self.predicted / self.total if self.total else None

    @property
    def hot_share(self) -> float | None:
        """Share of non-zero neurons that were computed on GPUs, 0..1; None where none was non-zero."""
        return self.hot / self.fired if self.fired else None

    @property
    def hit_rate(self) -> float | None:
        """Share of chosen experts that were on a GPU, 0..1; None where none was chosen."""
        chosen, hot = self.routed.sum(0)
        return float(hot / chosen) if chosen else None

    def hit_rate_of(self, layer: int) -> float | None:
        """The same of a layer."""
        chosen, hot = self.routed[layer] if layer < len(self.routed) else (0, 0)
        return float(hot / chosen) if chosen else None

    def placed_line(self) -> str | None:
        """For people: how often what was needed lay on a GPU, and what went there. None: nothing to tell."""
        parts = [] if self.hit_rate is None else [f"{self.hit_rate:.1%} of chosen experts on a GPU"]
        if self.uploads:
            what = "groups of neurons" if self.hit_rate is None else "experts"
            parts.append(f"{self.uploads} {what} brought there ({self.moved / 2**20:.1f} MiB)")
        if self.kv_overflow:
            whole = self.kv_gpus + self.kv_overflow
            parts.append(f"{self.kv_overflow / whole:.1%} of the KV cache ({whole / 2**20:.1f} MiB) in main memory")
        return ", ".join(parts) or None

    def shares(self, n_layer: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of each layer's neurons, those let through and those that were non-zero, 0..1; 1 where nothing sparse ran."""
        counts = np.zeros((n_layer, 3), np.int64)
        counts[: len(self.counts)] = self.counts
        total = counts[:, TOTAL]
        seen = np.maximum(total, 1)
        predicted, fired = (np.where(total, counts[:, kind] / seen, 1.0) for kind in (PREDICTED, FIRED))
        return predicted, fired

    def active(self, layer: int) -> float | None:
        """Share of a layer's neurons that were non-zero, 0..1; None where nothing sparse has run there."""
        if layer >= len(self.counts) or not self.counts[layer, TOTAL]:
            return None
        return float(self.counts[layer, FIRED] / self.counts[layer, TOTAL])
