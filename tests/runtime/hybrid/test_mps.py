"""The hot tier on an Apple GPU: where there is one, and on Linux by its rules; against the torch model."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.model import load_model
from powerinfer_cli.opening import open_model
from powerinfer_cli.placement import Placement
from powerinfer_cli.runtime import Engine, EngineOptions
from solver.placing.measure_gpu import measure_gpu, measure_link
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits
from tests.helpers.simulated_mps import SimulatedMPS, simulated_mps
from tests.helpers.tiny_models import tiny_model

TYPES = [GGMLType.F16, GGMLType.Q4_0]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedMPS | None]:
    """A Mac's own GPU is None."""
    with nullcontext() if torch.backends.mps.is_available() else simulated_mps(monkeypatch) as found:
        yield found
        assert found is None or found.done


def placed(file: ModelFile, folder: Path, share: float, device: str = "mps") -> Engine:
    """share: of neurons or experts that are hot, where a layer's can be divided."""
    gguf = file.open(folder)
    layers = load_model(gguf).layers
    hot = [share if layer.ffn.divisible else 1.0 for layer in layers]
    plan = plan_of(file, [0] * len(layers), hot, 0, groups=[layer.ffn.n_groups for layer in layers])
    options = EngineOptions(n_ctx=128, n_ubatch=32, n_threads=1, type_k="f32", type_v="f32")
    return Engine.load(gguf, options, placement=Placement(plan, (device,)))


@pytest.mark.parametrize(("name", "share"), [("llama", 1.0), ("qwen2moe", 0.5), ("qwen3next", 0.5), ("mamba2", 1.0)])
def test_families(there: SimulatedMPS | None, tmp_path: Path, name: str, share: float) -> None:
    """Dense, experts on both sides, recurrent: prompts in batches, and token by token."""
    one = tiny_family(name)
    engine = placed(one.file, tmp_path, share)
    rows = [*engine.logits(PROMPT[:40]), *map(engine.decode, PROMPT[40:44]), engine.prefill(PROMPT[44:])]
    check_logits(np.stack(rows), one.reference[[*range(44), -1]])


@pytest.mark.parametrize("kind", TYPES)
def test_hot_neurons(there: SimulatedMPS | None, tmp_path: Path, kind: GGMLType) -> None:
    """As where the same operations are rehearsed on the CPU: also of quantised weights."""
    tiny = tiny_model("llama-relu")
    model = tiny.file.first_layers(2).sparsified(random_predictors(tiny)[:2]).stored_as(kind)
    engines = [placed(model, tmp_path, 0.4, device) for device in ("mps", "cpu")]
    check_logits(*[np.stack([*one.logits(PROMPT[:20]), *map(one.decode, PROMPT[20:24])]) for one in engines])
    assert len({tuple(greedy(one)) for one in engines}) == 1
    for one in engines:
        one.shift(4, 6)
    check_logits(*[one.decode(PROMPT[0])[None] for one in engines])


def greedy(engine: Engine) -> list[int]:
    engine.reset()
    found = [int(engine.prefill(PROMPT[:5]).argmax())]
    for _ in range(8):
        found.append(int(engine.decode(found[-1]).argmax()))
    return found


def test_the_bundled_story(there: SimulatedMPS | None) -> None:
    """As the flag opens it: some of its layers, and no more of the GPU's memory than the budget."""
    texts = []
    for wishes in ({"device": "mps", "vram_budget": 0.02, "n_gpu_layers": 3}, {"device": "cpu"}):
        with open_model(n_ctx=64, n_threads=1, disable_gpu_index=True, **wishes) as model:
            texts.append(model.generate("Once upon a time", max_tokens=12, temperature=0).read())
            assert (model.placement is not None) == (wishes["device"] == "mps")
    assert texts[0] == texts[1]
    assert there is None or there.fractions[-1] == pytest.approx(0.02 / 8)


def test_costs(there: SimulatedMPS | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from solver.placing import measure_gpu as measuring

    for name in ("WEIGHTS", "COPY"):
        monkeypatch.setattr(measuring, name, 1 << 16)
    for name, least in (("POSITIONS", 128), ("LONG_ENOUGH", 0.0), ("LEAST_RUNS", 1), ("ROUNDS", 1)):
        monkeypatch.setattr(measuring, name, least)
    gpu, link = measure_gpu(torch.device("mps"), (GGMLType.Q4_0,), 256), measure_link(torch.device("mps"), 256)
    assert (gpu.name, link.unified, link.rehearsed, link.in_turns) == ("mps", True, False, True)
    assert gpu.memory == torch.mps.recommended_max_memory()
