"""Decoding times, by hand."""

import numpy as np
import pytest

from powerinfer_cli.placement import (
    MAIN_MEMORY,
    LayerBytes,
    LayerPlacement,
    ModelBytes,
    Plan,
    all_neurons,
    main_memory_plan,
    no_neurons,
)
from solver.placing.costs import Activity, always_active
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
    assert layer.ffn == pytest.approx(300 / 200 + 0.5)


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


def test_attention_alone_on_the_gpu() -> None:
    plan = Plan((9,), (LayerPlacement(0, no_neurons()),) * 2, 0, "milp", "")
    layer = simulate(plan, WORK, MACHINE).layers[1]
    assert (layer.gpu, layer.covered) == (0, 0)
    assert layer.ffn == layer.cpu == pytest.approx(1.4)
    assert layer.handover == pytest.approx(GIVEN)
