"""Who is loaded, who waits, and who makes room: with processes that are told when to be ready."""

import asyncio

import pytest

from powerinfer_cli.router.division import STEPS, Curve
from powerinfer_cli.router.pool import TELLING_S, State
from powerinfer_cli.serving.errors import APIError
from powerinfer_cli.serving.load_progress import LoadProgress
from tests.router.fake_pool import Bench, entry, loop, settle

GIB = 1 << 30


@loop
async def test_a_request_loads_its_model_once() -> None:
    bench = Bench()
    assert await asyncio.gather(*(bench.use("a") for _ in range(5))) == ["a"] * 5
    assert bench.loads == "a"
    assert bench.states == [("a", State.LOADING), ("a", State.LOADED)]


@loop
async def test_the_one_that_was_used_longest_ago_makes_room() -> None:
    bench = Bench(most=2)
    for name in "abac":
        await bench.use(name)
    assert {name: bench.state(name) for name in "abc"} == {
        "a": State.LOADED,
        "b": State.UNLOADED,
        "c": State.LOADED,
    }


@loop
async def test_a_model_in_use_is_not_stopped() -> None:
    bench = Bench()
    done = asyncio.Event()
    busy = asyncio.create_task(bench.use("a", done))
    await settle()
    waiting = asyncio.create_task(bench.use("b"))
    await settle()
    assert bench.state("a") is State.LOADED
    assert bench.loads == "a"
    done.set()
    assert await busy == "a"
    assert await waiting == "b"
    assert bench.state("a") is State.UNLOADED


@loop
async def test_requests_for_one_model_need_one_place() -> None:
    bench = Bench(most=2)
    done = asyncio.Event()
    await bench.use("b")
    busy = asyncio.create_task(bench.use("a", done))
    await settle()
    assert await asyncio.gather(*(bench.use("c") for _ in range(3))) == ["c"] * 3
    done.set()
    await busy
    assert bench.state("a") is State.LOADED
    assert bench.loads == "bac"


@loop
async def test_the_line_is_served_in_order() -> None:
    bench = Bench()
    done, order = asyncio.Event(), []

    async def noted(name: str) -> None:
        order.append(await bench.use(name))

    busy = asyncio.create_task(bench.use("a", done))
    await settle()
    others = [asyncio.create_task(noted(name)) for name in "bcd"]
    await settle()
    done.set()
    await asyncio.gather(busy, *others)
    assert order == ["b", "c", "d"]


@loop
async def test_who_keeps_coming_does_not_keep_others_out() -> None:
    """A model that always has some request is given up all the same once its running ones have ended."""
    bench = Bench()
    done = asyncio.Event()
    first = asyncio.create_task(bench.use("a", done))
    await settle()
    other = asyncio.create_task(bench.use("b"))
    await settle()
    late = [asyncio.create_task(bench.use("a")) for _ in range(3)]
    await settle()
    assert not any(task.done() for task in late)
    done.set()
    assert await asyncio.gather(first, other, *late) == ["a", "b", "a", "a", "a"]
    assert bench.loads == "aba"


@loop
async def test_a_client_that_leaves_costs_nobody_a_place() -> None:
    bench = Bench()
    done = asyncio.Event()
    busy = asyncio.create_task(bench.use("a", done))
    await settle()
    gone = asyncio.create_task(bench.use("b"))
    await settle()
    gone.cancel()
    await settle()
    done.set()
    await busy
    await settle()
    assert bench.loads == "a"
    assert bench.state("a") is State.LOADED
    assert await bench.use("a") == "a"  # it was to be given up, and need not


@loop
async def test_a_fault_is_told_to_all_who_wait_and_the_next_one_tries_again() -> None:
    bench = Bench()
    bench.faults["a"] = "no model"
    found = await asyncio.gather(*(bench.use("a") for _ in range(2)), return_exceptions=True)
    assert [str(error) for error in found] == ["model 'a' failed to load: no model"] * 2
    assert all(isinstance(error, APIError) and error.status == 500 for error in found)
    assert bench.pool.instances["a"].fault == "no model"
    bench.faults.clear()
    assert await bench.use("a") == "a"
    assert bench.pool.instances["a"].fault is None


@loop
async def test_a_process_that_dies_is_known_to_be_gone() -> None:
    bench = Bench()
    await bench.use("a")
    bench.made[0].crash(-11)
    await settle()
    assert bench.state("a") is State.UNLOADED
    assert bench.pool.instances["a"].fault == "its process was killed (signal 11)"
    assert await bench.use("a") == "a"


@loop
async def test_who_waits_for_a_process_that_is_killed_gets_another_once() -> None:
    bench = Bench()
    bench.slow.add("a")
    waiting = [asyncio.create_task(bench.use("a")) for _ in range(3)]
    await settle()
    bench.made[0].crash(-9)
    await settle()
    assert bench.loads == "aa"
    bench.made[1].ready.set()
    assert await asyncio.gather(*waiting) == ["a"] * 3
    bench.made[1].crash(-9)
    await settle()
    again = asyncio.create_task(bench.use("a"))
    for n in (2, 3):  # the first one's second chance was not theirs
        await settle()
        bench.made[n].crash(-9)
    with pytest.raises(APIError, match=r"model 'a' failed to load: its process was killed \(signal 9\)") as error:
        await again
    assert (error.value.status, bench.loads) == (500, "aaaa")


@loop
async def test_a_process_that_is_killed_for_nobody_stays_gone() -> None:
    bench = Bench()
    bench.slow.add("a")
    gone = asyncio.create_task(bench.use("a"))
    await settle()
    gone.cancel()
    await settle()
    bench.made[0].crash(-9)
    await settle()
    assert (bench.loads, bench.state("a")) == ("a", State.UNLOADED)


@loop
async def test_memory_is_a_limit_as_well() -> None:
    bench = Bench(most=0, available=3 * GIB)
    await bench.use("a", size=2 * GIB)
    with pytest.raises(APIError, match=r"model 'b' needs 9\.2 GiB of memory, and 3\.0 are free") as error:
        await bench.use("b", size=9 * GIB)
    assert error.value.status == 503
    assert bench.pool.instances["b"].fault == error.value.message
    assert bench.state("a") is State.LOADED  # there is no point in its making room
    with pytest.raises(APIError, match=r"model 'c' needs 4\.8 GiB"):
        await bench.use("c", size=9 * GIB // 2)
    assert bench.state("a") is State.UNLOADED  # it made room, in vain
    await bench.use("a", size=2 * GIB)
    bench.made[-1].memory = 7 * GIB  # contexts, say
    with pytest.raises(APIError):
        await bench.use("b", size=9 * GIB)
    assert bench.state("a") is State.UNLOADED


def falling(*seconds: float) -> Curve:
    """As many as given, and the last for all that follow."""
    return (*seconds, *seconds[-1:] * (STEPS + 1 - len(seconds)))


@loop
async def test_the_budget_is_divided_by_what_it_gains_each() -> None:
    """Whoever has more than its part, and is idle, comes back with less; then all stay."""
    bench = Bench(most=2, budgets=(STEPS * GIB, STEPS * GIB // 2))
    bench.curves = {"a": falling(9, 5, 2, 1), "b": falling(*range(60, 60 - 2 * (STEPS + 1), -2)), "c": falling(1.0)}
    for name in "aba":
        await bench.use(name, size=100 * GIB)
    assert bench.loads == "aba"
    assert bench.shares == [(16 * GIB, 8 * GIB), (14 * GIB, 7 * GIB), (2 * GIB, GIB)]
    await bench.use("b", size=100 * GIB)
    await bench.use("c", size=100 * GIB)
    assert (bench.loads, bench.shares[-1]) == ("abac", (0, 0))  # it gains nothing
    assert bench.weighings == ["b", "a", "c"]


@loop
async def test_busy_models_keep_what_they_have() -> None:
    bench = Bench(most=2, budgets=(STEPS * GIB,))
    bench.curves = {"a": falling(9, 1), "b": falling(9, 1)}
    done = asyncio.Event()
    busy = asyncio.create_task(bench.use("a", done, size=100 * GIB))
    await settle()
    assert await bench.use("b", size=100 * GIB) == "b"
    assert bench.shares == [(16 * GIB,), (0,)]
    done.set()
    await busy
    assert bench.loads == "ab"


@loop
async def test_what_cannot_be_weighed_gets_what_is_left() -> None:
    bench = Bench(most=2, budgets=(STEPS * GIB,))
    bench.curves = {"a": falling(9, 1)}
    await bench.use("a", size=GIB)
    await bench.use("b", size=100 * GIB)
    assert sum(bench.shares[0]) + sum(bench.shares[1]) == STEPS * GIB


@loop
async def test_the_budget_is_divided_by_what_each_can_use() -> None:
    bench = Bench(most=0, budgets=(3 * GIB, GIB))
    await bench.use("a", size=GIB)
    await bench.use("b", size=8 * GIB)
    first, second = bench.shares
    assert sum(first) == pytest.approx(1.25 * GIB, rel=1e-6)
    assert first[0] == pytest.approx(3 * first[1], rel=1e-6)
    assert sum(first) + sum(second) == pytest.approx(4 * GIB, rel=1e-6)


@loop
async def test_unloading_ends_what_is_loading() -> None:
    bench = Bench()
    bench.slow.add("a")
    waiting = asyncio.create_task(bench.use("a"))
    await settle()
    await bench.pool.unload(bench.pool.instances["a"])
    with pytest.raises(APIError, match="it was unloaded while it was loading"):
        await waiting


@loop
async def test_unloading_ends_waiting_in_line() -> None:
    bench = Bench()
    done = asyncio.Event()
    busy = asyncio.create_task(bench.use("a", done))
    await settle()
    waiting = [asyncio.create_task(bench.use(name)) for name in "bc"]
    await settle()
    await bench.pool.unload(bench.pool.instances["b"])
    done.set()
    found = await asyncio.gather(busy, *waiting, return_exceptions=True)
    assert [str(one) for one in found] == ["a", "model 'b' was unloaded while it waited for room", "c"]
    assert bench.loads == "ac"


@loop
async def test_who_waits_for_a_model_that_changes_gets_it_as_it_is_now() -> None:
    bench = Bench()
    done = asyncio.Event()
    busy = asyncio.create_task(bench.use("a", done))
    await settle()
    waiting = [asyncio.create_task(bench.use(name)) for name in "bc"]
    await settle()
    fresh = entry("b", size=7)
    await bench.pool.change(bench.pool.instances["b"], fresh)
    await bench.pool.change(bench.pool.instances["c"], None)
    done.set()
    found = await asyncio.gather(busy, *waiting, return_exceptions=True)
    assert [str(one) for one in found] == ["a", "b", "model 'c' is there no more"]
    assert bench.made[1].entry is fresh
    assert list(bench.pool.instances) == ["a", "b"]
    await bench.pool.change(bench.pool.instances["b"], entry("b"))
    assert (bench.state("b"), bench.made[1].exit_code) == (State.UNLOADED, 0)


@loop
async def test_when_all_ends_nobody_comes_in() -> None:
    bench = Bench()
    done = asyncio.Event()
    busy = asyncio.create_task(bench.use("a", done))
    await settle()
    waiting = asyncio.create_task(bench.use("c"))
    await settle()
    await bench.pool.close()
    assert bench.state("a") is State.UNLOADED
    with pytest.raises(APIError, match="the server is stopping"):
        await waiting
    busy.cancel()
    with pytest.raises(APIError, match="the server is stopping"):
        await bench.use("b")


@loop
async def test_progress_is_kept_and_told_now_and_then() -> None:
    bench = Bench()
    bench.slow = {"a"}
    await bench.pool.load(entry("a"))
    await settle()
    one = bench.pool.instances["a"]
    assert one.progress == LoadProgress("starting")
    bench.made[0].on_progress(LoadProgress("loading weights", 0.4))
    assert bench.states == [("a", State.LOADING)]  # it has just begun
    await asyncio.sleep(TELLING_S)
    for _ in range(2):  # the second time nothing is new
        bench.made[0].on_progress(LoadProgress("loading weights", 0.5))
    assert one.progress == LoadProgress("loading weights", 0.5)
    assert bench.states == [("a", State.LOADING)] * 2
    bench.made[0].ready.set()
    await settle()
    assert one.progress is None
