"""Decoding times, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from powerinfer_cli.placement import (
    MAIN_MEMORY,
    ActivationStatistics,
    LayerBytes,
    LayerPlacement,
    ModelBytes,
    Plan,
    RowReading,
    all_neurons,
    main_memory_plan,
    no_neurons,
)
from solver.placing.costs import Activity, activity_from, always_active
from solver.placing.device_profile import DeviceProfile, Link, Processor, Rates
from solver.placing.simulation import Work, simulate

CPU = Processor("c", 0, {"any": Rates(100.0, 50.0), "F16": Rates(200.0, 100.0)}, 25.0, 1.0, 0.5, 7.0)
GPU = Processor("g", 0, {"any": Rates(1000.0, 500.0)}, 250.0, 0.1, 0.05, 0.7)
MACHINE = DeviceProfile("measured", "", CPU, (GPU,), Link(80.0, 0.25))
LAYER = LayerBytes(attention=300, predictor=100, kv=500, neuron=30, neurons=10)
SIZES = ModelBytes((LAYER, LAYER), head=1000, scratch=1)
N_EMBD = 5
GIVEN = 0.25 + 2 * 4 * N_EMBD / 80.0
FREQUENCIES = np.array([0.1, 0.9, 0.5, 0, 0, 0, 0, 0, 0, 0])
WORK = Work(SIZES, Activity((FREQUENCIES, FREQUENCIES)), "Q4_0", N_EMBD)


def test_everything_on_the_cpu() -> None:
    found = simulate(main_memory_plan(2), WORK, MACHINE)
    layer = found.layers[0]
    assert layer.before == pytest.approx(400 / 100 + 1)
    assert layer.ffn == layer.cpu == pytest.approx(1.5 * 30 / 50 + 0.5)
    assert (layer.gpu, layer.handover, layer.covered) == (0, 0, 0)
    assert found.head == pytest.approx(10)
    assert found.seconds == pytest.approx(2 * (5 + 1.4) + 10 + 7)
    assert found.tokens_per_second == pytest.approx(1 / found.seconds)


def test_dense_and_deep_and_of_another_type() -> None:
    work = Work(SIZES, always_active(SIZES.layers), "F16", N_EMBD, depth=0.5)
    layer = simulate(main_memory_plan(2), work, MACHINE).layers[1]
    assert layer.before == pytest.approx(400 / 200 + 250 / 25 + 1)
    assert layer.ffn == pytest.approx(300 / 200)  # its barriers are in the rate


def test_everything_on_the_gpu() -> None:
    layers = (LayerPlacement(0, all_neurons(10)),) * 2
    found = simulate(Plan((9,), layers, 0, "layers", ""), WORK, MACHINE)
    first, second = found.layers
    assert first.handover == pytest.approx(GIVEN / 2)  # from the embedding
    assert second.handover == 0
    assert second.before == pytest.approx(400 / 1000 + 0.1)
    assert second.ffn == second.gpu == pytest.approx(1.5 * 30 / 500 + 0.05)
    assert (second.cpu, second.covered) == (0, 1)
    assert found.head == pytest.approx(1)
    assert found.token == pytest.approx(7.7)


def test_hybrid() -> None:
    """Any hot neurons, not only the most frequent; the head comes back to main memory."""
    hot = LayerPlacement(0, np.array([0, 2, 9], np.int32))
    plan = Plan((9,), (LayerPlacement(MAIN_MEMORY, no_neurons()), hot), MAIN_MEMORY, "milp", "")
    found = simulate(plan, WORK, MACHINE)
    _, layer = found.layers
    assert layer.gpu == pytest.approx(0.6 * 30 / 500 + 0.05)
    assert layer.cpu == pytest.approx(0.9 * 30 / 50 + 0.5)
    assert layer.ffn == pytest.approx(max(layer.gpu, layer.cpu))
    assert layer.covered == pytest.approx(0.4)
    assert layer.handover == pytest.approx(GIVEN * 1.5)
    assert layer.total == pytest.approx(layer.before + layer.ffn + layer.handover)
    assert found.head == pytest.approx(10 + GIVEN / 2)


def test_what_has_one_memory_reads_in_turns() -> None:
    """Neurons, and pages of the KV cache that lie outside."""
    unified = replace(MACHINE, link=replace(MACHINE.link, unified=True))
    cached = replace(LAYER, n_pages=5, page=100, pages=2, spare=0)
    work = replace(WORK, sizes=replace(SIZES, layers=(cached, cached)), depth=1.0)
    plan = Plan((9,), (LayerPlacement(0, np.array([0, 2, 9], np.int32), pages=2),) * 2, 0, "milp", "")
    for machine, joined in ((MACHINE, max), (unified, lambda *both: sum(both))):
        layer = simulate(plan, work, machine).layers[1]
        assert layer.ffn == pytest.approx(joined(0.6 * 30 / 500 + 0.05, 0.9 * 30 / 50 + 0.5))
        assert layer.before == pytest.approx(400 / 1000 + 0.1 + joined(200 / 250, 300 / 25) + GIVEN)


def test_attention_alone_on_the_gpu() -> None:
    plan = Plan((9,), (LayerPlacement(0, no_neurons()),) * 2, 0, "milp", "")
    layer = simulate(plan, WORK, MACHINE).layers[1]
    assert (layer.gpu, layer.covered) == (0, 0)
    assert layer.ffn == pytest.approx(layer.cpu) == pytest.approx(1.4)
    assert layer.handover == pytest.approx(GIVEN)


def test_first_rows_are_read_of_all_neurons() -> None:
    """Exact zeros without a predictor: 10 of 30 bytes of each neuron, from front to back, the others of active ones."""
    layer = replace(LAYER, first=10, reading=RowReading.FIRST)
    work = replace(WORK, sizes=replace(SIZES, layers=(layer, layer)))
    found = simulate(main_memory_plan(2), work, MACHINE).layers[0]
    assert found.cpu == pytest.approx(10 * 10 / 100 + 1.5 * 20 / 50 + 0.5)
    hot = LayerPlacement(0, np.array([0, 2, 9], np.int32))
    both = simulate(Plan((9,), (hot, hot), 0, "milp", ""), work, MACHINE).layers[1]
    assert both.cpu == pytest.approx(7 * 10 / 100 + 0.9 * 20 / 50 + 0.5)
    assert both.gpu == pytest.approx(3 * 10 / 1000 + 0.6 * 20 / 500 + 0.05)


def test_a_layer_without_a_predictor_is_dense() -> None:
    """Beside one that has one, whatever its neurons' frequencies are."""
    dense = replace(LAYER, first=30, reading=RowReading.ALL)
    work = replace(WORK, sizes=replace(SIZES, layers=(dense, LAYER)))
    first, second = simulate(main_memory_plan(2), work, MACHINE).layers
    assert first.cpu == pytest.approx(10 * 30 / 100)
    assert second.cpu == pytest.approx(1.5 * 30 / 50 + 0.5)


@pytest.mark.parametrize("share", [0.15, 0.4, 1.0])
def test_what_predictors_let_through_is_read(share: float) -> None:
    """Its first rows; the others where it is active. Of a neuron whose zeros are not exact `first` is all rows."""
    layers = (replace(LAYER, first=10), replace(LAYER, first=30))
    activity = activity_from(ActivationStatistics((FREQUENCIES, FREQUENCIES)), let_through=(share, share))
    activity = replace(activity, frequencies=(FREQUENCIES, FREQUENCIES))
    work = replace(WORK, sizes=replace(SIZES, layers=layers), activity=activity)
    exact, graded = simulate(main_memory_plan(2), work, MACHINE).layers
    assert exact.cpu == pytest.approx((10 * share * 10 + 1.5 * 20) / 50 + 0.5)
    assert graded.cpu == pytest.approx(10 * share * 30 / 50 + 0.5)


def test_predictors_that_miss() -> None:
    """Of fewer neurons than are active, all rows are read of no more."""
    activity = replace(WORK.activity, let_through=(0.075, 0.075))
    work = replace(WORK, sizes=replace(SIZES, layers=(replace(LAYER, first=10),) * 2), activity=activity)
    found = simulate(main_memory_plan(2), work, MACHINE).layers[0]
    assert found.cpu == pytest.approx(0.75 * 30 / 50 + 0.5)


def test_the_head_is_of_its_own_type() -> None:
    work = replace(WORK, head_kind="F16")
    assert simulate(main_memory_plan(2), work, MACHINE).head == pytest.approx(1000 / 200)
