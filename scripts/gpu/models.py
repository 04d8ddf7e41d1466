"""Synthetic models and plans that the GPU's checks run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from powerinfer_cli.gguf_io import GGUFFile, open_gguf
from powerinfer_cli.model import Model, ModelConfig, load_model
from powerinfer_cli.placement import ActivationStatistics, ModelBytes, Placement, Plan
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.runtime.device.bytes import model_bytes
from powerinfer_cli.runtime.device.scratch import measure_scratch
from scripts.synthetic.model import write_model
from scripts.synthetic.weights import Shape
from solver.placing import DeviceProfile, PlanSettings, make_plan

__all__ = ["SHAPES", "Case", "open_case", "plan_for", "tokens"]

SHAPES = {
    "tiny": Shape(embd=256, ff=704, layers=4, heads=4, kv=2, rank=64, vocab=512, ctx=256),
    "1.1b": Shape(),
    "7b": Shape(embd=4096, ff=11008, layers=32, heads=32, kv=32, rank=512),
}
PROFILED = 64  # tokens


@dataclass(frozen=True)
class Case:
    """A model, how it is run, and what is known of it. devices: one for each budget that a plan has."""

    name: str
    gguf: GGUFFile
    model: Model
    options: EngineOptions
    devices: tuple[str, ...]
    sizes: ModelBytes
    statistics: ActivationStatistics
    profile: DeviceProfile

    @property
    def config(self) -> ModelConfig:
        return self.model.config

    def load(self, plan: Plan | None) -> Engine:
        placement = None if plan is None else Placement(plan, self.devices)
        return Engine.load(self.gguf, self.options, placement=placement)


def tokens(case: Case, count: int, seed: int = 0) -> list[int]:
    """The same random tokens on every run."""
    return [int(i) for i in np.random.default_rng(seed).integers(0, case.config.n_vocab, count)]


def open_case(folder: Path, shape: str, kind: str, options: EngineOptions, device: str, profile: DeviceProfile) -> Case:
    """Make the model if it is not there, and count its activations."""
    path = folder / f"{shape}-{kind.lower()}.powerinfer.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_model(path, SHAPES[shape], kind, dense=False)
    gguf = open_gguf(path)
    model = load_model(gguf)
    config = model.config
    counts = [np.zeros(n_ff) for n_ff in config.n_ff]
    engine = Engine.load(gguf, replace(options, n_ctx=PROFILED))
    ids = np.random.default_rng(1).integers(0, config.n_vocab, PROFILED).tolist()

    def count(layer: int, _residual: np.ndarray, activations: np.ndarray) -> None:
        counts[layer] += (activations > 0).sum(0)

    engine.record(ids, count)
    scratch = measure_scratch(model, options, options.n_ctx, device, streams=False)
    sizes = model_bytes(model, options, options.n_ctx, scratch)
    statistics = ActivationStatistics(tuple(counts))
    return Case(path.stem, gguf, model, options, (device,), sizes, statistics, profile)


def plan_for(case: Case, budgets: Sequence[int], solver: str = "milp") -> Plan:
    """What the solver makes of so many bytes on each device."""
    kind = case.model.layers[0].ffn.neurons.up.weight.type.name
    settings = PlanSettings(kind=kind, n_embd=case.config.n_embd, solver=solver)
    return make_plan(case.sizes, case.statistics, budgets, case.profile, settings).plan
