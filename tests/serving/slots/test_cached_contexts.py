"""The prompt cache on real engines: a conversation that comes back goes on as if nobody had been in its slot."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.drafting import DraftingEngine, DraftOptions, NgramDrafter
from powerinfer_cli.model import load_model
from powerinfer_cli.placement import Placement
from powerinfer_cli.runtime import Engine, EngineOptions
from powerinfer_cli.serving.slots.prompt_cache import PromptCache
from powerinfer_cli.serving.tasks import CompletionTask
from tests.helpers.families import tiny_family
from tests.helpers.placing.devices import DEVICES
from tests.helpers.placing.plans import plan_of
from tests.helpers.tiny_models import N_VOCAB
from tests.serving.slots.toy import GREEDY, Driver, end, tokens

RNG = np.random.default_rng(3)
A, B = (tuple(RNG.integers(3, N_VOCAB, n).tolist()) for n in (300, 280))
NEXT = (5, 6, 7, 8, 9)
N_CTX = 640

KINDS = {"pages": "llama", "windows": "gemma2", "states": "qwen35", "drafts": "llama", "both sides": "gemma2"}


def engine_of(kind: str, folder: Path, n_sequences: int) -> Engine:
    options = EngineOptions(n_ctx=N_CTX * n_sequences, n_sequences=n_sequences, n_ubatch=32, n_threads=1)
    file = tiny_family(KINDS[kind]).file
    gguf = file.open(folder)
    model = load_model(gguf)
    if kind == "drafts":
        return DraftingEngine(
            model, options, drafter=lambda one: NgramDrafter(one.n_sequences, 1, 8), drafts=DraftOptions()
        )
    if kind == "both sides":
        n = len(model.layers)
        plan = plan_of(file, [0] * n, [1.0] * n, 0, groups=[one.ffn.n_groups for one in model.layers])
        plan = replace(plan, layers=tuple(replace(one, pages=1) for one in plan.layers))
        return Engine(model, options, placement=Placement(plan, DEVICES[:1]))
    return Engine(model, options)


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_comes_back(tmp_path: Path, kind: str) -> None:
    engine = engine_of(kind, tmp_path, 1)
    cache = PromptCache(engine, None, lambda: 1 << 30)
    one, two = Driver(engine, cache=cache), Driver(engine_of(kind, tmp_path, 2))  # type: ignore[arg-type]  # a real one
    told = []
    for driver in (one, two):
        first = tokens(driver.do(CompletionTask(A, GREEDY, n_predict=6)))
        driver.do(CompletionTask(B, GREEDY, n_predict=6))
        back = driver.do(CompletionTask((*A, *first, *NEXT), GREEDY, n_predict=6))
        told.append((first, tokens(back), end(back).timings.cache_n))
    assert told[0] == told[1]
    assert told[0][2] == len(A) + len(first) - 1
    assert cache.counts.restored == 1
    expected = engine.saved_bytes(0)
    assert expected == sum(part.nbytes for part in engine.save(0).values()) > 0
