"""Several steps on their way together, each of its own slots: texts are those of one step after another."""

import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.serving.slots.grouping import Grouping
from powerinfer_cli.serving.tasks import CompletionTask, EmbeddingTask, Vectors
from tests.helpers.toy_engine import ToyEngine
from tests.serving.slots.toy import GREEDY, Driver, end, failure, ids_of, tokens

PROMPTS = [ids_of(words) for words in ("The cat", "A dog ran away", "Once", "In the garden grew a tree")]
LONG = ids_of("Once upon a time ") * 40


@pytest.fixture(autouse=True)
def _as_many_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is faster."""
    monkeypatch.setattr(Grouping, "groups", lambda grouping, left: grouping._most)


def two_groups(**changes: object) -> ToyEngine:
    return ToyEngine(**({"n_sequences": 4, "n_ctx": 4 * 512, "n_groups": 2} | changes))


def alone(prompt: tuple[int, ...], n: int) -> list[int]:
    return tokens(Driver(ToyEngine(n_ctx=512)).do(CompletionTask(prompt, GREEDY, n_predict=n)))


def test_each_group_has_its_half() -> None:
    engine = two_groups()
    driver = Driver(engine)
    asked = [driver.add(CompletionTask(prompt, GREEDY, n_predict=12)) for prompt in PROMPTS]
    driver.run(8)
    sizes = []
    for _ in range(6):
        driver.run(1)
        [on_its_way] = engine.in_flight
        sizes.append(len(on_its_way))
    assert sizes == [2] * 6
    driver.run()
    assert engine.most_in_flight == 2
    assert [tokens(driver.events[i]) for i in asked] == [alone(prompt, 12) for prompt in PROMPTS]


def test_a_prompt_beside_texts() -> None:
    """It is in one step at a time, so that it is read in order, and before the one behind it."""
    engine = two_groups()
    driver = Driver(engine)
    texts = [driver.add(CompletionTask(prompt, GREEDY, n_predict=40)) for prompt in PROMPTS[:2]]
    driver.run(4)
    late = [driver.add(CompletionTask(LONG, GREEDY, n_predict=3)), driver.add(EmbeddingTask(LONG[:50]))]
    driver.run()
    assert [tokens(driver.events[i]) for i in texts] == [alone(prompt, 40) for prompt in PROMPTS[:2]]
    assert tokens(driver.events[late[0]]) == alone(LONG, 3)
    [vectors] = driver.events[late[1]]
    assert isinstance(vectors, Vectors)
    read = [i for step in engine.steps for i, n, _ in step if n > 1]
    assert read[-1] == 3
    assert engine.most_in_flight == 2


def test_who_is_cancelled_on_the_way_leaves_the_others_alone() -> None:
    engine = two_groups()
    driver = Driver(engine)
    asked = [driver.add(CompletionTask(prompt, GREEDY, n_predict=30)) for prompt in PROMPTS]
    driver.run(9)
    [on_its_way] = engine.in_flight
    gone = min(on_its_way)  # slots are those of the tasks, in order
    told = len(driver.events[asked[gone]])
    driver.batcher.change(cancelled=[asked[gone]])
    late = driver.add(CompletionTask(LONG[:30], GREEDY, n_predict=5, id_slot=gone))
    driver.run()
    assert len(driver.events[asked[gone]]) == told
    assert tokens(driver.events[late]) == alone(LONG[:30], 5)
    left = [i for i in range(4) if i != gone]
    assert [tokens(driver.events[asked[i]]) for i in left] == [alone(PROMPTS[i], 30) for i in left]


def test_what_fails_on_the_way_ends_all_that_wait_for_it() -> None:
    def fail() -> None:
        raise PowerInferError("rank 1 (b) has ended")

    engine = two_groups()
    driver = Driver(engine)
    asked = [driver.add(CompletionTask(prompt, GREEDY, n_predict=30)) for prompt in PROMPTS]
    driver.run(9)
    engine.on_take = fail
    driver.run()
    assert {failure(driver.events[i]).error.message for i in asked} == {"rank 1 (b) has ended"}
    engine.on_take = lambda: None
    assert end(driver.do(CompletionTask(PROMPTS[0], GREEDY, n_predict=3))).timings.predicted_n == 3


def test_a_shared_cache_that_is_full_waits_for_what_is_on_its_way() -> None:
    engine = two_groups(n_ctx=96, unified=True)
    driver = Driver(engine)
    driver.do(CompletionTask(tuple(range(300, 370)), GREEDY, n_predict=2, id_slot=3))
    wanted = [(tuple(range(begin, begin + 30)), n) for begin, n in ((400, 10), (500, 3), (600, 3))]
    asked = [driver.add(CompletionTask(prompt, GREEDY, n_predict=n)) for prompt, n in wanted]
    driver.run()
    assert [tokens(driver.events[i]) for i in asked] == [alone(*one) for one in wanted]
