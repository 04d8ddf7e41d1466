"""Samples on the disk: bounded, resumable, and the same as what passed through the model."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime import LoadEvents
from solver.predictor.buffer import Buffer, collect
from solver.profile.active import ActiveRule
from solver.profile.text import chunks_of
from tests.solver.fake_engine import FakeEngine

IDS = [int(i) for i in np.random.default_rng(2).integers(0, 50, 640)]
CHUNKS = [list(chunk) for chunk in chunks_of(IDS, 64, bos=1)]
TOKEN_BYTES = 3 * (2 * 16 + 3)


def collected(
    folder: Path, engine: FakeEngine, *, most_bytes: int = 1 << 20, text: str = "a", events: LoadEvents | None = None
) -> Buffer:
    return collect(
        engine.config,
        lambda: engine,
        CHUNKS,
        folder,
        ActiveRule(),
        {"text": text},
        events or LoadEvents(),
        most_bytes=most_bytes,
    )


def test_all_tokens_are_kept_where_there_is_room(tmp_path: Path) -> None:
    engine = FakeEngine()
    buffer = collected(tmp_path, engine)
    assert buffer.token_bytes == TOKEN_BYTES
    ids = [token for chunk in CHUNKS for token in chunk]
    for layer in range(3):
        samples = buffer.layer(layer)
        residual, activations = engine.values(layer, ids)
        assert samples.labels().numpy().tolist() == (activations != 0).tolist()
        np.testing.assert_allclose(np.square(samples.inputs.float().numpy()).mean(axis=1), 1, rtol=2e-3)
        unit = residual / np.sqrt(np.square(residual).mean(axis=1, keepdims=True))
        np.testing.assert_allclose(samples.inputs.float().numpy(), unit, atol=2e-3)


def test_a_bound_leaves_tokens_out_evenly(tmp_path: Path) -> None:
    notes: list[str] = []
    buffer = collected(tmp_path, FakeEngine(), most_bytes=160 * TOKEN_BYTES + 5, events=LoadEvents(note=notes.append))
    assert len(buffer.layer(0)) == len(buffer.layer(2)) == 160
    assert sum(path.stat().st_size for path in tmp_path.glob("*_*.*")) == 160 * TOKEN_BYTES
    assert notes == ["collecting 160 of 640 tokens: 0.0 MiB"]
    whole = collected(tmp_path / "whole", FakeEngine()).layer(0)
    assert torch.equal(buffer.layer(0).inputs, whole.inputs[3::4])


def test_too_little_room_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PowerInferError, match=r"no room to train predictors: at least 0\.0 MiB are needed"):
        collected(tmp_path, FakeEngine(), most_bytes=10 * TOKEN_BYTES)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(PowerInferError, match="no room to train predictors"):
        collected(tmp_path, FakeEngine())


def test_it_goes_on_after_the_last_whole_chunk(tmp_path: Path) -> None:
    broken = FakeEngine(fail_at=6)
    with pytest.raises(KeyboardInterrupt):
        collected(tmp_path, broken)
    again, notes = broken.whole(), []
    buffer = collected(tmp_path, again, events=LoadEvents(note=notes.append))
    assert notes == ["collecting: going on after chunk 6 of 10"]
    assert again.recorded == CHUNKS[6:]
    whole = collected(tmp_path / "whole", FakeEngine())
    for layer in range(3):
        assert torch.equal(buffer.layer(layer).inputs, whole.layer(layer).inputs)
        assert torch.equal(buffer.layer(layer).active, whole.layer(layer).active)


def test_what_is_whole_needs_no_engine(tmp_path: Path) -> None:
    collected(tmp_path, FakeEngine())
    again = FakeEngine()
    assert len(collected(tmp_path, again).layer(1)) == 640
    assert not again.recorded


@pytest.mark.parametrize("damage", ["another text", "cut short", "no state"])
def test_what_does_not_fit_is_collected_anew(tmp_path: Path, damage: str) -> None:
    buffer = collected(tmp_path, FakeEngine())
    if damage == "cut short":
        buffer.inputs(1).write_bytes(b"")
    if damage == "no state":
        (tmp_path / "collected.json").write_text("[")
    again = FakeEngine()
    found = collected(tmp_path, again, text="b" if damage == "another text" else "a")
    assert again.recorded == CHUNKS
    assert len(found.layer(1)) == 640


def test_a_full_disk_is_one_line_and_work_goes_on_later(tmp_path: Path) -> None:
    broken = FakeEngine(fail_at=3, failure=OSError(28, "No space left on device"))
    with pytest.raises(PowerInferError, match=r"No space left on device \(the buffer takes 0.1 MiB; a smaller one"):
        collected(tmp_path, broken)
    again = broken.whole()
    collected(tmp_path, again)
    assert again.recorded == CHUNKS[3:]


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    buffer = collected(tmp_path, FakeEngine())
    buffer.inputs(0).write_bytes(b"123")
    with pytest.raises(PowerInferError, match="what was collected there is damaged"):
        buffer.layer(0)
