"""Layers with a window keep no more than it needs: nothing that is told differs from what a full cache tells."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.kernels.cache import PAGE
from powerinfer_cli.model import load_model
from powerinfer_cli.placement import MAIN_MEMORY, Placement
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from powerinfer_cli.runtime.context import cache_size
from powerinfer_cli.runtime.context.cache_size import extent_of, kv_bytes
from tests.helpers.families import FAMILIES, WINDOW, TinyFamily, tiny_family
from tests.helpers.families.family import tiny
from tests.helpers.kernels.window_cells import poison
from tests.helpers.placing.plans import plan_of
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import N_VOCAB, reference_logits

Make: TypeAlias = Callable[..., Engine]

TEXT = [int(i) for i in np.random.default_rng(11).integers(0, N_VOCAB, 440)]  # more than three pages
N_CTX, N_UBATCH = 1024, 32
NAMES = ("gemma2", "gemma3", "phi3-window", "cohere2")  # capped scores; every sixth layer sees all, or none


@pytest.fixture(scope="module", params=NAMES)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return tiny_family(request.param)


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    return tiny_family("gemma3").file.open(tmp_path_factory.mktemp("gemma3"))


@pytest.fixture(params=["kernels", "reference", "device", "half"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """An engine of a family's file: all in main memory, by kernels or plainly; all, or half, on a device."""

    def engine(family: TinyFamily, **options: object) -> Engine:
        given = {"reference": request.param == "reference", **options}
        placement = None
        if request.param in ("device", "half"):
            n, on_device = family.file.n_layer, request.param == "device"
            devices = [0 if on_device or i % 2 else MAIN_MEMORY for i in range(n)]
            shares = [float(device == 0) for device in devices]
            output = 0 if on_device else MAIN_MEMORY
            placement = Placement(plan_of(family.file, devices, shares, output), ("cpu",))
        return engine_of(family.file.open(tmp_path), placement, **given)

    return engine


def engine_of(gguf: GGUFFile, placement: Placement | None = None, **options: object) -> Engine:
    given = {"n_ctx": N_CTX, "n_ubatch": N_UBATCH, "n_threads": 1, "type_k": "f32", "type_v": "f32"} | options
    return Engine.load(gguf, EngineOptions(**given), placement=placement)


def read_on(engine: Engine, ids: Sequence[int], back: int = 0) -> np.ndarray:
    """The logits behind each of a text's pieces. Before it all is poisoned that no window sees, not even that of an
    engine which is to go back by some tokens.
    """
    rows, at, turn, sizes = [], 0, 0, (32, 1, 17, 1)
    while at < len(ids):
        if engine._pages.windowed is not None:
            poison(engine, back)
        piece = ids[at : at + sizes[turn % len(sizes)]]
        rows.append(engine.prefill(piece) if len(piece) > 1 else engine.decode(piece[0]))
        at, turn = at + len(piece), turn + 1
    return np.stack(rows)


def test_a_long_text_is_the_torch_models(family: TinyFamily, make: Make) -> None:
    wanted = reference_logits(family.torch_model, TEXT)
    engine = make(family)
    rows = [*engine.logits(TEXT[:300])[::7], *map(engine.decode, TEXT[300:420]), engine.prefill(TEXT[420:])]
    check_logits(np.stack(rows), wanted[[*range(0, 300, 7), *range(300, 420), -1]])


def test_a_full_cache_tells_the_same_to_the_bit(family: TinyFamily, make: Make) -> None:
    found, wanted = (read_on(make(family, swa_full=full), TEXT) for full in (False, True))
    np.testing.assert_array_equal(found, wanted)


def test_cache_types(tmp_path: Path) -> None:
    wide = tiny("gemma2", FAMILIES["gemma2"], head_dim=32).file.open(tmp_path)
    for kind in ("f16", "q8_0"):
        told = []
        for full in (False, True):
            engine = engine_of(wide, swa_full=full, type_k=kind, type_v=kind)
            rows = [read_on(engine, TEXT)]
            engine.reset()
            rows.append(read_on(engine, TEXT, back=len(TEXT)))
            engine.shift(4, 210)
            told.append(np.concatenate([*rows, read_on(engine, TEXT[:50])]))
        np.testing.assert_array_equal(*told)


def test_how_much_is_kept(gemma: GGUFFile) -> None:
    """The window and a batch span two pages at most, whatever the context."""
    layers = load_model(gemma).layers
    windowed = sum(layer.attention.window is not None for layer in layers)
    assert (windowed, len(layers)) == (6, 7)
    one = 2 * 4 * layers[0].attention.n_head_kv * 32  # keys of 24 numbers, values of 32
    for n_ctx in (1024, 1 << 20):
        extent = extent_of(layers, EngineOptions(n_ubatch=N_UBATCH), n_ctx)
        assert kv_bytes(layers, extent) == (n_ctx + windowed * 2 * PAGE) * one * 7 // 8
        full = extent_of(layers, EngineOptions(n_ubatch=N_UBATCH, swa_full=True), n_ctx)
        assert kv_bytes(layers, full) == 7 * n_ctx * one * 7 // 8


def test_the_default_context_is_longer(gemma: GGUFFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what is free has room for as many positions more as layers with a window do not keep."""
    layers = load_model(gemma).layers
    weights = sum(tensor.nbytes for tensor in gemma.tensors.values())
    room = kv_bytes(layers, extent_of(layers, EngineOptions(n_ubatch=N_UBATCH), 512), "f16", "f16")
    monkeypatch.setattr(cache_size, "available_memory", lambda: weights + 2 * room)
    n_ctx = [Engine.load(gemma, EngineOptions(n_ubatch=N_UBATCH, swa_full=full)).n_ctx for full in (False, True)]
    assert n_ctx == [512, 256]


def test_going_back(make: Make) -> None:
    """By up to a batch or so; farther back nothing is left, and it is told."""
    family = tiny_family("gemma3")
    fresh, engine = make(family), make(family)
    wanted = reference_logits(family.torch_model, TEXT)
    read_on(engine, TEXT[:400], back=30)
    assert engine.truncate(380) == 380
    poison(engine, back=10)
    check_logits(engine.decode(TEXT[380]), wanted[380])
    assert engine.truncate(381) == 381
    assert engine.truncate(370) == 370
    check_logits(engine.prefill(TEXT[370:400]), wanted[399])
    assert engine.truncate(100) == 0
    assert (engine.n_past, engine.n_free) == (0, N_CTX)
    np.testing.assert_array_equal(read_on(engine, TEXT), read_on(fresh, TEXT))


def test_going_back_in_a_full_cache(gemma: GGUFFile) -> None:
    engine = engine_of(gemma, swa_full=True)
    read_on(engine, TEXT)
    assert engine.truncate(100) == 100
    found = engine.decode(TEXT[100])
    check_logits(found, reference_logits(tiny_family("gemma3").torch_model, TEXT[:101])[-1])


def test_shift(make: Make) -> None:
    """By less than a page, by pages, from the beginning and from the middle."""
    family, told = tiny_family("gemma3"), []
    for full in (False, True):
        engine = make(family, swa_full=full)
        read_on(engine, TEXT)
        rows, held = [], TEXT
        for n_keep, n_discard in ((4, 7), (0, 133), (150, 101), (4, 150)):
            engine.shift(n_keep, n_discard)
            held = held[:n_keep] + held[n_keep + n_discard :]
            assert list(engine.tokens) == held
            rows.append(read_on(engine, TEXT[:60]))
            held = held + TEXT[:60]
        told.append(np.concatenate(rows))
    np.testing.assert_array_equal(*told)


def test_shift_until_the_window_reaches_what_is_kept(make: Make) -> None:
    """Its beginning is not there any more, so what is left is evaluated anew."""
    engine, fresh = (make(tiny_family("cohere2")) for _ in range(2))
    read_on(engine, TEXT)
    left = [*TEXT[:60], *TEXT[433:]]
    engine.shift(60, 373)
    assert list(engine.tokens) == left
    fresh.prefill(left)
    check_logits(read_on(engine, TEXT[:50]), read_on(fresh, TEXT[:50]))


def test_shifting_again_and_again(gemma: GGUFFile) -> None:
    """A full context goes on for many windows; so does one that drops a single token each time."""
    for n_discard in (150, 1):
        told = []
        for full in (False, True):
            engine = engine_of(gemma, swa_full=full, n_ctx=384)
            engine.prefill(TEXT[:384])
            rows = []
            for token in TEXT[:200]:
                if engine.room(0) == 0:
                    engine.shift(4, n_discard)
                rows.append(engine.decode(token))
            told.append(np.stack(rows))
        np.testing.assert_array_equal(*told)


@pytest.mark.parametrize("unified", [False, True])
def test_several_sequences(gemma: GGUFFile, unified: bool) -> None:
    options = {"n_ctx": 3 * 512, "n_sequences": 3, "unified": unified}
    engines = [engine_of(gemma, swa_full=full, **options) for full in (False, True)]
    random, lengths = np.random.default_rng(1), [0, 0, 0]
    while min(lengths) < 300:
        chosen = [i for i in random.permutation(3).tolist() if lengths[i] < 420][: random.integers(1, 4)]
        if not chosen:
            break
        sizes = [int(random.integers(2, 28)) if i == 0 else 1 for i in range(len(chosen))]
        pieces = [Piece(i, TEXT[lengths[i] : lengths[i] + n], Wanted.ALL) for i, n in zip(chosen, sizes, strict=True)]
        poison(engines[0], back=20)
        for found, wanted in zip(*(engine.step(pieces) for engine in engines), strict=True):
            np.testing.assert_array_equal(found, wanted)
        for piece in pieces:
            lengths[piece.sequence] += len(piece.ids)
        if random.random() < 0.1:
            sequence = int(random.integers(3))
            n = max(0, lengths[sequence] - int(random.integers(0, 20)))
            assert [engine.truncate(n, sequence) for engine in engines] == [n, n]
            lengths[sequence] = n


def test_many_sequences_that_share_a_short_context(gemma: GGUFFile) -> None:
    """Windows for all would be more pages than the context has: they are in those of all layers."""
    options = EngineOptions(n_ubatch=512, n_sequences=8, unified=True)
    layers = load_model(gemma).layers
    full = extent_of(layers, EngineOptions(n_ubatch=512, n_sequences=8, unified=True, swa_full=True), 1024)
    assert kv_bytes(layers, extent_of(layers, options, 1024)) == kv_bytes(layers, full)
    engine = engine_of(gemma, n_sequences=8, unified=True, n_ubatch=512)
    engine.step([Piece(3, TEXT)])
    assert engine.truncate(20, 3) == 20
    (found,) = engine.step([Piece(3, TEXT[20:21])])
    check_logits(found, reference_logits(tiny_family("gemma3").torch_model, TEXT[:21])[-1])


def test_save_and_restore(make: Make) -> None:
    """Into another sequence, contexts of other sizes, batches of others; a restored text can still go back a little."""
    family = tiny_family("gemma3")
    engine = make(family, n_ctx=2 * 768, n_sequences=2)
    for start in range(0, 400, 25):
        engine.step([Piece(1, TEXT[start : start + 25])])
    saved = engine.save(1)
    assert {len(part) for part in saved.values()} == {400, 400 - 2 * PAGE}
    engine.truncate(395, 1)
    (wanted,) = engine.step([Piece(1, TEXT[395:400])])
    for n_ctx, n_sequences, n_ubatch in ((4096, 3, 500), (500, 1, 8), (2048, 1, 8)):
        later = make(family, n_ctx=n_ctx, n_sequences=n_sequences, n_ubatch=n_ubatch)
        last = n_sequences - 1
        for start in range(0, 120, 8):
            later.step([Piece(last, TEXT[200 + start : 208 + start])])
        later.restore(last, TEXT[:400], saved)
        assert later.truncate(395, last) == 395
        poison(later)
        (found,) = later.step([Piece(last, TEXT[395:400])])
        np.testing.assert_array_equal(found, wanted)
        assert later.truncate(150, last) == 0


def test_a_whole_context_is_restored_as_far_as_there_is_room(gemma: GGUFFile) -> None:
    whole, engine = engine_of(gemma, swa_full=True), engine_of(gemma)
    read_on(whole, TEXT)
    engine.restore(0, TEXT, whole.save(0))
    poison(engine)
    np.testing.assert_array_equal(engine.decode(5), whole.decode(5))


def test_what_cannot_be_restored_changes_nothing(gemma: GGUFFile) -> None:
    engine = engine_of(gemma)
    read_on(engine, TEXT)
    saved = engine.save(0)
    engine.reset()
    read_on(engine, TEXT[:60], back=20)
    windows = {name: part for name, part in saved.items() if len(part) < len(TEXT)}
    wrong = [
        saved | {name: part[-WINDOW + 2 :] for name, part in windows.items()},  # less than a window sees
        saved | {"0.k": saved["0.k"][1:]},  # another number of positions
        saved | {"0.k": saved["0.k"][0, 0, 0]},
        {name: part for name, part in saved.items() if name not in windows},
        saved | {"99.k": saved["0.k"]},
        saved | {"5.k": saved["5.k"][1:]},  # the one that sees everything
    ]
    for one in wrong:
        with pytest.raises(PowerInferError, match="saved context"):
            engine.restore(0, TEXT, one)
    with pytest.raises(PowerInferError, match="saved context"):
        engine_of(gemma, swa_full=True).restore(0, TEXT, saved)
    assert list(engine.tokens) == TEXT[:60]
    assert engine.truncate(50) == 50
    check_logits(engine.decode(TEXT[50]), reference_logits(tiny_family("gemma3").torch_model, TEXT[:51])[-1])


def test_a_batch_that_fails(gemma: GGUFFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of it has been written: what was there before is gone on from."""
    engine = engine_of(gemma)
    read_on(engine, TEXT[:250])
    forward = engine._backend.forward

    def fails(batch: object) -> None:
        forward(batch)  # type: ignore[arg-type]  # as it comes
        raise RuntimeError("it fails")

    monkeypatch.setattr(engine._backend, "forward", fails)
    with pytest.raises(RuntimeError, match="it fails"):
        engine.prefill(TEXT[300:332])
    monkeypatch.setattr(engine._backend, "forward", forward)
    check_logits(engine.decode(TEXT[250]), reference_logits(tiny_family("gemma3").torch_model, TEXT[:251])[-1])
