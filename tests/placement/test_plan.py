"""A plan says only what can be."""

from dataclasses import replace

import numpy as np
import pytest

from powerinfer_cli.placement import MAIN_MEMORY, LayerPlacement, Plan, all_neurons, main_memory_plan, no_neurons

N_FF = 8


def hot(*neurons: int) -> LayerPlacement:
    return LayerPlacement(0, np.array(neurons, np.int32))


PLAN = Plan((100, 50), (hot(1, 5), LayerPlacement(1, all_neurons(N_FF))), 1, "milp", "f")


def test_what_a_plan_tells() -> None:
    PLAN.check([N_FF] * 2)
    assert PLAN.gpus == (0, 1)
    assert PLAN.hot_counts == (2, 8)


def test_everything_in_main_memory() -> None:
    plan = main_memory_plan(3)
    plan.check([N_FF] * 3)
    assert plan.gpus == ()
    assert plan.hot_counts == (0, 0, 0)
    assert plan.output == MAIN_MEMORY


@pytest.mark.parametrize(
    ("device", "neurons", "message"),
    [
        (0, np.array([3, 1], np.int32), "ascending"),
        (0, np.array([1, 1], np.int32), "ascending"),
        (0, np.array([-1, 1], np.int32), "ascending"),
        (0, np.array([1, 2], np.int64), "int32"),
        (0, np.array([[1, 2]], np.int32), "vector"),
        (-2, no_neurons(), "no device -2"),
        (MAIN_MEMORY, np.array([1], np.int32), "main memory"),
    ],
)
def test_impossible_layers(device: int, neurons: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerPlacement(device, neurons)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budgets": (-1, 50)}, "negative"),
        ({"budgets": (100,)}, "none of the 1"),
        ({"output": 2}, "none of the 2"),
        ({"output": -2}, "none of the 2"),
        ({"layers": ()}, "at least one layer"),
        ({"solver": "dice"}, "no solver 'dice'"),
    ],
)
def test_impossible_plans(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **changes)


@pytest.mark.parametrize(("n_layer", "n_ff", "message"), [(3, 8, "2 layers.*has 3"), (2, 7, "expert 7 of layer 1")])
def test_plan_of_another_model(n_layer: int, n_ff: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PLAN.check([n_ff] * n_layer)
