"""Each rank plans where its own layers lie; results are those of one machine whose layers lie so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.cluster import executor, share
from powerinfer_cli.cluster.worker import Worker
from powerinfer_cli.gguf_io import GGUFFile, open_gguf
from powerinfer_cli.model import Model
from powerinfer_cli.model.blocks import leaves
from powerinfer_cli.opening import bundled_model
from powerinfer_cli.opening.planning.placing import PlacingResult
from powerinfer_cli.opening.wishes import PlacementWishes
from powerinfer_cli.placement import MAIN_MEMORY, Placement, Plan, main_memory_plan
from powerinfer_cli.runtime import Engine
from powerinfer_cli.runtime.stats import SparsityStats
from tests.helpers.cluster.ranks import OPTIONS, engine_of_ranks, told
from tests.helpers.families import tiny_family

CPU = PlacementWishes(device="cpu")
ALL = PlacementWishes(device="cpu", gpu_layers=-1)
COLD = PlacementWishes(device="cpu", gpu_layers=-1, cpu_moe=True)


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> dict[str, Plan]:
    """What each rank plans, by the name of its first layer's first tensor."""
    found: dict[str, Plan] = {}
    place = share.place

    def noted(gguf: GGUFFile, model: Model, *rest: Any, keep: bool) -> PlacingResult:
        result = place(gguf, model, *rest, keep=keep)
        none = main_memory_plan(len(model.layers))
        found[leaves(model.layers[0])[0][0].name] = none if result.placement is None else result.placement.plan
        return result

    monkeypatch.setattr(share, "place", noted)
    return found


@pytest.mark.parametrize(
    ("name", "wishes"),
    [("gemma3", (CPU, ALL)), ("qwen3next", (ALL, CPU)), ("mixtral", (COLD, COLD)), ("gemma4-small", (ALL, ALL))],
)
def test_equal_to_the_bit(
    tmp_path: Path, plans: dict[str, Plan], name: str, wishes: tuple[PlacementWishes, ...]
) -> None:
    """One machine's, of which a plan is made of those of the ranks."""
    path = tiny_family(name).file.write(tmp_path / "tiny.gguf")
    with engine_of_ranks(path, 2, OPTIONS, placements=wishes) as engine:
        found, devices = told(engine), engine.devices
    assert devices == tuple(f"rank {rank}, GPU 0" for rank, wish in enumerate(wishes) if wish is not CPU)
    parts = [plans[key] for key in sorted(plans)]
    whole = Plan((1 << 30,), sum((one.layers for one in parts), ()), parts[-1].output, "layers", "")
    one = Engine.load(open_gguf(path), OPTIONS, placement=Placement(whole, ("cpu",)))
    for mine, other in zip(found, told(one), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_each_has_its_own_budget(plans: dict[str, Plan]) -> None:
    """Of the bundled model's 5 layers one rank's fit 10 MiB, of which another has too little."""
    budgets = PlacementWishes(device="cpu", vram_budget=(10 << 20,)), PlacementWishes(device="cpu", vram_budget=(1,))
    with engine_of_ranks(bundled_model(), 2, OPTIONS, placements=budgets) as engine:
        assert engine.devices == ("rank 0, GPU 0",)
    first, second = (plans[key] for key in sorted(plans))
    assert [layer.device for layer in first.layers] == [0, 0, 0]
    assert [layer.device for layer in second.layers] == [MAIN_MEMORY] * 2


@pytest.mark.parametrize(("name", "mib", "moved"), [("qwen3moe", (2, 2), 0), ("mixtral", (0, 3), 1)])
def test_what_is_hot_follows_use_on_each_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, mib: tuple[int, int], moved: int
) -> None:
    """As on one machine whose layers lie so: heat is of a layer, by tokens. moved: the rank where experts move."""
    placed, uploads, place, worker = dict[str, PlacingResult](), list[SparsityStats](), share.place, executor.Worker

    def noted(gguf: GGUFFile, model: Model, *rest: Any, keep: bool) -> PlacingResult:
        result = place(gguf, model, *rest, keep=keep)
        placed[leaves(model.layers[0])[0][0].name] = result
        return result

    def counted(*parts: Any) -> Worker:
        found = worker(*parts)
        uploads.append(found.stats)
        return found

    monkeypatch.setattr(share, "place", noted)
    monkeypatch.setattr(executor, "Worker", counted)
    wishes = [PlacementWishes(device="cpu", vram_budget=(n << 20,), adaptive="on") if n else CPU for n in mib]
    path = tiny_family(name).file.write(tmp_path / "tiny.gguf")
    with engine_of_ranks(path, 2, OPTIONS, placements=wishes) as engine:
        found = told(engine)
        counts = engine.stats.uploads, uploads[0].uploads
    assert counts[moved] > 0
    parts = [placed[key].placement for key in sorted(placed)]
    n_layers = [3, 1]
    plans = [main_memory_plan(n) if one is None else one.plan for one, n in zip(parts, n_layers, strict=True)]
    adapting = parts[moved]
    assert adapting is not None
    whole = Plan((1 << 30,), sum((plan.layers for plan in plans), ()), plans[-1].output, "layers", "")
    one = Engine.load(open_gguf(path), OPTIONS, placement=replace(adapting, plan=whole))
    for mine, other in zip(found, told(one), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert one.stats.uploads == sum(counts)
