"""Engines whose layers are on several ranks tell what an engine of one machine tells, to the bit."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.cluster import executor
from powerinfer_cli.cluster.borders import LinkType
from powerinfer_cli.cluster.executor import PipelineExecutor, RankWishes, serve_layers
from powerinfer_cli.cluster.joining import Meeting
from powerinfer_cli.cluster.messages import HEADER, Op
from powerinfer_cli.cluster.seats import Seat
from powerinfer_cli.cluster.wires import Part, Wire
from powerinfer_cli.drafting import draft_options
from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.opening import bundled_model
from powerinfer_cli.opening.opened import read_files
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents, Piece, Wanted
from powerinfer_cli.runtime.batch import Batch
from powerinfer_cli.runtime.cpu.backend import CPUBackend
from tests.helpers.cluster.ranks import OPTIONS, engine_of_one, engine_of_ranks, free_port, told
from tests.helpers.families import PROMPT, tiny_family
from tests.helpers.families.encoders import tiny_encoder

# Windows of several lengths; recurrent layers beside attention, and experts; latents; learned positions; layers that
# get inputs of their own, and read others' keys.
FAMILIES = {"gemma3": 2, "qwen3next": 3, "falcon-h1": 2, "deepseek2": 3, "gpt2": 2, "gemma4-small": 3}


@pytest.mark.parametrize(("name", "n_ranks"), FAMILIES.items())
def test_equal_to_the_bit(tmp_path: Path, name: str, n_ranks: int) -> None:
    path = tiny_family(name).file.write(tmp_path / "tiny.gguf")
    wanted = told(Engine.load(open_gguf(path), OPTIONS))
    with engine_of_ranks(path, n_ranks, OPTIONS, key=b"a shared secret!") as engine:
        found = told(engine)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_plain_twin_gets_inputs_of_layers_behind_a_border(tmp_path: Path) -> None:
    path = tiny_family("gemma4-small").file.write(tmp_path / "tiny.gguf")
    options = EngineOptions(n_ctx=128, n_threads=1, reference=True)
    wanted = Engine.load(open_gguf(path), options).logits(PROMPT[:20])
    with engine_of_ranks(path, 2, options) as engine:
        np.testing.assert_array_equal(engine.logits(PROMPT[:20]), wanted)


@pytest.mark.parametrize("name", ["bert", "modern-bert"])
def test_texts_of_encoders(tmp_path: Path, name: str) -> None:
    """Several in a step, one of a token alone; more short ones than a step of few has."""
    path = tiny_encoder(name).file.write(tmp_path / "tiny.gguf")
    ids = [max(token, 3) for token in PROMPT]
    steps = [[ids[:70], ids[5:6], ids[10:41]], [ids[i : i + 1] for i in range(9)]]
    options = EngineOptions(n_threads=1)

    def vectors(engine: Engine) -> list[np.ndarray]:
        pieces = [[Piece(i, text, Wanted.HIDDEN) for i, text in enumerate(texts)] for texts in steps]
        return [rows for step in pieces for rows in engine.step(step)]

    wanted = vectors(Engine.load(open_gguf(path), options))
    with engine_of_ranks(path, 2, options) as engine:
        for one, other in zip(vectors(engine), wanted, strict=True):
            np.testing.assert_array_equal(one, other)


def test_what_a_step_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is to come, with the rows whose logits are wanted, before rank 0 computes; then x, and nothing behind."""
    said = list[int]()
    send, forward = Wire.send, CPUBackend.forward

    def noted(wire: Wire, *parts: Part, full: Callable[[], None] | None = None) -> None:
        if full is not None:  # by rank 0, down the ranks
            said.append(HEADER.unpack(parts[0])[1])
        send(wire, *parts, full=full)

    def computed(backend: CPUBackend, batch: Batch) -> None:
        said.append(0)
        forward(backend, batch)

    with engine_of_ranks(bundled_model(), 2, OPTIONS) as engine:
        engine.prefill(PROMPT[:3])
        monkeypatch.setattr(Wire, "send", noted)
        monkeypatch.setattr(CPUBackend, "forward", computed)
        engine.decode(5)
        engine.step([Piece(0, (6,)), Piece(1, PROMPT[:4], Wanted.ALL)])
        monkeypatch.undo()
    assert said == [Op.STEP, 0, Op.X] * 3


def test_a_step_that_fails_on_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others forget it: the next is as it would have been."""
    one = engine_of_one(bundled_model(), OPTIONS)
    one.prefill(PROMPT[:5])
    wanted = [one.decode(5), one.decode(6)]

    def fails(backend: CPUBackend, batch: Batch) -> None:
        raise MemoryError

    with engine_of_ranks(bundled_model(), 3, OPTIONS) as engine:
        engine.prefill(PROMPT[:5])
        with monkeypatch.context() as patch:
            patch.setattr(CPUBackend, "forward", fails)
            for ids in (PROMPT[5:9], PROMPT[:1]):
                with pytest.raises(MemoryError):
                    engine.step([Piece(0, ids)])
        found = [engine.decode(5), engine.decode(6)]
    for row, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(row, other)


def test_rank_0_ends_while_another_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told in a line, as at any other time."""
    gone, load, port = threading.Event(), executor._worker, free_port()

    def loaded(*parts: Any) -> Any:
        found = load(*parts)
        assert gone.wait(60)
        return found

    def wishes(rank: int) -> RankWishes:
        meeting = Meeting(Seat(rank, 2, "127.0.0.1", port), b"", 60.0, lambda _: None)
        return RankWishes(meeting, LinkType.F32, lambda _: None)

    def lead() -> None:
        files = read_files(bundled_model(), None, LoadEvents(), text=False)
        first = PipelineExecutor(files, OPTIONS, wishes(0))
        for wire in first._members._controls.values():
            wire.end()
        gone.set()
        for wire in (first._members._behind, first._members.rows.wire):
            wire.close()

    monkeypatch.setattr(executor, "_worker", loaded)
    first = threading.Thread(target=lead)
    first.start()
    files = read_files(bundled_model(), None, LoadEvents(), text=False)
    with pytest.raises(PowerInferError, match="has ended"):
        serve_layers(files, OPTIONS, wishes(1), LoadEvents())
    first.join(60)


def test_half_the_bytes_round(tmp_path: Path) -> None:
    """bf16 has 8 bits: each x is off by 2**-9 of itself at most, and logits by about as much of their size."""
    path = tiny_family("llama").file.write(tmp_path / "tiny.gguf")
    options = EngineOptions(n_ctx=128, n_threads=1)
    wanted = Engine.load(open_gguf(path), options).logits(PROMPT)
    with engine_of_ranks(path, 2, options, LinkType.BF16) as engine:
        found = engine.logits(PROMPT)
    error = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert 0 < error < 2**-5


def test_sparse_model_with_drafts() -> None:
    """The text is the one without ranks and without drafts; drafts are verified by all ranks."""
    drafts = draft_options("ngram", None, size_n=1, size_m=3)
    options = EngineOptions(n_ctx=256, n_threads=1)
    with engine_of_ranks(bundled_model(), 2, options, drafts=drafts) as engine:
        found = _greedy(engine, 60)
        assert engine.drafted().proposed > 0
    assert found == _greedy(engine_of_one(bundled_model(), options), 60)


def _greedy(engine: Engine, n: int) -> list[int]:
    logits, found = engine.prefill([1, 306, 5, 306, 5, 306]), []
    for _ in range(n):
        found.append(int(logits.argmax()))
        logits = engine.decode(found[-1])
    return found


def test_nothing_is_restored_where_anything_is_wrong(tmp_path: Path) -> None:
    path = tiny_family("llama").file.write(tmp_path / "tiny.gguf")
    with engine_of_ranks(path, 2, OPTIONS) as engine:
        engine.prefill(PROMPT[:20])
        ids, saved = list(engine.tokens), engine.save(0)
        last = max(int(name.partition(".")[0]) for name in saved)
        spoilt = saved | {f"{last}.k": saved[f"{last}.k"][:-1]}
        with pytest.raises(PowerInferError, match=f"not for this model and these cache types: {last}.k"):
            engine.restore(0, ids, spoilt)
        with pytest.raises(PowerInferError, match="a saved context has 99"):
            engine.restore(0, ids, saved | {"99.k": saved["0.k"]})
        assert list(engine.tokens) == ids
        with_all = engine.decode(PROMPT[20])
    one = Engine.load(open_gguf(path), OPTIONS)
    one.prefill(PROMPT[:20])
    np.testing.assert_array_equal(with_all, one.decode(PROMPT[20]))


def test_profiling_is_refused(tmp_path: Path) -> None:
    path = tiny_family("llama").file.write(tmp_path / "tiny.gguf")
    with engine_of_ranks(path, 2, OPTIONS) as engine, pytest.raises(PowerInferError, match="layers on one machine"):
        engine.record(PROMPT[:8], lambda *_: None)
