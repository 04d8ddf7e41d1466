"""What predictors are made from, collected while a profile reads the text: the same as in a pass of its own."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.runtime import LoadEvents
from solver.collecting import Collection, places_of
from solver.predictor.buffer import Buffer, _Growth
from solver.profile import ActiveRule, Chunks, chunks_of, held_out, profile_text
from tests.solver.fake_engine import FakeEngine

IDS = [int(i) for i in np.random.default_rng(2).integers(0, 50, 1280)]
TEXT = chunks_of(IDS, 64, bos=1)
TRAIN, HELD = held_out(TEXT)


def collection(folder: Path, chunks: Chunks = TRAIN) -> Collection:
    return Collection(FakeEngine().config, "a model", chunks, folder, ActiveRule(), LoadEvents())


def profile(engine: FakeEngine, folder: Path, wanted: Collection) -> None:
    work, beside = folder / "work", partial(wanted.beside, TEXT)
    profile_text(engine.config, lambda: engine, TEXT, folder, work, ActiveRule(), {}, LoadEvents(), beside)


def assert_alike(found: Buffer, folder: Path) -> None:
    own = collection(folder).whole(FakeEngine)
    for layer in range(3):
        one, other = found.layer(layer), own.layer(layer)
        assert len(one) == sum(map(len, TRAIN))
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.labels(), other.labels())


def test_one_pass_does_for_both(tmp_path: Path) -> None:
    assert HELD
    engine, wanted = FakeEngine(), collection(tmp_path / "buffer")
    profile(engine, tmp_path, wanted)
    assert engine.recorded == [list(chunk) for chunk in TEXT]
    assert_alike(wanted.whole(lambda: pytest.fail("nothing is missing")), tmp_path / "own")


@pytest.mark.parametrize("fail_at", [1, 7])
def test_an_interrupted_pass_goes_on_for_both(tmp_path: Path, fail_at: int) -> None:
    engine, wanted = FakeEngine(fail_at=fail_at), collection(tmp_path / "buffer")
    with pytest.raises(KeyboardInterrupt):
        profile(engine, tmp_path, wanted)
    again = engine.whole()
    profile(again, tmp_path, wanted)
    assert again.recorded == [list(chunk) for chunk in TEXT[fail_at:]]
    assert_alike(wanted.whole(lambda: pytest.fail("nothing is missing")), tmp_path / "own")


def test_what_finds_no_room_by_the_way_is_collected_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, see, engine = collection(tmp_path / "buffer"), _Growth.see, FakeEngine()

    def full(growth: _Growth, at: int, *rest: np.ndarray) -> None:
        if at >= 3 * 64:
            raise OSError(28, "No space left on device")
        see(growth, at, *rest)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(_Growth, "see", full)
        profile(FakeEngine(), tmp_path, wanted)
    found = wanted.whole(lambda: engine)
    assert engine.recorded == [list(chunk) for chunk in TRAIN[3:]]
    assert_alike(found, tmp_path / "own")


def test_chunks_have_their_places_among_the_chosen() -> None:
    text = [[1], [2], [2], [3], [1]]
    assert places_of(text, [[2], [3], [1]]) == {1: 0, 3: 1, 4: 2}
    assert places_of(text, text) == {i: i for i in range(5)}
