"""What one test of `powerinfer bench` found, by llama-bench's field names where it has them."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from powerinfer_cli.commands.bench.plan import Setup, Workload
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.runtime import Drafted
from powerinfer_cli.system.cpu import processor_name

__all__ = ["ModelFacts", "Result", "Where", "cpu_info"]

NOTHING_DRAFTED = Drafted()


@cache
def cpu_info() -> str:
    """The processor's name, where the system tells it."""
    return processor_name() or "unknown"


@dataclass(frozen=True)
class ModelFacts:
    """What the model is called, its bytes and its numbers."""

    model_type: str
    model_size: int
    model_n_params: int

    @classmethod
    def of(cls, gguf: GGUFFile, config: ModelConfig) -> "ModelFacts":
        tensors = gguf.tensors.values()
        n_params = sum(tensor.n_elements for tensor in tensors)
        bytes_by_type: dict[str, int] = {}
        for tensor in tensors:
            bytes_by_type[tensor.type.name] = bytes_by_type.get(tensor.type.name, 0) + tensor.nbytes
        kind = max(bytes_by_type, key=lambda name: bytes_by_type[name])
        size = f"{n_params / 1e9:.1f}B" if n_params >= 1e9 else f"{n_params / 1e6:.1f}M"
        sparse = " sparse" if config.sparse else ""
        return cls(f"{config.architecture.name} {size} {kind}{sparse}", sum(bytes_by_type.values()), n_params)


@dataclass(frozen=True)
class Where:
    """What computes. n_gpu_layers: as `-ngl` counts them, with the head."""

    backends: str = "CPU"
    gpu_info: str = ""
    n_gpu_layers: int = 0


@dataclass(frozen=True)
class Result:
    """One test. Shares are 0..1; None where there is nothing to tell (prompts, dense models). `how`: `how_run`'s.
    hit_rate: of experts that were chosen, those on GPUs; uploads, moved: what took others' places there, and its bytes.
    """

    setup: Setup
    how: Mapping[str, Any]
    facts: ModelFacts
    where: Where
    test: Workload
    test_time: str
    samples_ns: Sequence[int]
    bytes_per_token: float | None
    bandwidth: float | None
    active: float | None
    predicted: float | None
    hit_rate: float | None = None
    uploads: int = 0
    moved: int = 0
    drafted: Drafted = NOTHING_DRAFTED

    @property
    def samples_ts(self) -> list[float]:
        """Tokens a second, of each repetition."""
        return [1e9 * (self.test.n_prompt + self.test.n_gen) / ns for ns in self.samples_ns]

    @property
    def avg_ts(self) -> float:
        return statistics.fmean(self.samples_ts)

    @property
    def stddev_ts(self) -> float:
        return _stddev(self.samples_ts)

    @property
    def bytes_per_second(self) -> float | None:
        return None if self.bytes_per_token is None else self.bytes_per_token * self.avg_ts

    @property
    def share_of_bandwidth(self) -> float | None:
        if self.bytes_per_second is None or self.bandwidth is None:
            return None
        return self.bytes_per_second / self.bandwidth

    def fields(self) -> dict[str, Any]:
        """For CSV and JSON; from `rung` on they are not llama-bench's any more."""
        setup, test = self.setup, self.test
        return {
            "cpu_info": cpu_info(),
            "gpu_info": self.where.gpu_info,
            "backends": self.where.backends,
            "model_filename": str(setup.model),
            "model_type": self.facts.model_type,
            "model_size": self.facts.model_size,
            "model_n_params": self.facts.model_n_params,
            "n_batch": setup.n_batch,
            "n_ubatch": setup.n_ubatch,
            "n_threads": setup.n_threads,
            "cpu_mask": self.how["cpu_mask"],
            "cpu_strict": self.how["cpu_strict"],
            "type_k": setup.type_k,
            "type_v": setup.type_v,
            "n_gpu_layers": self.where.n_gpu_layers,
            "use_mmap": self.how["use_mmap"],
            "n_prompt": test.n_prompt,
            "n_gen": test.n_gen,
            "n_depth": test.n_depth,
            "test_time": self.test_time,
            "avg_ns": round(statistics.fmean(self.samples_ns)),
            "stddev_ns": round(_stddev(self.samples_ns)),
            "avg_ts": self.avg_ts,
            "stddev_ts": self.stddev_ts,
            "rung": self.how["rung"],
            "repack": self.how["repack"],
            "mlock": self.how["mlock"],
            "reference": self.how["reference"],
            "spec_type": self.how["spec_type"],
            "draft_n": self.drafted.proposed,
            "draft_n_accepted": self.drafted.accepted,
            "bytes_per_token": None if self.bytes_per_token is None else round(self.bytes_per_token),
            "gb_per_s": _giga(self.bytes_per_second),
            "bandwidth_gb_per_s": _giga(self.bandwidth),
            "percent_of_bandwidth": None if self.share_of_bandwidth is None else 100 * self.share_of_bandwidth,
            "active_neurons": self.active,
            "predicted_neurons": self.predicted,
            "expert_hit_rate": self.hit_rate,
            "uploads": self.uploads,
            "uploaded_bytes": self.moved,
        }

    def samples(self) -> dict[str, Any]:
        """For JSON."""
        return {"samples_ns": list(self.samples_ns), "samples_ts": self.samples_ts}


def _stddev(values: Sequence[float]) -> float:
    """Of a sample, as llama-bench's; 0 for one value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _giga(value: float | None) -> float | None:
    return None if value is None else value / 1e9
