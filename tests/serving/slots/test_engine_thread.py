"""The thread on a toy engine: tasks from several threads, cancelling, the queue's bound, stopping."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from queue import Queue

import pytest

from powerinfer_cli.serving.errors import APIError
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.slots.counters import ServedRequest
from powerinfer_cli.serving.slots.engine_thread import EngineThread
from powerinfer_cli.serving.tasks import CompletionTask, Emit, Event, Failed, SlotAction, SlotTask, Task
from tests.helpers.toy_engine import ToyEngine
from tests.serving.slots.toy import FINAL, GREEDY, Driver, end, ids_of, tokenizer, tokens

PROMPT = ids_of("Once upon a time")


@contextmanager
def serving(
    engine: ToyEngine, log: Callable[[ServedRequest], None] = lambda served: None, **options: object
) -> Iterator[EngineThread]:
    thread = EngineThread(engine, tokenizer(), ServerOptions(**options), log)
    thread.start()
    try:
        yield thread
    finally:
        thread.stop(5.0)


def wait(queue: "Queue[Sequence[Event]]") -> list[Event]:
    """All events up to the final one."""
    found: list[Event] = []
    while not (found and isinstance(found[-1], FINAL)):
        found += queue.get(timeout=10)
    return found


def submit(thread: EngineThread, task: Task, emit: Emit) -> int:
    [task_id] = thread.submit([task], lambda place, events: emit(events))
    return task_id


def do(thread: EngineThread, task: Task) -> list[Event]:
    queue: Queue[Sequence[Event]] = Queue()
    submit(thread, task, queue.put)
    return wait(queue)


def test_many_threads_get_what_each_would_get_alone() -> None:
    prompts = [(*PROMPT, 300 + i) for i in range(12)]
    found: dict[int, list[int]] = {}
    with serving(ToyEngine(n_sequences=3, n_ctx=600)) as thread:

        def ask(i: int) -> None:
            found[i] = tokens(do(thread, CompletionTask(prompts[i], GREEDY, n_predict=15)))

        workers = [threading.Thread(target=ask, args=(i,)) for i in range(len(prompts))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        counters = thread.counters()
    for i, prompt in enumerate(prompts):
        assert found[i] == tokens(Driver(ToyEngine()).do(CompletionTask(prompt, GREEDY, n_predict=15)))
    assert counters.predicted_tokens == 12 * 15
    assert counters.predicted_steps == 12 * 14
    assert counters.prompt_tokens + counters.prompt_tokens_cached == sum(map(len, prompts))
    assert (counters.requests_processing, counters.requests_deferred) == (0, 0)


def test_the_queue_has_a_bound() -> None:
    gate = threading.Event()
    engine = ToyEngine(on_step=lambda pieces: gate.wait(10))
    queues: list[Queue[Sequence[Event]]] = [Queue() for _ in range(3)]
    with serving(engine, queue=2) as thread:
        for queue in queues:
            submit(thread, CompletionTask(PROMPT, GREEDY, n_predict=1), queue.put)
        with pytest.raises(APIError) as caught:
            submit(thread, CompletionTask(PROMPT, GREEDY), lambda events: None)
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (503, "1")
        gate.set()
        for queue in queues:
            end(wait(queue))
        end(do(thread, CompletionTask(PROMPT, GREEDY, n_predict=1)))


def test_cancelling_ends_within_one_step() -> None:
    steps: Queue[int] = Queue()
    go = threading.Semaphore(0)

    def on_step(pieces: object) -> None:
        steps.put(1)
        go.acquire(timeout=10)

    told: list[Event] = []
    records: list[ServedRequest] = []
    with serving(ToyEngine(on_step=on_step), records.append) as thread:
        asked = submit(thread, CompletionTask(PROMPT, GREEDY), told.extend)
        for _ in range(3):
            steps.get(timeout=10)
            go.release()
        steps.get(timeout=10)
        before = len(told)
        thread.cancel([asked])
        thread.cancel([asked])
        go.release()
        deadline = time.monotonic() + 10
        while thread.slots()[0].is_processing:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert steps.empty()
        assert len(told) == before > 0
        assert [record.stop for record in records] == ["cancelled"]
        assert thread.counters().kv_tokens == len(PROMPT) + 2  # the prompt takes two steps
        thread.cancel([asked])


def test_an_idle_thread_sleeps() -> None:
    with serving(ToyEngine()) as thread:
        do(thread, CompletionTask(PROMPT, GREEDY, n_predict=1))
        before = time.process_time()
        time.sleep(0.2)
        assert time.process_time() - before < 0.1


def test_stopping_tells_everybody() -> None:
    engine = ToyEngine(on_step=lambda pieces: time.sleep(0.001), n_ctx=100_000)
    queues: list[Queue[Sequence[Event]]] = [Queue() for _ in range(3)]
    with serving(engine, n_predict=-1) as thread:
        for queue in queues:
            submit(thread, CompletionTask(PROMPT, GREEDY), queue.put)
        queues[0].get(timeout=10)
    for queue in queues:
        last = wait(queue)[-1]
        assert isinstance(last, Failed)
        assert last.error.status == 503
    with pytest.raises(APIError):
        submit(thread, CompletionTask(PROMPT, GREEDY), lambda events: None)


@pytest.mark.parametrize(
    "task",
    [
        CompletionTask(()),
        CompletionTask((2816,)),
        CompletionTask((5, -1)),
        CompletionTask(PROMPT, id_slot=1),
        SlotTask(SlotAction.ERASE, 1),
    ],
)
def test_what_cannot_be_is_refused_at_once(task: Task) -> None:
    with serving(ToyEngine()) as thread, pytest.raises(APIError) as caught:
        submit(thread, task, lambda events: None)
    assert caught.value.status == 400


def test_a_reader_that_fails_frees_its_slot() -> None:
    def broken(events: object) -> None:
        raise RuntimeError("gone")

    with serving(ToyEngine(n_ctx=100_000)) as thread:
        submit(thread, CompletionTask(PROMPT, GREEDY), broken)
        assert end(do(thread, CompletionTask(PROMPT, GREEDY, n_predict=2))).timings.predicted_n == 2


def test_slots_tell_what_runs_and_what_ran() -> None:
    gate = threading.Event()
    reached: Queue[int] = Queue()

    def on_step(pieces: object) -> None:
        reached.put(1)
        gate.wait(10)

    queue: Queue[Sequence[Event]] = Queue()
    with serving(ToyEngine(n_sequences=2, n_ctx=512, on_step=on_step)) as thread:
        task = CompletionTask(PROMPT, GREEDY, n_predict=3)
        asked = submit(thread, task, queue.put)
        reached.get(timeout=10)
        busy = [view for view in thread.slots() if view.is_processing]
        assert [(view.id_task, view.task, view.n_remain, view.n_decoded) for view in busy] == [(asked, task, 3, 0)]
        gate.set()
        wait(queue)
        view = thread.slots()[busy[0].id]
        assert (view.is_processing, view.id_task, view.task, view.n_remain, view.n_decoded) == (
            False,
            asked,
            task,
            -1,
            0,
        )
        assert view.n_tokens == len(PROMPT) + 2


def test_the_thread_outlives_what_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ToyEngine()
    tokens_of = engine.tokens_of
    with serving(engine) as thread:
        monkeypatch.setattr(engine, "tokens_of", lambda sequence: None)
        [event] = do(thread, CompletionTask(PROMPT, GREEDY, n_predict=2))
        assert isinstance(event, Failed)
        assert (event.error.status, event.error.message) == (500, "internal error")
        monkeypatch.setattr(engine, "tokens_of", tokens_of)
        assert end(do(thread, CompletionTask(PROMPT, GREEDY, n_predict=2))).timings.predicted_n == 2


def test_a_log_that_fails_costs_nobody_an_answer() -> None:
    def broken(served: ServedRequest) -> None:
        raise RuntimeError("disk full")

    with serving(ToyEngine(), broken) as thread:
        assert end(do(thread, CompletionTask(PROMPT, GREEDY, n_predict=2))).timings.predicted_n == 2
