"""Layers that read other layers' keys and values, on other sides than these, rehearsed on the CPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime import Engine, EngineOptions, Piece
from tests.helpers.families import PROMPT, TinyFamily, tiny_family
from tests.helpers.placing.devices import DEVICES, backend_of
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits
from tests.helpers.several_texts import alone, assert_same, some_events, together

SPLITS = {  # layers 4 and 5 read what layers 2 and 3 keep
    "readers on a device": [MAIN_MEMORY, MAIN_MEMORY, MAIN_MEMORY, MAIN_MEMORY, 0, 0],
    "sources on a device": [MAIN_MEMORY, 0, 0, 0, MAIN_MEMORY, MAIN_MEMORY],
    "crosswise": [0, 1, 0, 1, 1, 0],
}


@pytest.fixture(scope="module")
def small() -> TinyFamily:
    return tiny_family("gemma4-small")


def engine_of(
    small: TinyFamily, folder: Path, devices: list[int] | None, pages: int | None = None, **options: object
) -> Engine:
    """pages: of each layer's cache on its device."""
    given = EngineOptions(**({"n_ctx": 128, "n_threads": 1, "type_k": "f32", "type_v": "f32"} | options))
    gguf = small.file.open(folder)
    if devices is None:
        return Engine.load(gguf, given)
    shares, groups = [float(device != MAIN_MEMORY) for device in devices], [112, 112, 112, 112, 224, 224]
    plan = plan_of(small.file, devices, shares, devices[-1], groups=groups)
    layers = [one if one.device == MAIN_MEMORY else replace(one, pages=pages) for one in plan.layers]
    return Engine.load(gguf, given, placement=Placement(replace(plan, layers=tuple(layers)), DEVICES))


@pytest.mark.parametrize("pages", [None, 0])
@pytest.mark.parametrize("split", SPLITS)
def test_logits_are_the_models(small: TinyFamily, tmp_path: Path, split: str, pages: int | None) -> None:
    """Of a prompt in batches, of tokens one by one past the window, and when all of it was restored elsewhere."""
    engine, later = (engine_of(small, tmp_path, SPLITS[split], pages, n_ubatch=23) for _ in range(2))
    assert backend_of(engine)._mirrors.targets.keys() == {2, 3}
    found = [*engine.logits(PROMPT[:50]), *map(engine.decode, PROMPT[50:60])]
    later.restore(0, PROMPT[:60], engine.save(0))
    check_logits(
        np.stack([*found, later.decode(PROMPT[60]), later.prefill(PROMPT[61:])]), small.reference[[*range(61), -1]]
    )


@pytest.mark.parametrize("pages", [None, 2])
@pytest.mark.parametrize("split", SPLITS)
def test_in_company(small: TinyFamily, tmp_path: Path, split: str, pages: int | None) -> None:
    """Sequences that grow, are cut and shifted beside others, all on devices or beyond their border."""
    events = some_events(3, 200, 24)
    wanted = alone(engine_of(small, tmp_path, None, n_ctx=600), events, 3)
    several = {"n_ctx": 600, "n_sequences": 3, "n_ubatch": 40, "unified": True}
    assert_same(together(engine_of(small, tmp_path, SPLITS[split], pages, **several), events), wanted)


def test_kept_once(small: TinyFamily, tmp_path: Path) -> None:
    """A layer that reads another's has no pages, wherever it is; a context that is saved has none of its."""
    plain, placed = (engine_of(small, tmp_path, devices) for devices in (None, SPLITS["crosswise"]))
    for engine in (plain, placed):
        engine.step([Piece(0, PROMPT[:20])])
        assert {name.partition(".")[0] for name in engine.save(0)} == {"0", "1", "2", "3"}
    sides = backend_of(placed)._sides
    assert [sorted(sides[number].kept) for number in (0, 1)] == [[0, 2, 3], [1, 2, 3]]
    assert sides[1].caches[4] is sides[1].kept[2]
