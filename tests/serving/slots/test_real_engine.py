"""The batcher on a real engine: a tiny random model, F32, so that greedy tokens do not depend on their company."""

import math
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.drafting import Drafter, DraftingEngine, DraftOptions, NgramDrafter
from powerinfer_cli.drafting.guesses import GuessingDrafter
from powerinfer_cli.model import load_model
from powerinfer_cli.model.guesser import read_guesser
from powerinfer_cli.runtime import Engine
from powerinfer_cli.runtime.step import Piece, Wanted
from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.serving.slots.slot_files import SavedSlot, SlotFiles
from powerinfer_cli.serving.tasks import (
    CompletionTask,
    EmbeddingTask,
    SlotAction,
    SlotDone,
    SlotTask,
    TextPiece,
    Vectors,
)
from tests.helpers.families.guessers import tiny_guesser
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import N_VOCAB, tiny_model
from tests.serving.slots.toy import GREEDY, Driver, end, failure, tokens

RNG = np.random.default_rng(3)
PROMPTS = [tuple(RNG.integers(3, N_VOCAB, n).tolist()) for n in (5, 90, 1, 33, 70, 12)]


def engine(folder: Path, n_sequences: int = 1, n_ctx: int = 128, **options: object) -> Engine:
    file = tiny_model("llama-relu").file
    return file.engine(folder, n_ctx=n_ctx, n_sequences=n_sequences, type_k="f32", type_v="f32", **options)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[list[int]]:
    found = []
    for prompt in PROMPTS:
        driver = Driver(engine(tmp_path_factory.mktemp("alone")))
        found.append(tokens(driver.do(CompletionTask(prompt, GREEDY, n_predict=24))))
    return found


@pytest.mark.parametrize("options", [{}, {"n_ubatch": 16}, {"unified": True, "n_ctx": 400}], ids=str)
def test_alone_or_in_company(tmp_path: Path, alone: list[list[int]], options: dict[str, object]) -> None:
    driver = Driver(engine(tmp_path, 3, **({"n_ctx": 3 * 128} | options)))
    asked = []
    for prompt in PROMPTS:
        asked.append(driver.add(CompletionTask(prompt, GREEDY, n_predict=24)))
        driver.batcher.step()
        driver.batcher.step()
    cancelled = driver.add(CompletionTask(PROMPTS[1][:50], GREEDY))
    driver.batcher.step()
    driver.batcher.change(cancelled=[cancelled])
    driver.run()
    assert [tokens(driver.events[i]) for i in asked] == alone


@pytest.mark.parametrize(("name", "unified"), [("llama-relu", False), ("llama-relu", True), ("qwen35", False)])
def test_drafts_change_nothing_but_the_steps(tmp_path: Path, name: str, unified: bool) -> None:
    """Chances, stop strings, limits and shifts inside of what a draft has foreseen."""
    kinds = (SamplerOptions(temp=0.0), SamplerOptions(temp=0.6, top_k=5, penalty_repeat=1.05, seed=7))
    tasks = [
        CompletionTask(PROMPTS[0], kinds[0], n_predict=70, n_probs=3),
        CompletionTask(PROMPTS[3], kinds[1], n_predict=33, n_probs=2, post_sampling_probs=True),
        CompletionTask(PROMPTS[5], kinds[0], n_predict=40, stop=("the", "e")),
        CompletionTask(PROMPTS[2], kinds[0], n_predict=20, draft_max=0),
        CompletionTask(PROMPTS[5], kinds[1], n_predict=150, n_keep=2),
    ]
    heads = name == "qwen35"  # which are random, and states that cannot be cut back
    file = tiny_guesser(name).file if heads else tiny_model(name).file
    plain = file.engine(tmp_path, n_ctx=3 * 80, n_sequences=3, type_k="f32", type_v="f32", unified=unified)
    gguf = file.open(tmp_path)
    model = load_model(gguf)

    def drafter(one: Engine) -> Drafter:
        if not heads:
            return NgramDrafter(one.n_sequences, 1, 15)
        return GuessingDrafter(one, Engine(read_guesser(gguf, model), one.options, beside=one), 0.0, 0.0)

    ahead = DraftingEngine(model, plain.options, drafter=drafter, drafts=DraftOptions())
    told, steps = [], []
    for one in (plain, ahead):
        driver = Driver(one, context_shift=not unified)
        asked = [driver.add(task) for task in tasks]
        driver.run()
        pieces = [[e for e in driver.events[i] if isinstance(e, TextPiece)] for i in asked]
        chances = [[(c.chosen, list(c.top)) for e in own for c in e.chances] for own in pieces]
        ends = [end(driver.events[i]) for i in asked]
        told.append([("".join(e.text for e in own), [t for e in own for t in e.tokens]) for own in pieces])
        told[-1] += [*chances, *((e.stop, e.stopping_word, e.truncated, e.tokens_cached) for e in ends)]
        steps.append(driver.batcher.tally.n_decode)
    assert told[0] == told[1]
    assert heads or steps[1] < steps[0]
    assert (ends[0].timings.draft_n if heads else ends[0].timings.draft_n_accepted) > 0 == ends[3].timings.draft_n
    tally = driver.batcher.tally
    assert (tally.draft_tokens, tally.draft_tokens_accepted) == (
        sum(e.timings.draft_n for e in ends),
        sum(e.timings.draft_n_accepted for e in ends),
    )


def test_a_second_turn_is_what_it_would_be_from_the_start(tmp_path: Path) -> None:
    driver = Driver(engine(tmp_path, 2, 256))
    first = driver.do(CompletionTask(PROMPTS[3], GREEDY, n_predict=10))
    turn = (*PROMPTS[3], *tokens(first), *PROMPTS[0])
    second = driver.do(CompletionTask(turn, GREEDY, n_predict=10))
    assert end(second).timings.cache_n == len(PROMPTS[3]) + 9
    anew = driver.do(CompletionTask(turn, GREEDY, n_predict=10, cache_prompt=False, id_slot=1 - end(second).id_slot))
    assert end(anew).timings.cache_n == 0
    assert tokens(second) == tokens(anew)


def test_contexts_shift_side_by_side(tmp_path: Path) -> None:
    driver = Driver(engine(tmp_path, 2, 80), context_shift=True)
    endless = SamplerOptions(temp=0.0, logit_bias={2: -math.inf})
    asked = [driver.add(CompletionTask(PROMPTS[i], endless, n_predict=100, n_keep=2)) for i in (0, 3)]
    driver.run()
    for i in asked:
        assert (end(driver.events[i]).timings.predicted_n, end(driver.events[i]).truncated) == (100, True)


def stored(driver: Driver, folder: Path) -> SavedSlot:
    """What the first slot holds, saved, erased and read again."""
    [saved] = driver.do(SlotTask(SlotAction.SAVE, 0))
    assert isinstance(saved, SlotDone)
    assert saved.content is not None
    driver.do(SlotTask(SlotAction.ERASE, 0))
    files = SlotFiles(driver.engine)
    n_bytes = files.write(folder / "slot.bin", saved.content)
    found = files.read(folder / "slot.bin")
    assert found.n_bytes == n_bytes == (folder / "slot.bin").stat().st_size
    return found


def test_saved_in_one_slot_restored_in_another(tmp_path: Path) -> None:
    driver = Driver(engine(tmp_path, 2, 256))
    wanted = driver.do(CompletionTask(PROMPTS[1], GREEDY, n_predict=8, id_slot=0))
    saved = stored(driver, tmp_path)
    restored = driver.do(SlotTask(SlotAction.RESTORE, 1, saved))
    assert restored == [SlotDone(1, 97)]
    again = driver.do(CompletionTask(PROMPTS[1], GREEDY, n_predict=8))
    assert (end(again).id_slot, end(again).timings.prompt_n, tokens(again)) == (1, 1, tokens(wanted))
    other = Driver(engine(tmp_path, 2, 256, n_ubatch=32))
    assert isinstance(other.do(SlotTask(SlotAction.RESTORE, 0, saved))[0], SlotDone)
    small = Driver(engine(tmp_path, 1, 64))
    assert failure(small.do(SlotTask(SlotAction.RESTORE, 0, saved))).error.status == 400
    half = Driver(tiny_model("llama-relu").file.engine(tmp_path, n_ctx=256, type_k="f16", type_v="f16"))
    half.do(CompletionTask(PROMPTS[1], GREEDY, n_predict=8))
    assert failure(half.do(SlotTask(SlotAction.RESTORE, 0, saved))).error.status == 400
    assert end(half.do(CompletionTask(PROMPTS[1], GREEDY, n_predict=8))).timings.prompt_n == 1


@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_caches_of_other_types_are_saved(tmp_path: Path, kind: str) -> None:
    options = {"n_ctx": 512, "n_sequences": 2, "type_k": kind, "type_v": kind}
    driver = Driver(tiny_model("qwen3").file.engine(tmp_path, **options))
    wanted = driver.do(CompletionTask(PROMPTS[1], GREEDY, n_predict=8, id_slot=0))
    [restored] = driver.do(SlotTask(SlotAction.RESTORE, 1, stored(driver, tmp_path)))
    assert isinstance(restored, SlotDone), restored
    again = driver.do(CompletionTask((*PROMPTS[1], *tokens(wanted)[:3]), GREEDY, n_predict=5))
    assert (end(again).id_slot, end(again).timings.prompt_n) == (1, 1)
    assert tokens(again) == tokens(wanted)[3:]


def test_vectors_of_a_prompt_longer_than_a_step(tmp_path: Path) -> None:
    driver = Driver(engine(tmp_path, 2, 256, n_ubatch=16))
    asked = [driver.add(EmbeddingTask(PROMPTS[i])) for i in (1, 3)]
    text = driver.add(CompletionTask(PROMPTS[0], GREEDY, n_predict=4))
    driver.run()
    whole = engine(tmp_path, 1, 256)
    for i, prompt in zip(asked, (PROMPTS[1], PROMPTS[3]), strict=True):
        [event] = driver.events[i]
        assert isinstance(event, Vectors)
        [rows] = whole.step([Piece(0, prompt, Wanted.HIDDEN)])
        whole.truncate(0)
        check_logits(event.rows, rows)
    assert end(driver.events[text]).timings.predicted_n == 4
