"""Queues of replicas: closed forms where there are some, and the chain against its being played through."""

import math

import numpy as np
import pytest

from solver.machines.replicas import Queue, request_rates, simulate_queue

CURVE = (10.0, 16.0, 20.0, 22.0)


def erlang_c(servers: int, load: float) -> float:
    """The share that waits, of M/M/c."""
    full = load**servers / math.factorial(servers) / (1 - load / servers)
    return full / (sum(load**n / math.factorial(n) for n in range(servers)) + full)


@pytest.mark.parametrize("load", [0.01, 0.5, 0.99])
def test_one_slot_is_m_m_1(load: float) -> None:
    queue = Queue((5.0,), 1, 5.0 * load)
    assert queue.waiting == pytest.approx(load)
    assert queue.seconds == pytest.approx(1 / (5.0 - queue.arrivals))
    assert queue.in_work == pytest.approx(load)
    assert queue.utilisation == pytest.approx(load)
    assert queue.wait_below(0.999) == pytest.approx(math.log(load / 0.001) / (5.0 - queue.arrivals))


def test_slots_that_gain_nothing_are_m_m_1_as_well() -> None:
    """A processor that is shared: the mean is that of one after the other."""
    assert Queue((5.0,) * 7, 1, 4.0).seconds == pytest.approx(1.0)


@pytest.mark.parametrize("servers", [2, 3, 10])
def test_replicas_with_one_slot_are_m_m_c(servers: int) -> None:
    queue = Queue((5.0,), servers, 5.0 * servers * 0.8)
    waits = erlang_c(servers, 0.8 * servers)
    assert queue.waiting == pytest.approx(waits)
    assert queue.seconds == pytest.approx(1 / 5.0 + waits / (queue.capacity - queue.arrivals))


def test_slots_that_do_not_share_are_more_replicas() -> None:
    one, several = Queue((5.0, 10.0, 15.0), 2, 20.0), Queue((5.0,), 6, 20.0)
    assert one.seconds == pytest.approx(several.seconds)
    assert one.waiting == pytest.approx(several.waiting)


def test_nobody_comes() -> None:
    queue = Queue(CURVE, 3, 0.0)
    assert (queue.seconds, queue.waiting, queue.in_work, queue.wait_below(0.99)) == (0.1, 0, 0, 0)
    assert Queue(CURVE, 3, 1e-9).seconds == pytest.approx(0.1)


def test_saturation() -> None:
    assert Queue(CURVE, 3, 66.0).saturated
    with pytest.raises(ValueError, match="more requests come"):
        _ = Queue(CURVE, 3, 66.0).seconds
    near = [Queue(CURVE, 3, 66.0 * share).seconds for share in (0.9, 0.99, 0.999)]
    assert near[1] > 2 * near[0]
    assert near[2] == pytest.approx(10 * near[1], rel=0.2)


def test_a_thousand_replicas() -> None:
    """By the law of large numbers all have work, and nobody waits; at the same load one replica's requests do."""
    many, one = Queue(CURVE, 1000, 15_000.0), Queue(CURVE, 1, 15.0)
    assert many.waiting < 1e-9 < one.waiting
    assert 1 / 10 < many.seconds < one.seconds
    assert many.in_work == pytest.approx(15_000.0 * many.seconds)


@pytest.mark.parametrize(("n_replicas", "arrivals"), [(1, 14.0), (3, 30.0)])
def test_played_through_it_is_the_chain(n_replicas: int, arrivals: float) -> None:
    """Of n times the mean of a queue's times is known to 5 of the errors that its parts show."""
    queue = Queue(CURVE, n_replicas, arrivals)
    took = simulate_queue(queue, 30_000)
    parts = [part.mean() for part in np.array_split(took, 20)]
    error = 5 * np.std(parts) / math.sqrt(len(parts))
    balance = 0.06 * queue.seconds if n_replicas > 1 else 0.0  # requests stay where they are: not always even
    assert abs(took.mean() - queue.seconds) < error + balance
    assert error < 0.2 * queue.seconds


def test_spread_of_work_and_of_requests() -> None:
    """Without a spread of work less wait; sent anywhere they wait more."""
    queue = Queue((5.0,), 2, 8.0)
    even, usual, anywhere = (
        simulate_queue(queue, 10_000, spread=spread, least_busy=least).mean()
        for spread, least in ((0.0, True), (1.0, True), (1.0, False))
    )
    assert even < usual < anywhere
    assert anywhere == pytest.approx(Queue((5.0,), 1, 4.0).seconds, rel=0.2)


def test_rates_of_a_step() -> None:
    """Two texts in a step of the same time are twice as many; a prompt's time is nobody else's."""
    assert request_rates([0.01, 0.01], 100, 0.0) == pytest.approx((1.0, 2.0))
    assert request_rates([0.01, 0.01], 100, 0.5) == pytest.approx((1 / 1.5, 1.0))
