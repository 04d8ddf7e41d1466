"""Texts that have left their slot: kept, found again, put back, and never more of them than there is room for."""

import numpy as np
import pytest

from powerinfer_cli.runtime.step import Piece
from powerinfer_cli.serving.slots.prompt_cache import PromptCache, prompt_cache_of
from powerinfer_cli.serving.tasks import CompletionTask, EmbeddingTask, SlotAction, SlotTask
from tests.helpers.toy_engine import ToyConfig, ToyEngine
from tests.serving.slots.toy import GREEDY, Driver, end, tokens

GIB = 1 << 30
A, B, C = (tuple(range(start, start + 60)) for start in (100, 300, 500))


def cache_of(engine: ToyEngine, most: int | None = None, available: int = GIB) -> PromptCache:
    return PromptCache(engine, most, lambda: available)


def driver(engine: ToyEngine, most: int | None = None) -> Driver:
    return Driver(engine, cache=cache_of(engine, most))


def cached(driver: Driver, prompt: tuple[int, ...], **fields: object) -> int:
    """Tokens of a prompt that need not be read."""
    return end(driver.do(CompletionTask(prompt, GREEDY, n_predict=4, **fields))).timings.cache_n  # type: ignore[arg-type]


def test_a_conversation_comes_back_to_the_only_slot() -> None:
    run = driver(ToyEngine())
    first = tokens(run.do(CompletionTask(A, GREEDY, n_predict=4)))
    assert cached(run, B) == 0
    longer = (*A, *first[:3], 7, 8, 9)
    assert cached(run, longer) == len(A) + 3
    assert cached(run, (*B, 7, 8, 9)) == len(B)
    fresh = Driver(ToyEngine())
    assert tokens(fresh.do(CompletionTask(longer, GREEDY, n_predict=4))) == tokens(run.events[2])
    assert run.batcher.texts.cache is not None
    assert run.batcher.texts.cache.counts.restored == 2


def test_what_a_slot_has_is_not_copied() -> None:
    """Going on, and saying the last thing again, are the slot's own affair."""
    run = driver(ToyEngine())
    for prompt in (A, (*A, 7, 8, 9), A):
        cached(run, prompt)
    assert run.batcher.texts.cache is not None
    assert run.batcher.texts.cache.counts.kept == 0


def test_other_tasks_leave_texts_as_well_and_erasing_forgets() -> None:
    run = driver(ToyEngine())
    cached(run, A)
    run.do(EmbeddingTask(B))
    assert cached(run, A) == len(A) - 1
    assert cached(run, B, cache_prompt=False) == 0
    assert cached(run, A, cache_prompt=False) == 0
    assert cached(run, C) == 0
    run.do(SlotTask(SlotAction.ERASE, 0))
    assert cached(run, C) == 0
    assert cached(run, B) == len(B) - 1


def test_into_the_slot_that_was_asked_for_or_one_that_nobody_misses() -> None:
    run = driver(ToyEngine(n_sequences=2, n_ctx=512))
    cached(run, A, id_slot=0)
    cached(run, B, id_slot=0)
    assert end(run.do(CompletionTask(A, GREEDY, n_predict=1))).id_slot == 1
    assert run.engine.ids[0][: len(B)] == list(B)
    cached(run, C, id_slot=1)
    assert cached(run, (*A, 7, 8, 9), id_slot=0) == len(A)
    assert cached(run, (*B, 7, 8, 9), id_slot=0) == len(B)


def test_slots_that_share_the_context_make_room_and_lose_nothing() -> None:
    run = driver(ToyEngine(n_sequences=3, n_ctx=160, unified=True))
    for prompt in (A, B, C):
        assert cached(run, prompt) == 0
    for end_of, prompt in enumerate((A, B, C, A)):
        assert cached(run, (*prompt, end_of, 8, 9)) == len(prompt)


def test_texts_that_a_slot_cannot_go_back_in_are_of_use_only_whole() -> None:
    """As with windows and states: what is restored must reach to where the prompt differs."""
    engine = ToyEngine(slack=10)
    run = driver(engine)
    first = tokens(run.do(CompletionTask(A, GREEDY, n_predict=4)))
    cached(run, B)
    assert cached(run, (*A[:40], 7, 8, 9)) == 0
    cached(run, B)
    assert cached(run, (*A, *first[:3], 7, 8, 9)) == len(A) + 3


def test_a_text_replaces_what_it_begins_with() -> None:
    engine = ToyEngine(n_sequences=2, n_ctx=512)
    cache = cache_of(engine)
    for sequence, ids in ((0, A), (1, (*A, 7))):
        engine.step([Piece(sequence, ids[i : i + 31]) for i in (0,)])
        engine.ids[sequence] = list(ids)
    assert cache.keep(0)
    assert cache.keep(1)
    assert cache.keep(0)  # is there already, within the other one
    assert (cache.counts.n_texts, cache.counts.kept) == (1, 2)


@pytest.mark.parametrize(("most", "available"), [(1500, GIB), (None, 1500)])
def test_many_long_prompts_never_pass_the_limit(most: int | None, available: int) -> None:
    """Also not while one is copied: what is dropped goes before. None: memory is the limit, half of what is free."""
    engine = ToyEngine(n_ctx=4096)
    peak = 0
    save = engine.save

    def watched(sequence: int) -> dict[str, np.ndarray]:
        nonlocal peak
        found = save(sequence)
        own = sum(part.nbytes for part in found.values()) + 4 * len(engine.ids[sequence])
        peak = max(peak, cache.counts.n_bytes + own)
        return found

    engine.save = watched  # type: ignore[method-assign]
    cache = PromptCache(engine, most, lambda: available - cache.counts.n_bytes)
    run = Driver(engine, cache=cache)
    random = np.random.default_rng(5)
    for _ in range(60):
        prompt = tuple(random.integers(3, 2000, random.integers(1, 300)).tolist())
        run.do(CompletionTask(prompt, GREEDY, n_predict=2))
    limit = most if most is not None else available // 2
    assert limit / 2 < peak <= limit
    counts = cache.counts
    assert counts.kept == counts.dropped + counts.n_texts
    assert counts.dropped > 10


def test_the_one_that_was_used_longest_ago_makes_room() -> None:
    run = driver(ToyEngine(), most=8 * 2 * 70)
    for prompt in (A, B, C):
        cached(run, prompt)
    assert cached(run, (*A, 7, 8, 9)) == len(A)  # which puts C in its place
    assert cached(run, (*C, 7, 8, 9)) == len(C)
    cached(run, tuple(range(700, 760)))
    cached(run, tuple(range(800, 860)))
    assert cached(run, A) == 0


def test_a_copy_that_fails_is_nobodys_fault() -> None:
    engine = ToyEngine()
    run = driver(engine)
    cached(run, A)

    def full(sequence: int) -> dict[str, np.ndarray]:
        raise MemoryError

    engine.save = full  # type: ignore[method-assign]
    assert cached(run, B) == 0


@pytest.mark.parametrize(
    ("mib", "causal", "there"), [(1, True, True), (-1, True, True), (0, True, False), (1, False, False)]
)
def test_what_the_flag_says(mib: int, causal: bool, there: bool) -> None:
    assert (prompt_cache_of(ToyEngine(config=ToyConfig(causal=causal)), mib) is not None) is there
