"""Each family of architectures with whole layers on a device, rehearsed on the CPU, against the torch model."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.model import load_model
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.families import FAMILIES, PROMPT, TinyFamily, tiny_family
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits

SHIFTED_AT = 52  # tokens: more than three windows


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return tiny_family(request.param)


def placed(family: TinyFamily, folder: Path, devices: list[int], output: int) -> Engine:
    options = EngineOptions(n_ctx=128, n_ubatch=32, n_threads=1, type_k="f32", type_v="f32")
    shares, gguf = [float(device != MAIN_MEMORY) for device in devices], family.file.open(folder)
    groups = [layer.ffn.n_groups for layer in load_model(gguf).layers]
    placement = Placement(plan_of(family.file, devices, shares, output, groups=groups), ("cpu",))
    return Engine.load(gguf, options, placement=placement)


def told(engine: Engine) -> np.ndarray:
    """A prompt in batches with all its logits, token by token past the window, and again after a shift."""
    rows = [*engine.logits(PROMPT[: SHIFTED_AT - 12]), *map(engine.decode, PROMPT[SHIFTED_AT - 12 : SHIFTED_AT])]
    engine.shift(4, 30)
    more = PROMPT[SHIFTED_AT:]
    return np.stack([*rows, *map(engine.decode, more[:4]), engine.prefill(more[4:])])


@pytest.fixture(scope="module")
def shifted(family: TinyFamily, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What the plain executor says after the shift."""
    plain = EngineOptions(n_ctx=128, n_threads=1, type_k="f32", type_v="f32", reference=True)
    return told(Engine.load(family.file.open(tmp_path_factory.mktemp("family")), plain))[SHIFTED_AT:]


@pytest.mark.parametrize("output", [0, MAIN_MEMORY])
def test_whole_layers(family: TinyFamily, shifted: np.ndarray, tmp_path: Path, output: int) -> None:
    """All of them with the head, or the second half without it."""
    n_layer = len(load_model(family.file.open(tmp_path)).layers)
    first = 0 if output == 0 else MAIN_MEMORY
    devices = [first] * (n_layer // 2) + [0] * (n_layer - n_layer // 2)
    found = told(placed(family, tmp_path, devices, output))
    check_logits(found[:SHIFTED_AT], family.reference[:SHIFTED_AT])
    check_logits(found[SHIFTED_AT:], shifted)
