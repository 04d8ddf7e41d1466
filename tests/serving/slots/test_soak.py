"""Many tasks of all kinds, cancelled at random: each gets what it would get alone, and nothing is left behind."""

import random

import pytest

from powerinfer_cli.sampling import SamplerOptions
from powerinfer_cli.serving.tasks import (
    CompletionTask,
    EmbeddingTask,
    Event,
    Failed,
    Finished,
    SlotAction,
    SlotTask,
    Task,
)
from tests.helpers.toy_engine import ToyEngine
from tests.serving.slots.toy import FINAL, Driver, text, tokens

STARTS = [tuple(range(300 + 50 * i, 340 + 50 * i)) for i in range(3)]


def a_task(rng: random.Random, n_slots: int) -> Task:
    start = rng.choice(STARTS)[: rng.randint(1, 40)]
    prompt = start + tuple(rng.randint(263, 900) for _ in range(rng.randint(0, 12)))
    kind = rng.random()
    if kind < 0.1:
        return EmbeddingTask(prompt)
    if kind < 0.15:
        return SlotTask(SlotAction.ERASE, rng.randrange(n_slots))
    return CompletionTask(
        prompt,
        SamplerOptions(seed=rng.randint(0, 99), temp=rng.choice([0.0, 1.0]), penalty_repeat=rng.choice([1.0, 1.2])),
        n_predict=rng.choice([0, 1, 3, 10, 30, -1]),
        stop=rng.choice([(), ("e",), ("th", "and")]),
        n_probs=rng.choice([0, 0, 2]),
        cache_prompt=rng.random() < 0.8,
        id_slot=rng.choice([-1, -1, -1, rng.randrange(n_slots)]),
        return_progress=rng.random() < 0.2,
    )


def alone(task: Task, n_ctx: int) -> list[Event]:
    return Driver(ToyEngine(n_sequences=4, n_ctx=4 * n_ctx)).do(task)


def check(events: list[Event], wanted: list[Event], *, cancelled: bool) -> None:
    assert [isinstance(event, FINAL) for event in events].count(True) == (0 if cancelled else 1)
    ended_early = cancelled or (isinstance(events[-1], Failed) and not isinstance(wanted[-1], Failed))
    if ended_early:
        assert tokens(wanted)[: len(tokens(events))] == tokens(events)
        assert text(wanted).startswith(text(events))
        return
    assert (tokens(events), text(events)) == (tokens(wanted), text(wanted))
    mine, its = events[-1], wanted[-1]
    assert type(mine) is type(its)
    if isinstance(mine, Finished) and isinstance(its, Finished):
        assert (mine.stop, mine.stopping_word, mine.truncated) == (its.stop, its.stopping_word, its.truncated)
        assert mine.timings.cache_n + mine.timings.prompt_n == mine.n_prompt


@pytest.mark.parametrize("unified", [False, True])
@pytest.mark.parametrize(("seed", "n_groups"), [(0, 1), (1, 1), (2, 1), (3, 1), (4, 2), (5, 3)])
def test_soak(seed: int, n_groups: int, unified: bool) -> None:
    rng = random.Random(seed)
    n_slots, n_ctx = rng.choice([1, 2, 4]) if n_groups == 1 else 4, 64
    most = rng.choice([1, 3, 8, 100])
    engine = ToyEngine(n_slots, n_ctx * (1 if unified else n_slots), unified, most_tokens=most, n_groups=n_groups)
    driver = Driver(engine)
    tasks: dict[int, Task] = {}
    cancelled: set[int] = set()
    for _ in range(40):
        for _ in range(rng.randint(0, 3)):
            task = a_task(rng, n_slots)
            tasks[driver.add(task)] = task
        for _ in range(rng.randint(0, 12)):
            driver.batcher.step()
            held = [len(ids) for ids in engine.ids]
            known = [slot.n_tokens for slot in driver.batcher.slots]
            assert known == held or engine.in_flight
            assert engine.pages.n_used == sum(held)
        if rng.random() < 0.4 and tasks:
            gone = rng.choice(list(tasks))
            if gone not in driver.ended:
                cancelled.add(gone)
            driver.batcher.change(cancelled=[gone])
    driver.run()
    assert driver.batcher.n_waiting == 0
    assert not engine.in_flight
    assert sorted(driver.ended) == sorted(tasks)
    n_failed = sum(isinstance(driver.events[i][-1], Failed) for i in tasks if i not in cancelled)
    assert n_failed < len(tasks) / 2
    for i, task in tasks.items():
        check(driver.events[i], alone(task, n_ctx), cancelled=i in cancelled)
