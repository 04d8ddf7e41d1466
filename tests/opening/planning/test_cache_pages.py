"""How many pages of the KV cache GPUs get, rehearsed on the CPU: by budget, and none."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.model import load_model
from powerinfer_cli.opening import PlacementWishes
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.planning import cache_pages, plan_job
from powerinfer_cli.opening.planning.cache_pages import with_fitting_pages, with_room_for_pages
from powerinfer_cli.opening.planning.gpus import Target
from powerinfer_cli.opening.planning.placing import place
from powerinfer_cli.opening.planning.plan_job import PlanJob
from powerinfer_cli.placement import (
    MAIN_MEMORY,
    LayerBytes,
    LayerPlacement,
    ModelBytes,
    Plan,
    all_neurons,
    device_use,
    no_neurons,
    reserve,
    shown_bytes,
)
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.runtime.device.bytes import model_bytes
from solver.placing import make_plan
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.placing.devices import backend_of
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import tiny_model

GIB, MIB = 1 << 30, 1 << 20


def of_8b(n_ctx: int) -> ModelBytes:
    """Llama 3 8B in Q4_K_M, its cache in halves."""
    n_pages, page = n_ctx // 128, 128 * 4096
    layer = LayerBytes(26 * MIB, 0, n_pages * page, 100 << 10, 1024, divisible=False, n_pages=n_pages, page=page)
    return ModelBytes((layer,) * 32, 420 * MIB, 600 * MIB, 20 * MIB)


def pages_of(sizes: ModelBytes, budget: int) -> tuple[int | None, int]:
    """Of each layer's cache on a GPU, and how many layers are there."""
    reserve_of = partial(reserve, budgets=(budget,), whole=True)
    found = with_fitting_pages(sizes, reserve_of, whole=True)
    return found.layers[0].pages, sum(device != MAIN_MEMORY for device in reserve_of(found).devices)


def test_all_where_they_fit() -> None:
    assert pages_of(of_8b(4096), 8 * GIB) == (None, 32)
    assert pages_of(of_8b(131072), 24 * GIB) == (None, 32)


def test_a_long_context_on_a_small_card() -> None:
    """16 GiB of cache beside 5 of weights, in 8: all layers are there, and what is left is cache."""
    pages, n_layer = pages_of(of_8b(131072), 8 * GIB)
    assert n_layer == 32
    assert pages is not None
    assert 100 < pages < 250
    assert pages_of(of_8b(131072), 5 * GIB) == (3, 32)  # and next to none


def test_where_weights_do_not_fit_by_far() -> None:
    """Pages make way for layers, which every token reads, unless what they free is no layer: then nobody waits."""
    assert pages_of(of_8b(4096), 2 * GIB) == (7, 11)
    assert pages_of(of_8b(512), 2 * GIB) == (None, 11)


@pytest.mark.parametrize(("n_layer", "pages"), [(32, 100), (20, 100), (3, 100), (20, 1024), (20, None)])
def test_room_that_a_plan_leaves_is_for_pages(n_layer: int, pages: int | None) -> None:
    """As where fewer layers are faster than as many as fit, by which pages were chosen. Not a page more would fit."""
    sizes, margin = of_8b(131072).with_pages(pages), 64 * MIB
    placed = [LayerPlacement(MAIN_MEMORY, no_neurons())] * (32 - n_layer)
    placed += [LayerPlacement(0, all_neurons(1024), pages)] * n_layer
    plan = Plan((8 * GIB,), tuple(placed), 0, "milp", "")
    found = with_room_for_pages(sizes, plan, margin)
    free = 8 * GIB - margin - device_use(sizes, found, 0).total
    counts = {one.pages for one in found.layers if one.device == 0}
    if pages is None or pages == 1024:
        assert counts == {pages}
    else:
        (count,) = counts
        assert count is not None
        assert pages < count <= 1024
        assert free >= 0
        assert count == 1024 or free < n_layer * sizes.layers[0].page


def test_a_plan_of_fewer_layers_than_pages_were_fitted_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_pages, "WAIT", 0)
    gguf = tiny_model("qwen3").file.open(tmp_path)
    model, options = load_model(gguf), EngineOptions(n_ctx=2000, n_ubatch=64, type_k="f32", type_v="f32")
    sizes = model_bytes(model, options, options.n_ctx)
    target = Target((), (sizes.total - int(0.4 * sum(layer.kv for layer in sizes.layers)),))
    job = PlanJob.of(gguf, model, options, target, Companions(None, None))
    fitted = job.sizes.layers[-1].pages
    monkeypatch.setattr(plan_job, "make_plan", lambda *of: make_plan(*of[:-1], replace(of[-1], max_layers=1)))
    plan, without = (replace(job, kv_offload=offload).whole_layers().plan for offload in (True, False))
    assert plan.layers[0].device == without.layers[0].device == MAIN_MEMORY
    pages = plan.layers[1].pages
    assert fitted is not None
    assert pages is not None
    assert fitted < pages
    assert without.layers[1].pages == 0
    assert device_use(job.sizes, plan, 0).total <= job.budgets[0] - job.margin


def test_what_several_layers_read_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the small Gemma 4, whose last two layers read what the two before keep: by budget, and wholly outside."""
    one, notes = tiny_family("gemma4-small"), list[str]()
    gguf = one.file.open(tmp_path)
    model = load_model(gguf)
    options = EngineOptions(n_ctx=200, n_ubatch=16, n_threads=1, type_k="f32", type_v="f32")
    asked = PlacementWishes(vram_budget=(GIB,), device="cpu", kv_offload=False)
    found = place(gguf, model, options, asked, Companions(None, None), LoadEvents(notes.append)).placement
    engine = Engine(model, options, placement=found)
    check_logits(engine.logits(PROMPT), one.reference)
    sizes = model_bytes(model, options, 200)
    every = sum(layer.kv for layer in (*sizes.layers, *sizes.shared))
    assert any(note.startswith(f"{shown_bytes(every)} of {shown_bytes(every)} of the KV cache") for note in notes)
    assert backend_of(engine)._overflow.here == dict.fromkeys(range(6), 0)
    assert found is not None
    assert device_use(sizes, found.plan, 0).kv == sum(layer.spare for layer in (*sizes.layers, *sizes.shared))
    assert device_use(sizes, found.plan, MAIN_MEMORY).kv == every
    # A budget that lacks some of the caches: as many pages as fit, of all alike.
    monkeypatch.setattr(cache_pages, "WAIT", 0)
    long = replace(options, n_ctx=4000)
    whole = model_bytes(model, long, 4000)
    budget = whole.total + whole.joining - whole.shared[1].kv // 2
    job = PlanJob.of(gguf, model, long, Target((), (budget,)), Companions(None, None))
    plan = job.whole_layers().plan
    pages = [layer.pages for layer, size in zip(plan.layers, whole.layers, strict=True) if not size.windowed]
    assert pages == [pages[0]] * 3
    assert 0 < (pages[0] or 0) < whole.shared[1].n_pages
    assert 0 <= budget - job.margin - device_use(whole, plan, 0).total < 2 * whole.shared[1].page


def test_a_plan_of_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within the budget, and with the same results."""
    monkeypatch.setattr(cache_pages, "WAIT", 0)  # which weighs more than all of so small a model
    gguf = tiny_model("qwen3").file.open(tmp_path)
    model = load_model(gguf)
    options = EngineOptions(n_ctx=2000, n_ubatch=64, n_threads=1, type_k="f32", type_v="f32")
    sizes = model_bytes(model, options, options.n_ctx)
    kv = sum(layer.kv for layer in sizes.layers)
    text = np.random.default_rng(1).integers(0, model.config.n_vocab, 300).tolist()
    exact = Engine(model, options).logits(text)
    for budget, wishes in ((sizes.total - int(0.4 * kv), {}), (GIB, {"kv_offload": False})):
        notes: list[str] = []
        asked = PlacementWishes(vram_budget=(budget,), device="cpu", **wishes)
        found = place(gguf, model, options, asked, Companions(None, None), LoadEvents(notes.append)).placement
        assert found is not None
        pages = [layer.pages for layer in found.plan.layers]
        assert all(layer.device == 0 for layer in found.plan.layers)
        assert pages == [0] * len(pages) if wishes else all(pages)
        assert device_use(sizes, found.plan, 0).total <= budget
        left, total = device_use(sizes, found.plan, MAIN_MEMORY).kv, device_use(sizes, found.plan, 0).kv
        assert 0 <= left + total - kv <= kv / 50
        assert any("MiB of the KV cache of layers on the GPU stay in main memory" in note for note in notes)
        check_logits(Engine(model, options, placement=found).logits(text), exact)
