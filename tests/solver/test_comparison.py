"""Dense and sparse beside each other, and which of them to run."""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from solver import comparison as module
from solver.comparison import Comparison, Runnable, compare_models
from solver.decoding import Decoding, measure_decoding
from solver.predictor import Quality
from tests.helpers.tiny_models import N_VOCAB, tiny_model

IDS = [int(i) for i in np.random.default_rng(4).integers(0, N_VOCAB, 40)]
FAST, SLOW = Decoding(0.01, 0.1, 100), Decoding(0.02, 0.1, 100)


def quality(loss: float) -> Quality:
    return Quality(10.0, 10.0 * (1 + loss), loss, 0.01, 0.3, 0.2, 4096)


@pytest.mark.parametrize(
    ("dense", "sparse", "loss", "wins"),
    [(SLOW, FAST, 0.01, True), (FAST, SLOW, 0.01, False), (SLOW, FAST, 0.2, False), (SLOW, FAST, None, True)],
)
def test_the_faster_is_recommended_within_the_loss_that_is_allowed(
    dense: Decoding, sparse: Decoding, loss: float | None, wins: bool
) -> None:
    found = Comparison(dense, sparse, 90.0, None if loss is None else quality(loss), 0.05)
    assert found.sparse_wins is wins
    assert found.ratio == pytest.approx(dense.seconds / sparse.seconds)
    line = found.line()
    assert f"sparse {sparse.tokens_per_second:,.1f}" in line
    assert ("than the 5% that are allowed" in line) is (loss == 0.2)
    assert ("on 4,096 held-out tokens" in line) is (loss is not None)


@pytest.mark.parametrize("both", [0, 1 << 30])
def test_both_are_measured_on_a_texts_own_tokens(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, both: int) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.05)
    monkeypatch.setattr(module, "BOTH", both)
    model = load_model(open_gguf(tiny_model("llama-relu").file.write(tmp_path / "model.gguf")))
    one = Runnable(model, EngineOptions(n_ctx=64, n_threads=1))
    opened: list[weakref.ref[Engine]] = []
    real = Runnable.open

    def opening(which: Runnable, events: LoadEvents) -> Engine:
        assert both or not any(engine() for engine in opened), "one after the other, there is memory for one"
        engine = real(which, events)
        opened.append(weakref.ref(engine))
        return engine

    monkeypatch.setattr(Runnable, "open", opening)
    told: list[tuple[str, int, int]] = []
    events = LoadEvents(progress=lambda *what: told.append(what))
    for found in compare_models(one, one, IDS, events):
        assert found.seconds > 0
        assert found.tokens >= 8
    assert told[-1][1] == told[-1][2]


def test_a_text_shorter_than_the_time_is_begun_again(tmp_path: Any) -> None:
    model = load_model(open_gguf(tiny_model("llama-relu").file.write(tmp_path / "model.gguf")))
    engine = Runnable(model, EngineOptions(n_ctx=16, n_threads=1)).open(LoadEvents())
    assert measure_decoding(engine, IDS[:12], 0.1).tokens >= 8
    assert engine.n_past == 0


class Paced:
    """An engine whose tokens take as long as a clock says, by how many it has decoded."""

    n_ctx_sequence = 64

    def __init__(self, clock: list[float], seconds: Callable[[int], float]) -> None:
        self.clock, self.seconds, self.decoded, self.n_past = clock, seconds, 0, 0

    def reset(self) -> None:
        self.n_past = 0

    def prefill(self, ids: Sequence[int]) -> None:
        self.n_past = len(ids)

    def decode(self, token: int) -> None:
        self.clock[0] += self.seconds(self.decoded)
        self.decoded += 1
        self.n_past += 1


def test_the_fastest_stretch_counts_and_all_tokens_are_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a second every token takes four times as long, as where a core is away."""
    clock = [0.0]
    monkeypatch.setattr("solver.decoding.time.perf_counter", lambda: clock[0])
    slow = Paced(clock, lambda number: 0.02 if number < 50 else 0.005 + 0.0005 * (number % 2))
    found = measure_decoding(slow, [*range(40)], 2.0)  # type: ignore[arg-type]  # it has what is asked for
    assert found.seconds == pytest.approx(0.00525, rel=0.06)
    assert found.tokens == slow.decoded - 1
    assert found.spread > 0
    deep = Paced(clock, lambda number: 0.03)
    deep.seconds = lambda number: 0.01 + 0.001 * deep.n_past  # a context costs time
    assert measure_decoding(deep, [*range(40)], 1.2).seconds == pytest.approx(0.01 + 0.001 * 24, rel=0.15)  # type: ignore[arg-type]
