"""What came of solving, as plain data with names that stay: for `--json`, and for whoever draws it.

{
  "format": "powerinfer solve report 1",
  "model":      {"path", "name", "architecture", "sparse", "layers", "neurons" (of the widest layer),
                 "type" (of the FFN), "bytes", "fingerprint"},
  "profile":    {"tokens" (null: not known), "density" (mean share of active neurons)} or null,
  "predictors": {"folder", "layers": [{"layer", "rank", "recall", "predicted_density", "true_density"}, ...],
                 "recall", "predicted_density", "true_density" (means; null without layers)} or null,
  "density":    {"density", "loss"} or null: share of neurons kept of a SiLU or GELU model, its cost in perplexity,
  "quality":    {"perplexity_dense", "perplexity", "loss", "error", "predicted", "active", "tokens"} or null,
  "merged":     path or null,
  "verdict":    null or {"kind", "activation", "tokens", "density", "loss", "active", "predicted" (shares), "bytes_now",
                 "bytes_sparse", "bytes_best", "bytes_turned" (of a token), "down" (type),
                 "down_loss", "tokens_per_second": {"dense", "sparse"
                 (predicted), "measured", "spread" (null: not measured)}, "gain", "pays", "says", "others" (cores),
                 "layers": [...]}
                 or, of a model that has predictors, {"kind": "predicted", "activation", "tokens", "found" (share of
                 active neurons let through, null: no zeros are exact), "bytes_now", "bytes_dense",
                 "tokens_per_second": {"sparse", "dense"} (measured), "gain", "says", "layers": [...]}
                 or, of a mixture, {"kind", "experts", "chosen" (of a token), "layers", "tokens", "expert_bytes",
                 "share" (of the file), "skew" (by layer: share of uses of the most used quarter), "again" (share),
                 "policies", "tokens_per_second": null or {"by_use", "by_layers", "main_memory"}, "hot" (share), "gain",
                 "pays", "says"},
  "experts":    null or {"experts", "chosen", "layers": [...]}: of a mixture; "neurons" and "hot" below are experts,
  "comparison": null or {"dense", "sparse", "predicted" (tokens/s), "ratio", "allowed_loss", "run": "dense"|"sparse"},
  "plan": null or {
    "file" (null: not kept), "solver", "n_ctx", "budgets" (bytes), "output_device" (-1: main memory),
    "seconds" (of the search), "gap" (share), "bound_ms", "predicted_ms", "tokens_per_second",
    "others": {solver: tokens_per_second}, "remarks": [...],
    "policies": null or {"hit_rates": {name: share}, "uploads": {name: experts a token}, "best": name},
    "machine": {"source" ("measured" or "data sheet"), "note", "cpu", "gpus": [...]},
    "devices": [{"device" (-1: main memory), "name", "attention", "predictor", "head", "kv", "scratch", "neurons",
                 "total", "budget" (null: main memory)}, ...]          bytes
    "layers":  [{"layer", "device", "neurons", "hot", "covered" (share of activations on the GPU), "active" (expected
                 neurons), "before_ms", "gpu_ms", "cpu_ms", "handover_ms", "total_ms"}, ...]     predicted, of a token
  }
}
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.model import ModelConfig
from powerinfer_cli.placement import MAIN_MEMORY, ActivationStatistics, ModelBytes, RouteTrace, RowReading, device_use
from solver.comparison import Comparison
from solver.placing import DeviceProfile, PlanResult, activity_from
from solver.routing.verdict import policy_data, policy_of
from solver.run import SolveResult

__all__ = ["FORMAT", "PlanOutcome", "report_data"]

FORMAT = "powerinfer solve report 1"


@dataclass(frozen=True)
class PlanOutcome:
    """A plan and what it was made of. names: of the GPUs. file: where it is kept, if it is."""

    result: PlanResult
    sizes: ModelBytes
    profile: DeviceProfile
    names: Sequence[str]
    n_ctx: int
    kind: str
    file: Path | None


def report_data(
    gguf: GGUFFile,
    config: ModelConfig,
    fingerprint: str,
    made: SolveResult,
    planned: PlanOutcome | None,
    merged: Path | None,
    compared: Comparison | None = None,
) -> dict[str, Any]:
    """As the module's own words say."""
    return {
        "format": FORMAT,
        "model": {
            "path": str(gguf.path),
            "name": config.name,
            "architecture": config.architecture.name,
            "sparse": gguf.sparse,
            "layers": config.n_layer,
            "neurons": max(config.n_ff),
            "type": _weight_type(gguf),
            "bytes": sum(tensor.nbytes for tensor in gguf.tensors.values()),
            "fingerprint": fingerprint,
        },
        "profile": _profile(made.statistics),
        "predictors": _predictors(made),
        "density": {"density": made.density, "loss": made.choice.loss} if made.choice else None,
        "quality": _quality(made),
        "merged": str(merged) if merged else None,
        "verdict": _verdict(made),
        "experts": _experts(made.routes, planned),
        "comparison": _comparison(compared) if compared else None,
        "plan": _plan(planned, made) if planned else None,
    }


def _profile(statistics: ActivationStatistics | None) -> dict[str, Any] | None:
    if statistics is None:
        return None
    activity = activity_from(statistics)
    seen = statistics.tokens
    shares = [counts.mean() / seen for counts in statistics.counts] if seen else map(np.mean, activity.frequencies)
    return {"tokens": seen, "density": float(fmean(map(float, shares)))}


def _predictors(made: SolveResult) -> dict[str, Any] | None:
    if made.folder is None:
        return None
    names = ("recall", "predicted_density", "true_density")
    return {
        "folder": str(made.folder),
        "layers": [
            {"layer": layer, "rank": report.rank} | {name: getattr(report, name) for name in names}
            for layer, report in enumerate(made.reports)
        ],
        **{name: fmean(getattr(r, name) for r in made.reports) if made.reports else None for name in names},
    }


def _weight_type(gguf: GGUFFile) -> str:
    """Of neurons' matrices, or experts'."""
    matrices = {name: tensor for name, tensor in gguf.tensors.items() if len(tensor.shape) > 1}
    named = [tensor for name, tensor in matrices.items() if ".ffn_up" in name] or list(matrices.values())
    return named[0].type.name


def _quality(made: SolveResult) -> dict[str, Any] | None:
    if made.quality is None:
        return None
    found = asdict(made.quality)
    return {"perplexity_dense": found.pop("dense"), "perplexity": found.pop("sparse")} | found


def _comparison(compared: Comparison) -> dict[str, Any]:
    return {
        "dense": compared.dense.tokens_per_second,
        "sparse": compared.sparse.tokens_per_second,
        "ratio": compared.ratio,
        "predicted": compared.predicted,
        "allowed_loss": compared.most_loss,
        "run": "sparse" if compared.sparse_wins else "dense",
    }


def _verdict(made: SolveResult) -> dict[str, Any] | None:
    found = made.verdict or made.experts or made.seen
    return found.data() if found else None


def _experts(routes: RouteTrace | None, planned: PlanOutcome | None) -> dict[str, Any] | None:
    if routes is not None:
        return {"experts": max(routes.n_experts), "chosen": max(routes.n_chosen), "layers": list(routes.layers)}
    sizes = planned.sizes.layers if planned else ()
    layers = [i for i, layer in enumerate(sizes) if layer.reading is RowReading.CHOSEN]
    if not layers:
        return None
    return {
        "experts": max(sizes[i].neurons for i in layers),
        "chosen": max(sizes[i].chosen for i in layers),
        "layers": layers,
    }


def _plan(planned: PlanOutcome, made: SolveResult) -> dict[str, Any]:
    statistics, policy = made.statistics, policy_of(made.routes, planned.result.plan) if made.routes else None
    result, prediction = planned.result, planned.result.prediction
    plan, profile = result.plan, planned.profile
    devices = [*plan.gpus, MAIN_MEMORY]
    return {
        "file": str(planned.file) if planned.file else None,
        "solver": plan.solver,
        "n_ctx": planned.n_ctx,
        "budgets": list(plan.budgets),
        "output_device": plan.output,
        "seconds": result.seconds,
        "gap": result.gap,
        "bound_ms": 1e3 * result.bound,
        "predicted_ms": 1e3 * prediction.seconds,
        "tokens_per_second": prediction.tokens_per_second,
        "others": {name: other.tokens_per_second for name, other in result.others.items()},
        "remarks": list(result.remarks),
        "policies": policy_data(policy) if policy else None,
        "machine": {
            "source": profile.source,
            "note": profile.note,
            "cpu": profile.cpu.name,
            "gpus": [gpu.name for gpu in profile.gpus],
        },
        "devices": [_device(planned, device) for device in devices],
        "layers": [_layer(planned, statistics, index) for index in range(len(plan.layers))],
    }


def _device(planned: PlanOutcome, device: int) -> dict[str, Any]:
    use = device_use(planned.sizes, planned.result.plan, device)
    here = device != MAIN_MEMORY
    return {
        "device": device,
        "name": planned.names[device] if here else "main memory",
        **asdict(use),
        "total": use.total,
        "budget": planned.result.plan.budgets[device] if here else None,
    }


def _layer(planned: PlanOutcome, statistics: ActivationStatistics | None, index: int) -> dict[str, Any]:
    placed, time = planned.result.plan.layers[index], planned.result.prediction.layers[index]
    neurons = planned.sizes.layers[index].neurons
    active = float(planned.sizes.layers[index].chosen or neurons)
    if statistics is not None:
        seen = statistics.tokens or max(float(counts.max(initial=0.0)) for counts in statistics.counts) or 1.0
        active = float(np.clip(statistics.counts[index] / seen, 0, 1).sum())
    times = {"before": time.before, "gpu": time.gpu, "cpu": time.cpu, "handover": time.handover, "total": time.total}
    return {
        "layer": index,
        "device": placed.device,
        "neurons": neurons,
        "hot": int(placed.hot.size),
        "covered": time.covered,
        "active": active,
        **{f"{name}_ms": 1e3 * seconds for name, seconds in times.items()},
    }
