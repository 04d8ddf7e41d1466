"""Tasks through slots, on an engine whose next token depends on the sequence's ids alone."""

import numpy as np
import pytest

from powerinfer_cli.runtime.step import Wanted
from powerinfer_cli.sampling import SamplerOptions, TokenBreakers
from powerinfer_cli.serving.slots.faults import refusal
from powerinfer_cli.serving.slots.slot import SlotRequest
from powerinfer_cli.serving.tasks import (
    CompletionTask,
    EmbeddingTask,
    PromptProgress,
    SlotAction,
    SlotContent,
    SlotDone,
    SlotTask,
    Stop,
    TextPiece,
    Vectors,
)
from tests.helpers.toy_engine import ToyEngine, hidden, script
from tests.serving.slots.toy import GREEDY, Driver, end, failure, ids_of, text, tokenizer, tokens

PROMPT = ids_of("Once upon a time there was a little bear")


def test_tokens_are_those_of_the_largest_logits() -> None:
    engine = ToyEngine()
    events = Driver(engine).do(CompletionTask(PROMPT, GREEDY, n_predict=5))
    wanted: list[int] = []
    for _ in range(5):
        wanted.append(int(np.argmax(engine.logits([*PROMPT, *wanted], 2816))))
    assert tokens(events) == wanted
    done = end(events)
    assert (done.stop, done.n_prompt, done.tokens_cached) == (Stop.LIMIT, len(PROMPT), len(PROMPT) + 4)
    assert (done.timings.cache_n, done.timings.prompt_n, done.timings.predicted_n) == (0, len(PROMPT), 5)
    assert not done.truncated


def test_a_second_turn_reads_only_what_is_new() -> None:
    driver = Driver(ToyEngine())
    first = tokens(driver.do(CompletionTask(PROMPT, GREEDY, n_predict=6)))
    second = (*PROMPT, *first, *ids_of(" and then"))
    done = end(driver.do(CompletionTask(second, GREEDY, n_predict=2)))
    assert done.timings.cache_n == len(PROMPT) + 5  # the last token was never read
    assert done.timings.prompt_n == len(second) - len(PROMPT) - 5


def test_the_same_prompt_again_reads_one_token() -> None:
    driver = Driver(ToyEngine())
    first = driver.do(CompletionTask(PROMPT, GREEDY, n_predict=4))
    second = driver.do(CompletionTask(PROMPT, GREEDY, n_predict=4))
    assert end(second).timings.prompt_n == 1
    assert tokens(first) == tokens(second)


def test_what_an_engine_cannot_go_back_to_is_read_again() -> None:
    """As one with windows cannot, whose cells for them are gone."""
    driver = Driver(ToyEngine(slack=6))
    first = driver.do(CompletionTask(PROMPT, GREEDY, n_predict=6))
    near = driver.do(CompletionTask(PROMPT, GREEDY, n_predict=8))
    far = driver.do(CompletionTask(PROMPT, GREEDY, n_predict=6))
    assert [end(one).timings.cache_n for one in (first, near, far)] == [0, len(PROMPT) - 1, 0]
    assert end(far).timings.prompt_n == len(PROMPT)
    assert tokens(first) == tokens(near)[:6] == tokens(far)


def test_a_slot_that_cannot_go_back_is_left_alone() -> None:
    """Its chat goes on later; who shares only its beginning gets nothing from it."""
    driver = Driver(ToyEngine(n_sequences=2, slack=6))
    first = tokens(driver.do(CompletionTask(PROMPT, GREEDY, n_predict=20)))
    other = end(driver.do(CompletionTask((*PROMPT[:-1], 7, 8), GREEDY, n_predict=2)))
    assert (other.id_slot, other.timings.cache_n) == (1, 0)
    again = end(driver.do(CompletionTask((*PROMPT, *first, 9, 9), GREEDY, n_predict=2)))
    assert (again.id_slot, again.timings.cache_n) == (0, len(PROMPT) + 19)


def test_without_cache_prompt_all_is_read_again() -> None:
    driver = Driver(ToyEngine())
    driver.do(CompletionTask(PROMPT, GREEDY, n_predict=4))
    done = end(driver.do(CompletionTask(PROMPT, GREEDY, n_predict=4, cache_prompt=False)))
    assert (done.timings.cache_n, done.timings.prompt_n) == (0, len(PROMPT))


def test_a_long_prompt_does_not_freeze_the_others() -> None:
    engine = ToyEngine(n_sequences=2, n_ctx=8192, most_tokens=512)
    driver = Driver(engine)
    short = driver.add(CompletionTask(PROMPT, GREEDY, n_predict=20))
    driver.batcher.step()
    driver.add(CompletionTask(PROMPT * 300, GREEDY, n_predict=1))
    driver.run()
    assert end(driver.events[short]).timings.predicted_n == 20
    mixed = [step for step in engine.steps if len(step) == 2]
    assert max(n for step in mixed for _, n, _ in step) == 64
    assert max(n for step in engine.steps for _, n, _ in step) == 512  # once nobody generates
    assert all((0, 1) in [(i, n) for i, n, _ in step] for step in mixed)


def test_alone_or_in_company_the_output_is_the_same() -> None:
    prompts = [ids_of(words) for words in ("The cat", "A dog ran away", "Once", "In the garden grew a tree")]
    alone = [tokens(Driver(ToyEngine()).do(CompletionTask(p, GREEDY, n_predict=20))) for p in prompts]
    driver = Driver(ToyEngine(n_sequences=3, n_ctx=300, most_tokens=8))
    asked = [driver.add(CompletionTask(p, GREEDY, n_predict=20)) for p in prompts]
    driver.run()
    assert [tokens(driver.events[i]) for i in asked] == alone


def test_a_prompt_as_long_as_the_context_is_refused() -> None:
    driver = Driver(ToyEngine(n_ctx=32))
    error = refusal(CompletionTask(tuple(range(10, 42)), GREEDY), 32)
    assert error is not None
    assert (error.status, error.kind) == (400, "exceed_context_size_error")
    assert (error.extra["n_prompt_tokens"], error.extra["n_ctx"]) == (32, 32)
    done = end(driver.do(CompletionTask(tuple(range(10, 41)), GREEDY)))
    assert (done.stop, done.truncated, done.timings.predicted_n) == (Stop.LIMIT, True, 1)


def test_a_full_context_ends_the_text() -> None:
    done = end(Driver(ToyEngine(n_ctx=32)).do(CompletionTask(PROMPT, GREEDY)))
    assert (done.stop, done.truncated) == (Stop.LIMIT, True)
    assert len(PROMPT) + done.timings.predicted_n == 32


def test_a_full_context_shifts() -> None:
    engine = ToyEngine(n_ctx=32)
    driver = Driver(engine, context_shift=True)
    events = driver.do(CompletionTask(PROMPT, GREEDY, n_predict=100, n_keep=4))
    done = end(events)
    assert done.truncated
    assert done.timings.predicted_n == 100
    assert tuple(engine.ids[0][:5]) == PROMPT[:5]  # one more for BOS, as llama-server counts
    assert engine.ids[0][5:] == tokens(events)[:-1][-len(engine.ids[0][5:]) :]


def test_n_predict_0_reads_the_prompt_only() -> None:
    engine = ToyEngine()
    events = Driver(engine).do(CompletionTask(PROMPT, GREEDY, n_predict=0))
    assert tokens(events) == []
    assert (end(events).stop, end(events).timings.predicted_n) == (Stop.LIMIT, 0)
    assert engine.ids[0] == list(PROMPT)


def test_cancelling_frees_the_slot_and_keeps_its_cache() -> None:
    driver = Driver(ToyEngine())
    running = driver.add(CompletionTask(PROMPT, GREEDY))
    waiting = driver.add(CompletionTask(PROMPT, GREEDY))
    driver.batcher.step()
    driver.batcher.step()
    told = len(driver.events[running])
    assert told
    driver.batcher.change(cancelled=[waiting, running])
    assert not driver.batcher.is_busy
    driver.run()
    assert (len(driver.events[running]), driver.events[waiting]) == (told, [])
    assert sorted(driver.ended) == [running, waiting]
    assert end(driver.do(CompletionTask(PROMPT, GREEDY, n_predict=1))).timings.cache_n == len(PROMPT) - 1


def test_copies_are_cancelled_together_and_none_begins() -> None:
    engine = ToyEngine(n_sequences=2, n_ctx=512)
    driver = Driver(engine)
    copies = driver.add_copies([CompletionTask(PROMPT, GREEDY)] * 50)
    driver.run(1)
    n_steps = len(engine.steps)
    driver.batcher.change(cancelled=copies)
    assert sorted(driver.ended) == copies
    assert [driver.events[i] for i in copies[2:]] == [[]] * 48
    assert [view.last[0] for view in driver.batcher.slots] == copies[:2]  # the others have never had one
    assert (driver.batcher.is_busy, driver.batcher.n_waiting, len(engine.steps)) == (False, 0, n_steps)


def test_a_request_that_comes_and_goes_at_once_gets_no_slot() -> None:
    driver = Driver(ToyEngine())
    asked = [SlotRequest(i, 0, CompletionTask(PROMPT, GREEDY), lambda events: None, 0.0) for i in range(3)]
    driver.batcher.change(asked, range(3))
    assert not driver.batcher.is_busy
    assert (sorted(driver.ended), driver.batcher.slots[0].last) == ([0, 1, 2], (-1, None))


def test_copies_of_one_request_do_not_come_before_other_requests() -> None:
    driver = Driver(ToyEngine(n_sequences=2, n_ctx=512))
    copies = driver.add_copies([CompletionTask(PROMPT, GREEDY, n_predict=3)] * 40)
    pair = driver.add_copies([CompletionTask(PROMPT, GREEDY, n_predict=3)] * 2)
    single = driver.add(CompletionTask(PROMPT, GREEDY, n_predict=3))
    driver.run()
    # The copies hold both slots; then come those who have had none, then all by turns.
    assert driver.ended[:6] == [*copies[:2], pair[0], single, copies[2], pair[1]]
    assert sorted(driver.ended) == [*copies, *pair, single]


def test_nobody_starves_however_many_come_later() -> None:
    driver = Driver(ToyEngine(n_sequences=1, n_ctx=512))
    copies = driver.add_copies([CompletionTask(PROMPT, GREEDY, n_predict=1)] * 3)
    for _ in range(12):
        driver.add(CompletionTask(PROMPT, GREEDY, n_predict=1))
        driver.run(2)
    assert set(copies) <= set(driver.ended)


def test_copies_share_their_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    plain = TokenBreakers.of.__func__  # type: ignore[attr-defined]  # of a class method
    monkeypatch.setattr(
        TokenBreakers, "of", lambda texts, vocabulary: made.append(texts) or plain(TokenBreakers, texts, vocabulary)
    )
    driver = Driver(ToyEngine(n_sequences=2, n_ctx=512))
    options = SamplerOptions(temp=0.0, dry_multiplier=1.0, dry_sequence_breakers=("e" * 40, "a"))
    driver.add_copies([CompletionTask(PROMPT, options, n_predict=4)] * 20)
    driver.run()
    assert made == [("e" * 40, "a")]


def test_id_slot_waits_for_its_slot() -> None:
    driver = Driver(ToyEngine(n_sequences=2, n_ctx=512))
    first = driver.add(CompletionTask(PROMPT, GREEDY, n_predict=10, id_slot=1))
    second = driver.add(CompletionTask(PROMPT, GREEDY, n_predict=10, id_slot=1))
    third = driver.add(CompletionTask(PROMPT, GREEDY, n_predict=10))
    driver.run()
    assert [end(driver.events[i]).id_slot for i in (first, second, third)] == [1, 1, 0]


def test_a_sampler_that_fails_ends_its_task_alone() -> None:
    engine = ToyEngine(n_sequences=2, n_ctx=512)
    plain = engine.logits
    engine.logits = lambda ids, n: plain(ids, n) * (np.nan if ids[0] == 300 and len(ids) == 6 else 1)
    driver = Driver(engine)
    bad = driver.add(CompletionTask((300, 301, 302), GREEDY, n_predict=9))
    good = driver.add(CompletionTask(PROMPT, GREEDY, n_predict=9))
    driver.run()
    assert failure(driver.events[bad]).error.status == 500
    assert len(tokens(driver.events[bad])) == 3
    assert end(driver.events[good]).timings.predicted_n == 9


def test_options_that_do_not_fit_are_the_clients_fault() -> None:
    none = dict.fromkeys(range(2816), -np.inf)
    for biases in ({99999: 1.0}, none):
        options = SamplerOptions(temp=1.0, logit_bias=biases)
        assert failure(Driver(ToyEngine()).do(CompletionTask(PROMPT, options))).error.status == 400


def test_what_is_refused_before_it_begins_leaves_its_slot_alone() -> None:
    driver = Driver(ToyEngine())
    first = driver.add(CompletionTask(PROMPT, GREEDY, n_predict=4))
    driver.run()
    slot = driver.batcher.slots[0]
    before = (slot.last, slot.last_used, slot.n_tokens, list(driver.engine.ids[0]))
    assert before[0][0] == first
    options = SamplerOptions(logit_bias={99999: 1.0})
    assert failure(driver.do(CompletionTask((5, 6, 7), options))).error.status == 400
    assert (slot.last, slot.last_used, slot.n_tokens, list(driver.engine.ids[0])) == before


def test_an_engine_that_fails_ends_the_tasks_of_that_step(caplog: pytest.LogCaptureFixture) -> None:
    words = "secret words of a prompt"

    def explode(pieces: object) -> None:
        raise RuntimeError(words)

    engine = ToyEngine(n_sequences=2, n_ctx=512)
    driver = Driver(engine)
    asked = driver.add(CompletionTask(PROMPT, GREEDY))
    engine.on_step = explode
    driver.run()
    error = failure(driver.events[asked]).error
    assert (error.status, error.message) == (500, "internal error: RuntimeError")
    assert "explode" in caplog.text
    assert "secret" not in caplog.text
    engine.on_step = lambda pieces: None
    done = end(driver.do(CompletionTask(PROMPT, GREEDY, n_predict=3)))
    assert (done.timings.predicted_n, done.timings.cache_n) == (3, 0)


def test_progress_begins_with_what_was_cached_and_ends_with_all() -> None:
    driver = Driver(ToyEngine(most_tokens=4))
    prompt = tuple(range(20, 40))
    driver.do(CompletionTask(prompt[:3], GREEDY, n_predict=1))
    told = driver.do(CompletionTask(prompt, GREEDY, n_predict=1, return_progress=True))
    seen = [event for event in told if isinstance(event, PromptProgress)]
    assert [one.processed for one in seen] == [3, 7, 11, 15, 19, 20]  # the last token is read apart
    assert {(one.total, one.cache) for one in seen} == {(20, 3)}
    assert seen[0].time_ms == 0.0


def test_embeddings_are_read_in_chunks_and_forgotten() -> None:
    engine = ToyEngine(n_sequences=2, n_ctx=64, most_tokens=5)
    driver = Driver(engine)
    ids = tuple(range(20, 52))
    first, second = driver.add(EmbeddingTask(ids)), driver.add(EmbeddingTask(ids[:3]))
    driver.run()
    for asked, n in ((first, 32), (second, 3)):
        [event] = driver.events[asked]
        assert isinstance(event, Vectors)
        np.testing.assert_array_equal(event.rows, [hidden(ids[: i + 1]) for i in range(n)])
    assert engine.pages.n_used == 0
    error = refusal(EmbeddingTask(tuple(range(33))), 32)
    assert error is not None
    assert "too large" in error.message


def test_embeddings_leave_what_chats_have_read() -> None:
    driver = Driver(ToyEngine(n_sequences=2, n_ctx=512))
    driver.do(CompletionTask(PROMPT, GREEDY, n_predict=4))
    for _ in range(3):
        driver.do(EmbeddingTask(tuple(range(30, 60))))
    assert end(driver.do(CompletionTask(PROMPT, GREEDY, n_predict=1))).timings.cache_n == len(PROMPT) - 1


def done(driver: Driver, task: SlotTask) -> SlotDone:
    [event] = driver.do(task)
    assert isinstance(event, SlotDone), event
    return event


def test_a_restore_that_fails_leaves_what_was_there() -> None:
    driver = Driver(ToyEngine())
    driver.do(CompletionTask(PROMPT, GREEDY, n_predict=4))
    wrong = SlotContent((1, 2, 3), {"0.k": np.zeros((2, 2), np.float16)})
    assert failure(driver.do(SlotTask(SlotAction.RESTORE, 0, wrong))).error.status == 400
    assert end(driver.do(CompletionTask(PROMPT, GREEDY, n_predict=1))).timings.cache_n == len(PROMPT) - 1


def test_saving_erasing_and_restoring_a_slot() -> None:
    driver = Driver(ToyEngine(n_sequences=2, n_ctx=512))
    driver.do(CompletionTask(PROMPT, GREEDY, n_predict=4, id_slot=1))
    saved = done(driver, SlotTask(SlotAction.SAVE, 1))
    assert saved.content is not None
    erased = done(driver, SlotTask(SlotAction.ERASE, 1))
    restored = done(driver, SlotTask(SlotAction.RESTORE, 0, saved.content))
    assert {event.n_tokens for event in (saved, erased, restored)} == {len(PROMPT) + 3}
    assert end(driver.do(CompletionTask(PROMPT, GREEDY, n_predict=1, id_slot=1))).timings.cache_n == 0
    assert end(driver.do(CompletionTask(PROMPT, GREEDY, n_predict=1, id_slot=0))).timings.cache_n == len(PROMPT) - 1


@pytest.mark.parametrize("n_predict", [3, 200])
def test_a_shared_cache_drops_idle_slots_and_then_ends_the_latest(n_predict: int) -> None:
    engine = ToyEngine(n_sequences=3, n_ctx=96, unified=True)
    driver = Driver(engine)
    driver.do(CompletionTask(tuple(range(300, 370)), GREEDY, n_predict=2, id_slot=2))
    first = driver.add(CompletionTask(tuple(range(400, 430)), GREEDY, n_predict=10))
    second = driver.add(CompletionTask(tuple(range(500, 530)), GREEDY, n_predict=n_predict))
    third = driver.add(CompletionTask(tuple(range(600, 630)), GREEDY, n_predict=n_predict))
    driver.run()
    assert end(driver.events[first]).timings.predicted_n == 10
    if n_predict == 3:
        assert end(driver.events[second]).timings.predicted_n == 3
        assert end(driver.events[third]).timings.predicted_n == 3
        return
    done, error = end(driver.events[second]), failure(driver.events[third]).error
    assert (done.stop, done.truncated) == (Stop.LIMIT, True)  # the whole cache was its own at last
    assert (error.status, error.message) == (500, "Context size has been exceeded.")


def test_a_prompt_half_read_makes_room_and_begins_anew() -> None:
    engine = ToyEngine(n_sequences=3, n_ctx=64, unified=True, most_tokens=8)
    driver = Driver(engine)
    begun = [(400, 24), (500, 22)]
    texts = [driver.add(CompletionTask(tuple(range(i, i + 10)), GREEDY, n_predict=n)) for i, n in begun]
    driver.run(3)
    prompt = tuple(range(600, 640))
    late = [driver.add(task) for task in (CompletionTask(prompt, GREEDY, n_predict=5), EmbeddingTask(prompt))]
    driver.run()
    assert [end(driver.events[i]).timings.predicted_n for i in texts] == [24, 22]
    assert tokens(driver.events[late[0]]) == tokens(Driver(ToyEngine()).do(CompletionTask(prompt, GREEDY, n_predict=5)))
    assert (end(driver.events[late[0]]).timings.cache_n, end(driver.events[late[0]]).timings.prompt_n) == (0, 40)
    [vectors] = driver.events[late[1]]
    assert isinstance(vectors, Vectors)
    assert len(vectors.rows) == 40
    read = sum(n for step in engine.steps for i, n, wanted in step if i == 2 and wanted is not Wanted.HIDDEN)
    assert read > 40 + 4  # some of it twice


def test_a_stop_string_ends_the_text_and_its_tokens_are_not_told() -> None:
    whole = ids_of("The bear saw a wolf. The wolf ran away.")
    engine = ToyEngine(logits=script(PROMPT, whole))
    events = Driver(engine).do(CompletionTask(PROMPT, GREEDY, stop=(". The w", "xyz")))
    done = end(events)
    assert (done.stop, done.stopping_word) == (Stop.WORD, ". The w")
    shown = text(events)
    assert shown == " The bear saw a wolf"
    assert tokenizer().decode(tokens(events)).startswith(shown.strip())
    assert len(tokens(events)) < done.timings.predicted_n


def test_the_end_of_the_text_is_told_but_not_shown() -> None:
    whole = (*ids_of("The end"), tokenizer().eos_id or 0)
    engine = ToyEngine(logits=script(PROMPT, whole))
    events = Driver(engine).do(CompletionTask(PROMPT, GREEDY))
    assert (end(events).stop, text(events), tuple(tokens(events))) == (Stop.END, " The end", whole)


def test_every_token_has_its_chances() -> None:
    events = Driver(ToyEngine()).do(CompletionTask(PROMPT, GREEDY, n_predict=6, n_probs=3))
    pieces = [event for event in events if isinstance(event, TextPiece)]
    assert sum(len(piece.chances) for piece in pieces) == 6
    for piece in pieces:
        assert [one.chosen.id for one in piece.chances] == list(piece.tokens)
        assert all(one.top[0] == one.chosen and len(one.top) == 3 for one in piece.chances)
