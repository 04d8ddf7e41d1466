"""Each architecture against transformers: same weights, same logits, however the tokens are fed."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGUFFile
from powerinfer_cli.runtime import Engine, EngineOptions
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import N_VOCAB, PROMPT, TinyModel

Load: TypeAlias = Callable[..., Engine]


@pytest.fixture(params=["kernels", "reference"])
def load(request: pytest.FixtureRequest) -> Load:
    """An engine of either backend, with a float32 cache."""

    def load(gguf: GGUFFile, n_batch: int = 512) -> Engine:
        exact = {"type_k": "f32", "type_v": "f32", "reference": request.param == "reference"}
        return Engine.load(gguf, EngineOptions(n_ctx=64, n_batch=n_batch, n_threads=1, **exact))

    return load


def test_every_position(tiny: TinyModel, gguf: GGUFFile, load: Load) -> None:
    logits = load(gguf).logits(PROMPT)
    assert logits.dtype == np.float32
    assert tiny.reference.std() > 0.5  # else the tolerance would let anything pass
    check_logits(logits, tiny.reference)


@pytest.mark.parametrize("n_batch", [1, 3, 8, 22])
def test_prefill_in_batches(tiny: TinyModel, gguf: GGUFFile, n_batch: int, load: Load) -> None:
    check_logits(load(gguf, n_batch).prefill(PROMPT), tiny.reference[-1])


def test_every_position_in_batches(tiny: TinyModel, gguf: GGUFFile, load: Load) -> None:
    check_logits(load(gguf, n_batch=5).logits(PROMPT), tiny.reference)


def test_decode_behind_a_prompt(tiny: TinyModel, gguf: GGUFFile, load: Load) -> None:
    engine = load(gguf)
    rows = [engine.prefill(PROMPT[:9]), *map(engine.decode, PROMPT[9:])]
    check_logits(np.stack(rows), tiny.reference[8:])
    assert engine.n_past == len(PROMPT)


def test_decode_from_the_first_token(tiny: TinyModel, gguf: GGUFFile, load: Load) -> None:
    engine = load(gguf)
    check_logits(np.stack([engine.decode(token) for token in PROMPT]), tiny.reference)


def test_truncate_forgets_what_came_after(tiny: TinyModel, gguf: GGUFFile, load: Load) -> None:
    engine = load(gguf)
    engine.prefill(PROMPT[:11] + [(token + 1) % N_VOCAB for token in PROMPT[11:]])
    engine.truncate(11)
    assert engine.n_past == 11
    rows = [engine.decode(PROMPT[11]), engine.prefill(PROMPT[12:])]
    check_logits(np.stack(rows), tiny.reference[[11, -1]])


def test_reset_forgets_everything(tiny: TinyModel, gguf: GGUFFile, load: Load) -> None:
    engine = load(gguf)
    first = engine.prefill(PROMPT)
    engine.decode(1)
    engine.reset()
    assert engine.n_past == 0
    assert np.array_equal(engine.prefill(PROMPT), first)
