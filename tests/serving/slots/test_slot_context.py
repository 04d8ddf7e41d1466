"""No slot has more tokens than the model was trained on, whatever -c says, as in llama-server."""

from pathlib import Path

import pytest

from powerinfer_cli.serving.http.logs import Log
from powerinfer_cli.serving.loaded import served_model
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.slots.engine_like import slot_context
from powerinfer_cli.serving.slots.faults import refusal
from powerinfer_cli.serving.tasks import CompletionTask
from powerinfer_cli.text import Tokenizer
from tests.helpers.toy_engine import ToyConfig, ToyEngine
from tests.helpers.word_model import word_model
from tests.serving.slots.toy import GREEDY, Driver

TRAINED = 128  # tokens, the words' model


@pytest.mark.parametrize(("n_ctx", "n_slots", "unified"), [(512, 2, False), (512, 2, True)])
def test_slots_hold_what_the_model_knows(n_ctx: int, n_slots: int, unified: bool) -> None:
    engine = ToyEngine(n_ctx=n_ctx, n_sequences=n_slots, unified=unified, config=ToyConfig(n_ctx_train=64))
    driver = Driver(engine)
    assert [slot.n_ctx for slot in driver.batcher.slots] == [64, 64]
    assert refusal(CompletionTask((5,) * 64, GREEDY), slot_context(engine)) is not None


@pytest.mark.parametrize(("n_ctx", "told"), [(2 * TRAINED, []), (2 * TRAINED + 512, ["128 tokens", "not 384"])])
def test_the_log_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str], n_ctx: int, told: list[str]) -> None:
    model = word_model()
    engine = model.engine(tmp_path, n_ctx=n_ctx, n_sequences=2)
    gguf = model.open(tmp_path)
    served = served_model(gguf, Tokenizer.from_gguf(gguf), engine, ServerOptions(), (), Log())
    assert served.n_ctx_slot == TRAINED
    lines = [line for line in capsys.readouterr().err.splitlines() if "trained" in line]
    assert len(lines) == bool(told)
    assert all(word in line for word in told for line in lines)
