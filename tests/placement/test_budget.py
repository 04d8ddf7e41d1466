"""What fits, what gives way and in which order."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerinfer_cli.errors import UsageError
from powerinfer_cli.placement import (
    MAIN_MEMORY,
    LayerBytes,
    LayerPlacement,
    ModelBytes,
    Plan,
    all_neurons,
    check_budgets,
    device_use,
    hot_bytes,
    no_neurons,
    parse_budgets,
    reserve,
)

GIB = 1 << 30
LAYER = LayerBytes(attention=100, predictor=20, kv=30, neuron=5, neurons=40)  # 150 fixed, 200 of neurons
MODEL = ModelBytes((LAYER,) * 4, head=90, scratch=10)
M = MAIN_MEMORY


def test_everything_fits() -> None:
    fits = reserve(MODEL, [MODEL.total])
    assert fits.devices == (0, 0, 0, 0)
    assert fits.output == 0
    assert fits.left == (800,)
    assert fits.remarks == ()


@pytest.mark.parametrize(
    ("budget", "devices", "output", "left"),
    [
        (700, (0, 0, 0, 0), 0, 0),  # 10 scratch + 90 head + 4 layers of 150
        (699, (0, 0, 0, 0), M, 89),  # first the head
        (610, (0, 0, 0, 0), M, 0),
        (609, (M, 0, 0, 0), M, 149),  # then layers from the first on
        (170, (M, M, M, 0), M, 10),
        (159, (M, M, M, M), M, 0),
        (0, (M, M, M, M), M, 0),
    ],
)
def test_what_gives_way(budget: int, devices: tuple[int, ...], output: int, left: int) -> None:
    found = reserve(MODEL, [budget])
    assert (found.devices, found.output, found.left) == (devices, output, (left,))


def test_what_gave_way_is_said() -> None:
    assert reserve(MODEL, [699]).remarks == (
        "the output head stays in main memory: the budget of 0.0 MiB does not hold it as well",
    )
    head, layers = reserve(MODEL, [320]).remarks
    assert head.startswith("the output head stays")
    assert layers.startswith("layers 0 to 1 stay in main memory")
    assert layers.endswith("holds only the last 2 of 4")
    assert "everything stays in main memory" in reserve(MODEL, [100]).remarks[0]
    assert reserve(MODEL, [0]).remarks == ()  # as asked for


def test_a_margin_stays_free() -> None:
    assert reserve(MODEL, [750], margin=50) == reserve(MODEL, [700])


@pytest.mark.parametrize(
    ("max_layers", "devices", "output"),
    [(0, (M, M, M, M), M), (1, (M, M, M, 0), M), (4, (0, 0, 0, 0), M), (5, (0, 0, 0, 0), 0), (99, (0, 0, 0, 0), 0)],
)
def test_a_cap_counts_as_ngl_does(max_layers: int, devices: tuple[int, ...], output: int) -> None:
    found = reserve(MODEL, [10_000], max_layers=max_layers)
    assert (found.devices, found.output, found.remarks) == (devices, output, ())


def test_whole_layers() -> None:
    found = reserve(MODEL, [10 + 2 * 350 + 349], whole=True)
    assert found.devices == (M, M, 0, 0)
    assert reserve(MODEL, [MODEL.total], whole=True).devices == (0, 0, 0, 0)
    assert reserve(MODEL, [MODEL.total], whole=True).output == 0
    assert reserve(MODEL, [MODEL.total - 1], whole=True).output == M


def test_layers_are_divided_by_budget() -> None:
    model = ModelBytes((LAYER,) * 9, head=300, scratch=10)
    assert reserve(model, [910, 1210]).devices == (0,) * 4 + (1,) * 5
    found = reserve(model, [1810, 1210])  # the second keeps 300 for the head: 1800 against 900
    assert found.devices == (0,) * 6 + (1,) * 3
    assert found.output == 1
    assert found.left == (1800 - 900, 900 - 450)


def test_layers_are_divided_by_shares() -> None:
    assert reserve(MODEL, [5000, 5000], shares=[3, 1]).devices == (0, 0, 0, 1)
    only = reserve(MODEL, [5000, 5000], shares=[1, 0])
    assert only.devices == (0, 0, 0, 0)
    assert only.output == 0
    assert only.left == (5000 - 10 - 90 - 600, 0)
    # A share that does not fit gives way to one that does.
    assert reserve(MODEL, [160, 5000], shares=[3, 1]).devices == (0, 1, 1, 1)


def test_a_gpu_without_room_is_left_alone() -> None:
    found = reserve(MODEL, [5, 5000, 9])
    assert found.devices == (1, 1, 1, 1)
    assert found.output == 1
    assert found.left == (0, 5000 - 10 - 90 - 600, 0)


@pytest.mark.parametrize("shares", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, math.nan], [1.0, math.inf]])
def test_impossible_shares(shares: list[float]) -> None:
    with pytest.raises(UsageError, match="tensor-split"):
        reserve(MODEL, [100, 100], shares=shares)


@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 30)), min_size=1, max_size=12),
    st.lists(st.integers(0, 400), max_size=4),
    st.integers(0, 60),
    st.one_of(st.none(), st.integers(0, 14)),
    st.booleans(),
)
def test_no_budget_is_exceeded(
    layers: list[tuple[int, int]], budgets: list[int], head: int, cap: int | None, whole: bool
) -> None:
    """Whatever the sizes: layers on GPUs are the last ones, in the GPUs' order, and what is left is not negative."""
    sizes = ModelBytes(tuple(LayerBytes(fixed, 0, 0, 2, neurons) for fixed, neurons in layers), head, scratch=7)
    found = reserve(sizes, budgets, max_layers=cap, whole=whole, margin=3)
    assert list(found.devices) == sorted(found.devices)
    assert cap is None or sum(device != M for device in found.devices) <= cap
    for gpu, (budget, left) in enumerate(zip(budgets, found.left, strict=True)):
        here = [layer for layer, device in zip(sizes.layers, found.devices, strict=True) if device == gpu]
        used = sum(layer.fixed for layer in here) + head * (found.output == gpu)
        if here:
            assert used + left + 7 + 3 == budget
        assert left >= (sum(layer.ffn for layer in here) if whole else 0)
    first = next((i for i, device in enumerate(found.devices) if device != M), len(layers))
    if first and not (cap is not None and cap <= len(layers) - first):  # one more would not have fitted
        costs = [layer.fixed + whole * layer.ffn for layer in sizes.layers]
        assert not _fits(costs[first - 1 :], [max(0, budget - 10) for budget in budgets])


def _fits(costs: list[int], rooms: list[int]) -> bool:
    """Every way of cutting."""
    if not rooms:
        return not costs
    return any(sum(costs[:n]) <= rooms[0] and _fits(costs[n:], rooms[1:]) for n in range(len(costs) + 1))


def test_what_a_plan_uses() -> None:
    hot = LayerPlacement(0, all_neurons(40)[:7])
    plan = Plan((9, 9), (LayerPlacement(M, no_neurons()), hot, hot, LayerPlacement(1, all_neurons(40))), 1, "milp", "")
    first, second, rest = (device_use(MODEL, plan, device) for device in (0, 1, M))
    assert (first.attention, first.kv, first.head, first.scratch, first.neurons) == (200, 60, 0, 10, 70)
    assert second.total == 150 + 90 + 10 + 200
    assert (rest.predictor, rest.scratch, rest.neurons) == (20, 0, 200 + 33 * 5 * 2)
    assert hot_bytes(MODEL, plan) == 70 + 200
    assert sum(use.total for use in (first, second, rest)) == MODEL.total + 10


def test_budgets_from_text() -> None:
    assert parse_budgets("8") == (8 * GIB,)
    assert parse_budgets("0.5, 10") == (GIB // 2, 10 * GIB)
    assert parse_budgets("0") == (0,)
    assert all(low < high for low, high in pairwise(parse_budgets("1,2,3,4")))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "makes no sense"),
        ("nan", "makes no sense"),
        ("inf", "makes no sense"),
        ("1,-2", "makes no sense"),
        ("", "numbers and commas"),
        ("8,", "numbers and commas"),
        ("8GB", "numbers and commas"),
    ],
)
def test_impossible_budgets(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        parse_budgets(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("13", "13.00 GiB is more than GPU 0 has .12.00 GiB."), ("1,1", "names 2 GPUs, but there are 1")],
)
def test_budgets_that_no_card_has(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        check_budgets(parse_budgets(text), [12 * GIB])
    check_budgets(parse_budgets("12"), [12 * GIB])


@pytest.mark.parametrize(("budget", "devices", "left"), [(900, (0, 0, 0, 0), 0), (809, (M, 0, 0, 0), 149)])
def test_a_layer_that_cannot_be_divided_is_whole(budget: int, devices: tuple[int, ...], left: int) -> None:
    """The third, of 350 bytes beside three of 150."""
    layers = (LAYER, LAYER, replace(LAYER, divisible=False), LAYER)
    found = reserve(ModelBytes(layers, head=90, scratch=10), [budget])
    assert (found.devices, found.left) == (devices, (left,))
