"""What recurrent layers keep of sequences: saved on the way, gone back to, put back, never mixed up."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents, Piece, Wanted
from tests.helpers.families import PROMPT, tiny_family

FAMILIES = ["lfm2", "qwen35", "mamba2", "falcon-h1", "nemotron_h_moe"]


@pytest.fixture(params=FAMILIES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def engine_of(name: str, folder: Path, **options: object) -> Engine:
    return tiny_family(name).file.engine(folder, **{"n_ctx": 128, "n_threads": 2} | options)


def test_back_to_where_a_prompt_ended(name: str, tmp_path: Path) -> None:
    engine = engine_of(name, tmp_path)
    wanted = [engine.prefill(PROMPT[:40]), *map(engine.decode, PROMPT[40:44])]
    assert (engine.left(43), engine.left(39), engine.left(35)) == (40, 36, 0)
    assert engine.truncate(43) == 40
    for token, row in zip(PROMPT[40:44], wanted[1:], strict=True):
        np.testing.assert_array_equal(engine.decode(token), row)


@pytest.mark.parametrize(("most", "left"), [(0, 0), (1, 0), (3, 24)])
def test_saved_within_a_prompt(name: str, tmp_path: Path, most: int, left: int) -> None:
    """Every 16 tokens at least; the oldest goes where they are too many."""
    engine = engine_of(name, tmp_path, n_ubatch=12, ctx_checkpoints=most, checkpoint_min_step=16)
    whole = engine.prefill(PROMPT[:60])
    assert engine.truncate(35) == left
    np.testing.assert_array_equal(engine.prefill(PROMPT[left:60]), whole)


def test_proposed_tokens_are_taken_back(name: str, tmp_path: Path) -> None:
    engine = engine_of(name, tmp_path, drafting=True)
    engine.prefill(PROMPT[:20])
    (rows,) = engine.step([Piece(0, PROMPT[20:24], Wanted.ALL, stepwise=True)])
    assert engine.truncate(22) == 20
    (again,) = engine.step([Piece(0, PROMPT[20:23], Wanted.ALL, stepwise=True)])
    np.testing.assert_array_equal(again, rows[:3])


@pytest.mark.parametrize("reference", [False, True])
def test_where_a_prompt_is_cut_and_who_is_beside(name: str, tmp_path: Path, reference: bool) -> None:
    engine = engine_of(name, tmp_path, n_sequences=3, n_ctx=384, reference=reference)
    whole = engine.prefill(PROMPT)
    for begin, end in ((0, 3), (3, 36), (36, len(PROMPT))):
        *_, found = engine.step([Piece(0, [5, 7]), Piece(1, [3]), Piece(2, PROMPT[begin:end])])
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-4 if reference else 0)


def test_read_anew_where_the_context_is_full(name: str, tmp_path: Path) -> None:
    said: list[str] = []
    events = LoadEvents(note=said.append)
    engine = Engine.load(tiny_family(name).file.open(tmp_path), EngineOptions(n_ctx=128, n_threads=2), events=events)
    engine.prefill(PROMPT[:60])
    engine.shift(4, 20)
    shifted = engine.decode(9)
    engine.shift(4, 20)
    assert sum("context is full" in line for line in said) == 1
    engine.reset()
    engine.prefill([*PROMPT[:4], *PROMPT[24:60]])
    np.testing.assert_allclose(engine.decode(9), shifted, rtol=0, atol=1e-4)


def test_a_step_that_fails_half_way(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """States have gone on in some layers: the sequence is not gone on from."""
    engine = engine_of(name, tmp_path)
    engine.prefill(PROMPT[:20])
    engine.decode(PROMPT[20])
    run = engine._backend.forward

    def fail(batch: object) -> None:
        run(batch)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine._backend, "forward", fail)
        with pytest.raises(KeyboardInterrupt):
            engine.prefill(PROMPT[21:40])
    assert engine.left(20) == 20
    assert engine.truncate(40) == 21
    found = engine.prefill(PROMPT[21:40])
    fresh = engine_of(name, tmp_path)
    fresh.prefill(PROMPT[:20])
    fresh.decode(PROMPT[20])
    np.testing.assert_array_equal(found, fresh.prefill(PROMPT[21:40]))


def test_states_of_another_model(name: str, tmp_path: Path) -> None:
    engine = engine_of(name, tmp_path)
    engine.prefill(PROMPT[:20])
    stored = engine.save(0)
    state = next(key for key in stored if key.endswith(".state"))
    for wrong in ({k: v for k, v in stored.items() if k != state}, stored | {state: stored[state][1:]}):
        with pytest.raises(PowerInferError, match=f"saved context is not for this model.*{state}"):
            engine.restore(0, PROMPT[:20], wrong)
    with pytest.raises(PowerInferError, match=r"9\.state, which this model has not"):
        engine.restore(0, PROMPT[:20], stored | {"9.state": stored[state]})
    with pytest.raises(PowerInferError, match="other than its 20 tokens"):
        engine.restore(0, PROMPT[:20], stored | {f"{state}@21": stored[state]})
    with pytest.raises(PowerInferError, match=f"saved context is not for this model.*{state}@7"):
        engine.restore(0, PROMPT[:20], stored | {f"{state}@7": stored[state][1:]})


def test_a_saved_context_is_gone_back_in(name: str, tmp_path: Path) -> None:
    """To where its prompt ended, and a few tokens before, as after a chat's answer."""
    engine = engine_of(name, tmp_path, n_sequences=2, n_ctx=256)
    engine.prefill(PROMPT[:40])
    rows = [engine.decode(token) for token in PROMPT[40:43]]
    engine.restore(1, PROMPT[:43], engine.save(0))
    assert (engine.left(42, 1), engine.left(38, 1), engine.left(35, 1)) == (40, 36, 0)
    assert engine.truncate(41, 1) == 40
    for token, row in zip(PROMPT[40:43], rows, strict=True):
        (found,) = engine.step([Piece(1, [token])])
        np.testing.assert_array_equal(found, row)


def test_what_states_need_is_said(tmp_path: Path) -> None:
    """Three layers keep 3 inputs of 192 channels, and 4 heads of 24 rows, whose 24 columns are in vectors of 16."""
    said: list[str] = []
    options, events = EngineOptions(n_ctx=1024, n_sequences=8, n_threads=1), LoadEvents(note=said.append)
    Engine.load(tiny_family("qwen35").file.open(tmp_path), options, events=events)
    one = 3 * 4 * (3 * 192 + 4 * 24 * 32) / 2**20
    line = f"recurrent layers: 3, {one:.1f} MiB of states a sequence, {8 * one:.1f} MiB of 8; up to 32 saved of each"
    assert line in said
