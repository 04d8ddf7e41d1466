"""Each family of architectures against the torch model: a prompt of five windows, however the tokens are fed.

tests/helpers/families says what the models are; scripts/checks/check_families.py holds their files against llama.cpp.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGUFFile, open_gguf
from powerinfer_cli.model.registry import ARCHITECTURES
from powerinfer_cli.runtime import Engine, EngineOptions, Piece, Wanted
from tests.helpers.families import DEEP, FAMILIES, PROMPT, WINDOW, TinyFamily, tiny_family
from tests.helpers.families.encoders import ENCODERS
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import CASES, reference_logits

Load: TypeAlias = Callable[..., Engine]

KNOWN = [name for name, family in FAMILIES.items() if family.arch in ARCHITECTURES]
KNOWN_DEEP = [name for name, family in DEEP.items() if family.arch in ARCHITECTURES]
N_CTX = 128
BEGINNINGS = (0, 13, 29)  # of several texts, in the prompt


@pytest.fixture(scope="module", params=KNOWN)
def family(request: pytest.FixtureRequest) -> TinyFamily:
    return tiny_family(request.param)


@pytest.fixture(scope="module")
def gguf(family: TinyFamily, tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    path: Path = tmp_path_factory.mktemp(family.name) / "tiny.gguf"
    return open_gguf(family.file.write(path))


def engine_of(gguf: GGUFFile, **options: object) -> Engine:
    """With a float32 cache; of the CPU's kernels unless `reference`."""
    given = {"n_ctx": N_CTX, "n_threads": 1, "type_k": "f32", "type_v": "f32"} | options
    return Engine.load(gguf, EngineOptions(**given))


@pytest.fixture(params=["kernels", "reference"])
def load(request: pytest.FixtureRequest) -> Load:
    """An engine of either executor."""
    return lambda gguf, **options: engine_of(gguf, reference=request.param == "reference", **options)


def test_every_architecture_has_a_case() -> None:
    tried = {family.arch for family in (FAMILIES | ENCODERS).values()} | {arch for arch, _ in CASES.values()}
    assert set(ARCHITECTURES) <= tried


def test_logits_would_show_a_fault(family: TinyFamily) -> None:
    """They differ from token to token by more than the tolerance would let pass, and windows matter."""
    assert family.reference.std() > 0.3
    assert len(PROMPT) >= 5 * WINDOW


@pytest.mark.parametrize("n_ubatch", [512, 32, 7])
def test_prompt(family: TinyFamily, gguf: GGUFFile, load: Load, n_ubatch: int) -> None:
    check_logits(load(gguf, n_ubatch=n_ubatch).logits(PROMPT), family.reference)


def test_decode_past_the_window(family: TinyFamily, gguf: GGUFFile, load: Load) -> None:
    engine = load(gguf)
    rows = [engine.prefill(PROMPT[:5]), *map(engine.decode, PROMPT[5:50]), engine.prefill(PROMPT[50:])]
    check_logits(np.stack(rows), family.reference[[*range(4, 50), -1]])


def test_truncate(family: TinyFamily, gguf: GGUFFile, load: Load) -> None:
    engine = load(gguf)
    engine.prefill([*PROMPT[:40], 7, 8, 9])
    known = engine.truncate(40)
    assert known == 40 or ARCHITECTURES[family.file.arch].recurrent  # whose states are saved here and there
    if known < 40:
        engine.prefill(PROMPT[known:40])
    check_logits(engine.decode(PROMPT[40]), family.reference[40])


@pytest.mark.parametrize("n_keep", [0, 4])
def test_shift(gguf: GGUFFile, n_keep: int) -> None:
    """Both executors go on alike when the middle of a context is dropped."""
    told = []
    for reference in (False, True):
        engine = engine_of(gguf, reference=reference)
        engine.prefill(PROMPT[:50])
        engine.shift(n_keep, 22)
        assert engine.n_past == 28
        told.append(np.stack([*map(engine.decode, PROMPT[50:56]), engine.prefill(PROMPT[56:])]))
    check_logits(*told)


def test_save_and_restore(family: TinyFamily, gguf: GGUFFile, load: Load) -> None:
    engine, later = load(gguf, n_sequences=2, unified=True), load(gguf, n_sequences=2, unified=True)
    engine.step([Piece(1, PROMPT[:40])])
    later.restore(0, PROMPT[:40], engine.save(1))
    (row,) = later.step([Piece(0, PROMPT[40:41])])
    check_logits(row, family.reference[40])


def test_several_sequences(family: TinyFamily, gguf: GGUFFile, load: Load) -> None:
    """Beginnings of a prompt come with others' tokens, as they do in a server."""
    engine = load(gguf, n_ctx=3 * N_CTX, n_sequences=3, n_ubatch=32)
    texts = [PROMPT[start : start + 50] for start in BEGINNINGS]
    at = [0, 0, 0]
    found: list[list[np.ndarray]] = [[], [], []]
    for sizes in ((20, 1, 0), (1, 25, 1), (1, 1, 30), *[(1, 1, 1)] * 8, (5, 1, 3)):
        pieces = []
        for i, size in enumerate(sizes):
            if size:
                pieces.append(Piece(i, texts[i][at[i] : at[i] + size], Wanted.ALL))
                at[i] += size
        for piece, rows in zip(pieces, engine.step(pieces), strict=True):
            assert rows is not None
            found[piece.sequence].append(rows)
    for i, text in enumerate(texts):
        wanted = reference_logits(family.torch_model, text[: at[i]])
        check_logits(np.concatenate(found[i]), wanted)


def test_forms_that_depth_tells(tmp_path: Path, load: Load) -> None:
    for name in KNOWN_DEEP:
        tiny = tiny_family(name)
        gguf = open_gguf(tiny.file.write(tmp_path / f"{name}.gguf"))
        check_logits(load(gguf).logits(PROMPT), tiny.reference)
