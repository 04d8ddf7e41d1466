"""A sparse model of two layers that writes, with activation statistics beside it, and budgets that fit parts of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.commands.solve import target as solve_target
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.opening.companions import find_companions
from powerinfer_cli.opening.planning import plan_job
from powerinfer_cli.opening.planning.gpus import Target
from powerinfer_cli.opening.planning.plan_job import STAND_IN, PlanJob
from powerinfer_cli.placement import ModelBytes, save_statistics
from powerinfer_cli.runtime import EngineOptions
from solver.placing import Link, Rates, load_profile
from tests.helpers.model_file import ModelFile
from tests.helpers.word_model import word_model

N_LAYER = 2


def placed_model() -> ModelFile:
    """The model of known words with a second layer as its first."""
    model = word_model()
    second = {name.replace("blk.0.", "blk.1."): data for name, data in model.tensors.items() if "blk.0." in name}
    return replace(model.with_tensors(second), metadata={**model.metadata, "llama.block_count": N_LAYER})


def dense_model(activation: str = "silu") -> ModelFile:
    """The same without predictors."""
    model = placed_model()
    changes: dict[str, np.ndarray | None] = {}
    for layer in range(N_LAYER):
        prefix = f"blk.{layer}."
        down = np.ascontiguousarray(model.tensors[prefix + "ffn_down_t.weight"].T)
        changes |= {prefix + "ffn_down_t.weight": None, prefix + "ffn_down.weight": down}
        changes |= {prefix + "fc1.weight": None, prefix + "fc2.weight": None}
    dense = replace(model.with_tensors(changes), sparse=False)
    return dense.with_metadata(hidden_activation=activation)


def turned_model() -> ModelFile:
    """The same without predictors, its down matrices transposed: zeros are exact."""
    model = placed_model()
    names = [f"blk.{layer}.{name}.weight" for layer in range(N_LAYER) for name in ("fc1", "fc2")]
    return replace(model.with_tensors(dict.fromkeys(names)), sparse=False).with_metadata(hidden_activation="relu")


def routed_model(n_experts: int = 8, n_chosen: int = 2) -> ModelFile:
    """The same dense model, its neurons as experts, of which some are chosen more often than others."""
    model, rng = dense_model(), np.random.default_rng(7)
    changes: dict[str, np.ndarray | None] = {}
    for layer in range(N_LAYER):
        for name in ("gate", "up", "down"):
            key = f"blk.{layer}.ffn_{name}"
            rows = model.tensors[f"{key}.weight"]
            parts = np.split(rows, n_experts, axis=1 if name == "down" else 0)
            changes |= {f"{key}.weight": None, f"{key}_exps.weight": np.stack(parts)}
        n_embd = model.tensors[f"blk.{layer}.attn_norm.weight"].size
        liked = rng.permutation(np.linspace(0, 2, n_experts))
        router = rng.normal(size=(n_experts, n_embd)) + liked[:, None]
        changes[f"blk.{layer}.ffn_gate_inp.weight"] = router.astype(np.float32)
    n_ff = len(model.tensors["blk.0.ffn_up.weight"]) // n_experts
    keys = {"expert_count": n_experts, "expert_used_count": n_chosen, "feed_forward_length": n_ff}
    return model.with_tensors(changes).with_metadata(**keys, hidden_activation=None)


def write_placed(folder: Path, *, statistics: bool = True, model: ModelFile | None = None) -> Path:
    """In a folder of its own."""
    made = model or placed_model()
    path = made.write(folder / "model.gguf")
    if statistics:
        n_ff = len(made.tensors["blk.0.ffn_up.weight"])
        rng = np.random.default_rng(1)
        save_statistics(folder / "activation", [rng.integers(1, 100, n_ff) for _ in range(N_LAYER)])
    return path


def sizes_of(path: Path, n_ctx: int = 0) -> ModelBytes:
    """What it takes on a GPU."""
    gguf = open_gguf(path)
    model = load_model(gguf)
    beside = find_companions(gguf, model, None, print)
    return PlanJob.of(gguf, model, EngineOptions(n_ctx=n_ctx), Target(("cpu",), None), beside).sizes


def budget(path: Path, share: float = 0.5, n_ctx: int = 0) -> str:
    """For --vram-budget: everything but neurons, and this share of them."""
    sizes = sizes_of(path, n_ctx)
    neurons = sum(layer.ffn for layer in sizes.layers)
    return f"{(sizes.total - (1 - share) * neurons) / 2**30:.12f}"


def bytes_alone_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in for a GPU hands over for nothing, beside a CPU that is slow by the byte.

    By its data sheet handing over would cost more than all bytes of so small a model, and no layer would be divided.
    """
    sheet = load_profile(STAND_IN)
    slow = replace(sheet.cpu, rates={"any": Rates(1e6, 1e6)})
    profile = replace(sheet, cpu=slow, link=Link(bandwidth=1e15, synchronisation=0.0))
    for module in (plan_job, solve_target):
        monkeypatch.setattr(module, "load_profile", lambda _name: profile)
