"""Whether neurons that are hot change while a sparse model runs, by the trace beside its statistics."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.opening.companions import Companions, find_companions
from powerinfer_cli.opening.planning.adapting import adaptive_rule
from powerinfer_cli.opening.planning.gpus import Target
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.placement import (
    HEAT,
    FiringTrace,
    HeatRule,
    LayerPlacement,
    Plan,
    save_firing,
    save_statistics,
)
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from solver.state import read_state
from tests.helpers.exact_sparse import exact_sparse

N_FF, N_LAYER = 192, 3


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Whose first 64 neurons of each layer are the most used."""
    path = exact_sparse(n_ff=N_FF)[0].write(tmp_path / "model.gguf")
    save_statistics(tmp_path / "activation", [np.arange(2 * N_FF, N_FF, -1)] * N_LAYER)
    return path


def trace(folder: Path, *, turns: bool) -> None:
    """turns: the first and the second 64 neurons take turns, 60 tokens each."""
    used = np.zeros((480, N_FF), np.bool_)
    for token in range(len(used)):
        begin = 64 * (token // 60 % 2) if turns else 0
        used[token, begin : begin + 64 : 3] = True
    save_firing(folder, FiringTrace((N_FF,) * N_LAYER, (np.packbits(used, axis=1, bitorder="little"),) * N_LAYER))


def ruled(path: Path, wish: str = "auto", hot: int = 64) -> tuple[HeatRule | None, list[str]]:
    """With so many hot neurons in the first and the last layer."""
    notes: list[str] = []
    gguf = open_gguf(path)
    model = load_model(gguf)
    beside = find_companions(gguf, model, None, notes.append)
    job = PlanJob.of(gguf, model, EngineOptions(n_ctx=64), Target(("cpu",), None), beside)
    some = LayerPlacement(0, np.arange(hot, dtype=np.int32))
    every = LayerPlacement(0, np.arange(N_FF, dtype=np.int32))
    return adaptive_rule(
        job, Plan((1 << 30,), (some, every, some), 0, "milp", ""), wish, LoadEvents(notes.append)
    ), notes


@pytest.mark.parametrize("turns", [True, False])
def test_the_trace_says_whether_to_adapt(path: Path, *, turns: bool) -> None:
    trace(path.parent, turns=turns)
    rule, (note,) = ruled(path)
    assert (rule is not None) == turns
    assert f"neurons that are on the GPU when they are needed: static {50 if turns else 100}.0%, lru " in note
    assert "belady 100.0%" in note
    assert f"taken: {'heat' if turns else 'static'}" in note


def test_without_a_trace_it_is_off(path: Path) -> None:
    record = f"powerinfer solve -m {path} --profile-only --anew"
    assert ruled(path) == (None, [f"adaptive: off, as no firing trace tells whether it pays ({record})"])
    assert ruled(path, "on") == (HEAT, [])
    assert ruled(path, hot=63)[1] == [
        "adaptive: off, as no layer is divided into hot and cold experts, or neurons with a predictor"
    ]


@pytest.mark.parametrize(("of", "n_ff"), [("another", N_FF), ("this", N_FF - 8)])
def test_another_models_trace_is_not_used(path: Path, of: str, n_ff: int) -> None:
    """Of the same widths: it was not made with the statistics beside it. Or of others."""
    read_state(path.parent).with_stage("activation", {"model": "this"}, {})
    save_firing(path.parent, FiringTrace((n_ff,) * N_LAYER, (np.zeros((4, n_ff // 8), np.uint8),) * N_LAYER, of))
    notes: list[str] = []
    traced = path.with_name("firing.npz")
    assert Companions(None, None, traced=traced).firing(load_model(open_gguf(path)), notes.append) is None
    assert len(notes) == 1
    assert notes[0].startswith(f"the firing trace is not used: {traced}: a firing trace of another model")
