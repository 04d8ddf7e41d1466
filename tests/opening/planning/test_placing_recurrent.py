"""What of a model with recurrent layers, or such that read others' keys, goes to GPUs, rehearsed on the CPU: by budget
and by layers."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.model import load_model
from powerinfer_cli.opening import PlacementWishes
from powerinfer_cli.opening.companions import Companions
from powerinfer_cli.opening.planning import plan_files
from powerinfer_cli.opening.planning.placing import place
from powerinfer_cli.placement import MAIN_MEMORY, Plan, device_use
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from powerinfer_cli.runtime.device.bytes import model_bytes
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.placing.placed_model import bytes_alone_count
from tests.helpers.rounding import check_logits

OPTIONS = EngineOptions(n_ctx=96, n_sequences=2, n_threads=1, type_k="f32", type_v="f32")


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan_files, "cache_root", lambda: tmp_path / "cache")
    bytes_alone_count(monkeypatch)


def plan_for(name: str, folder: Path, **wishes: object) -> Plan | None:
    """Which says what the torch model says; None: nothing goes to the GPU."""
    one, asked = tiny_family(name), PlacementWishes(device="cpu", **wishes)  # type: ignore[arg-type]  # any wish
    gguf = one.file.open(folder)
    model = load_model(gguf)
    found = place(gguf, model, OPTIONS, asked, Companions(None, None), LoadEvents()).placement
    engine = Engine(model, OPTIONS, placement=found)
    rows = [engine.prefill(PROMPT[:30]), *map(engine.decode, PROMPT[30:34])]
    check_logits(np.stack(rows), one.reference[29:34])
    return None if found is None else found.plan


@pytest.mark.parametrize(
    "name",
    [
        *("lfm2", "lfm2moe", "qwen3next", "qwen35", "qwen35moe", "granitehybrid-experts", "falcon-h1"),
        *("nemotron_h_moe", "gemma4-small"),
    ],
)
def test_budgets(tmp_path: Path, name: str) -> None:
    """From nothing to everything more and more is there, and never more than the budget."""
    sizes = model_bytes(load_model(tiny_family(name).file.open(tmp_path)), OPTIONS, OPTIONS.n_ctx)
    least, used = sizes.scratch, [0]
    for share in (0.0, 0.5, 0.8, 1.0):
        budget = round(least + share * (sizes.total - least))
        plan = plan_for(name, tmp_path, vram_budget=(budget,))
        used.append(0 if plan is None else device_use(sizes, plan, 0).total)
        assert used[-1] <= budget
    assert used == sorted(used)
    assert used[1] == 0
    assert used[-1] == sizes.total


@pytest.mark.parametrize("name", ["lfm2moe", "qwen35", "nemotron_h", "gemma4-small"])
@pytest.mark.parametrize("count", [1, 3])
def test_layers_by_number(tmp_path: Path, name: str, count: int) -> None:
    plan = plan_for(name, tmp_path, vram_budget=(1 << 30,), gpu_layers=count)
    assert plan is not None
    devices = [one.device for one in plan.layers]
    assert devices == [MAIN_MEMORY] * (len(devices) - count) + [0] * count
