"""What is said of a mixture before it is profiled."""

from dataclasses import replace
from pathlib import Path

from powerinfer_cli.model import load_model
from powerinfer_cli.opening.planning.plan_job import STAND_IN
from powerinfer_cli.placement import LayerPlacement, Plan, all_neurons, no_neurons
from powerinfer_cli.runtime import EngineOptions
from powerinfer_cli.runtime.device.bytes import model_bytes
from solver.placing import PlanSettings, load_profile
from solver.routing.verdict import judge_experts, policy_of
from solver.verdict import MachineCosts
from tests.helpers.families import tiny_family
from tests.helpers.placing.route_traces import drawn_routes


def test_what_is_said_of_a_plan_without_experts_on_the_gpu(tmp_path: Path) -> None:
    """So small a model is fastest in main memory, by the data sheet; or its budget holds no more than attention."""
    model = load_model(tiny_family("qwen3moe").file.open(tmp_path))
    trace = drawn_routes(200, n_experts=model.n_experts[0], n_chosen=model.n_chosen[0], layers=len(model.layers))
    sizes, sheet = model_bytes(model, EngineOptions(n_ctx=128), 128), load_profile(STAND_IN)
    costs = MachineCosts(sheet, sizes, (sizes.total // 2,), PlanSettings("F32", model.config.n_embd), here=False)
    found = judge_experts(model, trace, lambda: costs)
    line = found.lines()[-1]
    assert "tokens/s" in line
    assert " with everything in main memory, as planned, " in line
    assert "the most used experts" not in line
    assert not found.pays
    assert ", as the budget does not hold one layer." in found.sentence()
    room = sizes.total - sum(layer.ffn for layer in sizes.layers) // 2
    more = judge_experts(model, trace, lambda: replace(costs, budgets=(room,)))
    assert ", as no expert is faster there." in more.sentence()
    assert found.speeds is not None
    assert " with all experts in main memory, the rest on the GPU, " in replace(found.speeds, placed=True).line()
    assert (
        " with the most used experts on the GPU (40% of them), " in replace(found.speeds, placed=True, hot=0.4).line()
    )


def test_rates_are_of_layers_that_are_divided() -> None:
    """Where some layers have all their experts on the GPU, and others none, all policies hit alike."""
    trace = drawn_routes(200, n_experts=8, n_chosen=2, layers=2)
    none, some, every = (
        LayerPlacement(0, no_neurons()),
        LayerPlacement(0, all_neurons(3)),
        LayerPlacement(0, all_neurons(8)),
    )
    assert [policy_of(trace, Plan((1,), (none, one), 0, "milp", "")) is None for one in (none, some, every)] == [
        True,
        False,
        True,
    ]
