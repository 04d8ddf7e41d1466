"""Layers that are a mixer alone among others that are divided, rehearsed on the CPU: neurons with exact zeros."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.placement import MAIN_MEMORY, Placement, Plan
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from solver.merge import merge
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.placing.devices import DEVICES
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits

OPTIONS = EngineOptions(n_ctx=128, n_ubatch=16, n_threads=1, type_k="f32", type_v="f32")


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turned")
    dense = tiny_family("nemotron_h").file.write(folder / "dense.gguf")
    merge(open_gguf(dense), None, folder / "turned.gguf", LoadEvents())
    return folder / "turned.gguf"


def plan(path: Path, devices: list[int], share: float) -> Plan:
    groups = [layer.ffn.n_groups for layer in load_model(open_gguf(path)).layers]
    file = tiny_family("nemotron_h").file
    return plan_of(file, devices, [share] * len(groups), devices[-1], groups=groups)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_hot_neurons(turned: Path, share: float) -> None:
    engine = Engine.load(
        open_gguf(turned), OPTIONS, placement=Placement(plan(turned, [0, 0, 0, 1, 1, 1], share), DEVICES)
    )
    found = [*engine.logits(PROMPT[:40]), *map(engine.decode, PROMPT[40:60])]
    check_logits(np.stack(found), tiny_family("nemotron_h").reference[:60])


def test_what_neurons_are_is_shown(turned: Path) -> None:
    """The same wherever a layer lies; of layers without neurons none."""
    seen = []
    for devices in (None, [0, 0, MAIN_MEMORY, 0, 1, 1]):
        placement = None if devices is None else Placement(plan(turned, devices, 1.0), DEVICES)
        engine, found = Engine.load(open_gguf(turned), OPTIONS, placement=placement), {}
        engine.record(PROMPT[:16], lambda layer, _, y, found=found: found.update({layer: y.copy()}))
        seen.append(found)
    widths = [layer.ffn.n_groups for layer in load_model(open_gguf(turned)).layers]
    assert [y.shape for y in seen[1].values()] == [(16, width) for width in widths]
    for layer, y in seen[1].items():
        if widths[layer]:
            check_logits(y, seen[0][layer])
