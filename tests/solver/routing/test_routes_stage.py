"""Profiling a mixture: counts and trace are those of the reference, also in several goes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.placement import load_routes
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from solver.routing import expert_statistics
from solver.routing.profile import routes_stage
from solver.routing.verdict import judge_experts
from solver.stages import Place, SolverModel
from tests.helpers.families import tiny_family

OPTIONS = EngineOptions(n_threads=1, n_ubatch=64, type_k="f32", type_v="f32")
IDS = [[int(i) for i in np.random.default_rng(seed).integers(0, 90, 70)] for seed in range(5)]


def model_of(path: Path, notes: list[str] | None = None, **options: Any) -> SolverModel:
    told: list[str] = [] if notes is None else notes
    return SolverModel(open_gguf(path), replace(OPTIONS, **options), LoadEvents(note=told.append))


@pytest.mark.parametrize("name", ["qwen3moe", "gpt-oss", "deepseek2"])
def test_counts_are_the_references(tmp_path: Path, name: str) -> None:
    path = tiny_family(name).file.write(tmp_path / "model.gguf")
    found = [
        routes_stage(model_of(path, reference=reference), IDS, Place(tmp_path / str(reference)))
        for reference in (False, True)
    ]
    for statistics, trace in found:
        assert statistics.tokens == trace.tokens == 350
        for layer, counts in zip(trace.layers, trace.counts(), strict=True):
            np.testing.assert_array_equal(statistics.counts[layer], counts)
    for one, other in zip(found[0][0].counts, found[1][0].counts, strict=True):
        np.testing.assert_array_equal(one, other)
    model = model_of(path).model
    dense = [i for i in range(len(model.layers)) if i not in model.n_experts]
    assert all((found[0][0].counts[i] == 350).all() for i in dense)
    again = expert_statistics(tmp_path / "False" / "activation", model)
    assert again.tokens == 350
    verdict = judge_experts(model, found[0][1], None)
    assert (verdict.tokens, verdict.layers, verdict.pays) == (350, len(model.n_experts), False)
    assert 0 < verdict.again < 1


def interrupted(record: Callable[[Any, Any], None], after: int = 2) -> Callable[[Any, Any], None]:
    """After so many chunks."""
    left = iter(range(after))

    def some(ids: Any, tap: Any) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        record(ids, tap)

    return some


def test_an_interrupted_profile_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_family("qwen3moe").file.write(tmp_path / "model.gguf")
    whole = routes_stage(model_of(path), IDS, Place(tmp_path / "whole"))
    place, notes = Place(tmp_path / "parts"), list[str]()
    for _ in range(2):
        model = model_of(path, notes)
        monkeypatch.setattr(model.open_engine(), "record_routes", interrupted(model.open_engine().record_routes))
        with pytest.raises(KeyboardInterrupt):
            routes_stage(model, IDS, place)
    assert notes == ["profile: going on after chunk 2 of 5"]
    _, trace = routes_stage(model_of(path, notes), IDS, place)
    assert notes[1:] == ["profile: going on after chunk 4 of 5"]
    for one, other in zip(trace.chosen, whole[1].chosen, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not place.work.exists()
    kept = load_routes(place.folder / "routes.npz", model_of(path).model.n_experts)
    assert kept.model == model_of(path).fingerprint
    assert routes_stage(model_of(path, notes), IDS, place)[1].tokens == 350
    assert "activation statistics kept (350 tokens)" in notes[-1]
    (place.folder / "routes.npz").write_bytes(b"hello")
    routes_stage(model_of(path, notes), IDS, place)
    assert notes[-1].startswith("made anew: ")
