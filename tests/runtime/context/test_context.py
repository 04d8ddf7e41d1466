"""The context: its size, its end, and ids that are no tokens; determinism."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.jit.team import Team
from powerinfer_cli.model import load_model
from powerinfer_cli.runtime import ContextFull, Engine, EngineOptions, threads
from powerinfer_cli.runtime.context import cache_size
from powerinfer_cli.runtime.context.cache_size import kv_bytes
from powerinfer_cli.runtime.context.pages import Extent
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import N_VOCAB, PROMPT, tiny_model


def test_a_full_context_takes_nothing(tmp_path: Path) -> None:
    tiny = tiny_model("llama")
    engine = tiny.file.engine(tmp_path, n_ctx=12, n_batch=4)
    engine.prefill(PROMPT[:10])
    for attempt in (engine.prefill, engine.logits):
        with pytest.raises(ContextFull, match=r"13 tokens do not fit the context of 12"):
            attempt(PROMPT[10:13])
        assert engine.n_past == 10
    engine.decode(PROMPT[10])
    check_logits(engine.decode(PROMPT[11]), tiny.reference[11])
    with pytest.raises(ContextFull):
        engine.decode(PROMPT[12])
    assert engine.n_past == 12


@pytest.mark.parametrize("token", [-1, N_VOCAB, 1 << 40])
def test_ids_that_are_no_tokens(tmp_path: Path, token: int) -> None:
    engine = tiny_model("llama").file.engine(tmp_path)
    engine.prefill(PROMPT[:3])
    calls = (lambda: engine.decode(token), lambda: engine.prefill([1, token]), lambda: engine.logits([token]))
    for call in calls:
        with pytest.raises(PowerInferError, match=f"token id {token} is not in the vocabulary of {N_VOCAB}"):
            call()
    assert engine.n_past == 3


def test_truncate_refuses_what_is_not_there(tmp_path: Path) -> None:
    engine = tiny_model("llama").file.engine(tmp_path)
    engine.prefill(PROMPT[:3])
    for n in (-1, 4):
        with pytest.raises(ValueError, match="cannot keep"):
            engine.truncate(n)
    engine.truncate(3)
    assert engine.n_past == 3


def test_no_tokens(tmp_path: Path) -> None:
    engine = tiny_model("llama").file.engine(tmp_path)
    with pytest.raises(ValueError, match="no tokens"):
        engine.prefill([])
    assert engine.logits([]).shape == (0, N_VOCAB)


def test_progress_is_told_batch_by_batch(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tiny_model("llama").file.engine(tmp_path, n_batch=9).prefill(PROMPT, lambda *done: told.append(done))
    assert told == [(9, 23), (18, 23), (23, 23)]


def test_default_context_is_the_training_context(tmp_path: Path) -> None:
    assert tiny_model("llama").file.engine(tmp_path, n_ctx=0).n_ctx == 128
    assert tiny_model("falcon-7b").file.engine(tmp_path, n_ctx=0).n_ctx == 2048
    assert tiny_model("opt").file.engine(tmp_path, n_ctx=0).n_ctx == 128


def test_default_context_fits_half_of_the_free_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf = tiny_model("llama").file.with_metadata(context_length=1 << 20).open(tmp_path)
    one = kv_bytes(load_model(gguf).layers, Extent(128), "f16", "f16") // 128
    assert one == 2 * 2 * 2 * 2 * 16  # keys and values, float16, layers, heads, dimensions
    weights = sum(tensor.nbytes for tensor in gguf.tensors.values())
    monkeypatch.setattr(cache_size, "available_memory", lambda: weights + 2 * one * 1000)
    assert Engine.load(gguf, EngineOptions()).n_ctx == 768
    with pytest.raises(PowerInferError, match=r"a context of 99999 tokens \(-c, n_ctx\): the KV cache needs .* GiB"):
        Engine.load(gguf, EngineOptions(n_ctx=99999))


def test_learned_positions_end(tmp_path: Path) -> None:
    """opt has 130 rows of positions, the first two of which belong to none."""
    opt = tiny_model("opt")
    ids = [i % N_VOCAB for i in range(128)]
    engine = opt.file.engine(tmp_path, n_ctx=128)
    assert np.isfinite(engine.prefill(ids)).all()
    with pytest.raises(PowerInferError, match=r"129 tokens \(-c, n_ctx\): the model knows only 128 positions"):
        opt.file.engine(tmp_path, n_ctx=129)


@pytest.mark.parametrize("changes", [{"n_ctx": -1}, {"n_batch": 0}, {"n_threads": -1}, {"n_threads_batch": -2}])
def test_options_that_make_no_sense(tmp_path: Path, changes: dict[str, int]) -> None:
    with pytest.raises(PowerInferError, match=next(iter(changes))):
        tiny_model("llama").file.engine(tmp_path, **changes)


def test_two_runs_are_bitwise_equal(tmp_path: Path) -> None:
    sparse, _ = exact_sparse(n_embd=128, n_ff=384)
    gguf = sparse.open(tmp_path)

    def run() -> np.ndarray:
        engine = Engine.load(gguf, EngineOptions(n_ctx=64, n_threads=2))
        return np.stack([engine.prefill(list(range(30, 42))), *map(engine.decode, range(10))])

    np.testing.assert_array_equal(run(), run())


def test_threads_by_default_are_the_cores_that_may_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cores in ({0}, {0, 1}):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process, cores=cores: cores)
        engine = tiny_model("llama").file.engine(tmp_path, n_threads=None)
        assert engine._backend.team.size == threads.physical_cores(cores)


def test_threads_do_not_change_greedy_text(tmp_path: Path) -> None:
    sparse, _ = exact_sparse(n_embd=128, n_ff=384)
    gguf = sparse.open(tmp_path)

    def greedy(n_threads: int) -> list[int]:
        engine = Engine.load(gguf, EngineOptions(n_ctx=64, n_threads=n_threads))
        ids = [int(engine.prefill([1, 5, 9]).argmax())]
        for _ in range(20):
            ids.append(int(engine.decode(ids[-1]).argmax()))
        return ids

    assert greedy(1) == greedy(2)
    assert len(set(greedy(1))) > 3


@pytest.mark.parametrize("repack", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_threads_can_be_changed_between_tokens(tmp_path: Path, sparse: bool, repack: bool) -> None:
    """What was made with one thread is gone on with by three, and by one again; no bit depends on it."""
    models = exact_sparse(n_embd=128, n_ff=384)
    gguf = (models[0] if sparse else models[1]).stored_as(GGMLType.Q4_0).open(tmp_path)

    def run(*counts: tuple[int | None, int | None]) -> np.ndarray:
        engine = Engine.load(gguf, EngineOptions(n_ctx=128, n_threads=1, repack=repack))
        made = []
        for one, batch in counts:
            engine.use_threads(one, batch)
            made.append(engine.logits(list(range(30, 42))))
            made.append(engine.prefill([7, 5])[None])
            made += [engine.decode(token)[None] for token in range(3)]
        return np.concatenate(made)

    np.testing.assert_array_equal(run((1, None), (3, 1), (None, 5), (1, 1)), run(*[(1, 1)] * 4))


def test_a_batch_has_threads_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny_model("llama").file.engine(tmp_path, n_threads=1, n_threads_batch=3)
    ran: list[int] = []
    run = Team.run
    monkeypatch.setattr(Team, "run", lambda team, program, threads: (ran.append(threads), run(team, program, threads)))
    for counts in ((1, 3), (2, 1), (2, 2)):
        engine.use_threads(*counts)
        engine.reset()
        engine.logits(PROMPT[:5])
        assert set(ran) == {counts[1]}
        ran.clear()
        engine.decode(PROMPT[5])
        assert set(ran) == {counts[0]}
        ran.clear()


def test_the_plain_twin_changes_torchs_threads(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        engine = tiny_model("llama").file.engine(tmp_path, reference=True, n_threads=1, n_threads_batch=2)
        engine.prefill(PROMPT[:5])
        assert torch.get_num_threads() == 2
        engine.use_threads(3, 1)
        engine.prefill(PROMPT[:5])
        assert torch.get_num_threads() == 1
        engine.decode(PROMPT[5])
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_too_little_memory_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("powerinfer_cli.runtime.cpu.side.make_buffers", refuse)
    with pytest.raises(PowerInferError, match="no memory for the model with a context of 64 tokens"):
        tiny_model("llama").file.engine(tmp_path)
