"""States of recurrent layers stay on the ranks whose layers these are, and go no further than there has to be."""

import gc
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.cluster.kept_states import LATE, KeptNumbers, StateShelf
from powerinfer_cli.cluster.pipeline import Pipeline
from powerinfer_cli.cluster.wires import Lost
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from tests.helpers.cluster.ranks import engine_of_ranks
from tests.helpers.families import PROMPT, tiny_family

STATE = {3: np.zeros(4, np.float32)}


def test_going_back_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_family("qwen3next").file.write(tmp_path / "tiny.gguf")
    options = EngineOptions(n_ctx=256, n_threads=1, drafting=True)

    def told(engine: Engine) -> list[np.ndarray]:
        found = [engine.prefill(PROMPT[:30])]
        for i in range(30, 40, 2):  # drafts that are taken back, time and again
            found += engine.step([Piece(0, PROMPT[i : i + 3], Wanted.ALL, stepwise=True)])
            known = engine.truncate(len(engine.tokens) - 2)
            engine.step([Piece(0, PROMPT[known : i + 2], Wanted.LAST, stepwise=True)])
        return [*found, engine.decode(5)]

    wanted = told(Engine.load(open_gguf(path), options))
    fetch, fetched = Pipeline._fetch_states, list[int]()
    monkeypatch.setattr(Pipeline, "_fetch_states", lambda own, number: fetched.append(number) or fetch(own, number))
    with engine_of_ranks(path, 2, options) as engine:
        found = told(engine)
        assert fetched == []
        saved = engine.save(0)
        assert len(fetched) > 0
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    assert sum(".state" in name for name in saved) > engine.config.n_layer // 2


def test_what_nobody_has_any_more_is_dropped() -> None:
    numbers, shelf = KeptNumbers(), StateShelf(1)
    first = numbers.keep({0: STATE[3]}, lambda number: {3: np.full(2, number, np.float32)})
    second = numbers.keep({}, lambda _: STATE)
    for one in (first, second):
        shelf.keep(one.number, STATE)
    assert {layer: state.tolist() for layer, state in first.items()} == {0: [0.0] * 4, 3: [0.0] * 2}
    assert (list(first), len(first), first[3].tolist()) == ([0, 3], 2, [0.0, 0.0])
    del first
    gc.collect()
    dropped = numbers.dropped()
    assert dropped == [0]
    assert numbers.dropped() == []
    shelf.drop(dropped)
    assert shelf.get(second.number) is STATE
    with pytest.raises(Lost, match="states that are none"):
        shelf.get(0)
    with pytest.raises(Lost, match="states that are none"):
        shelf.drop([0])


def test_no_more_than_there_can_be() -> None:
    shelf = StateShelf(2)
    for number in range(2 + LATE):
        shelf.keep(number, STATE)
    with pytest.raises(Lost, match="more states"):
        shelf.keep(2 + LATE, STATE)
    shelf.drop([0])
    with pytest.raises(Lost, match="more states"):
        shelf.keep(1, STATE)
    shelf.keep(0, STATE)
