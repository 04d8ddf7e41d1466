"""Plans for several machines: what one of them takes is what its own plan says, memory binds, and what is told."""

import shlex
from dataclasses import replace

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model.ranges import LayerRange, shown_ranges
from powerinfer_cli.placement import LayerBytes, ModelBytes, RowReading, main_memory_plan
from solver.machines.network import Machine, Network, Wire, data_sheet_cpu
from solver.machines.plan import BORDER, Pipeline, plan_machines
from solver.machines.report import best_number, command, machines_data, sentence, shown_vram
from solver.machines.sites import MainBytes, make_site
from solver.machines.texts import CPU_GROWTH, profile_for, work_for
from solver.placing import Work, always_active, load_profile, simulate
from solver.placing.device_profile import DeviceProfile, Link

MIB, GB = 1 << 20, 1e9
MODEL = ["-m", "m.gguf"]
N_LAYER, N_EMBD, N_VOCAB = 12, 4096, 32000
DENSE = LayerBytes(40 * MIB, 0, 16 * MIB, 1 << 14, 8192, reading=RowReading.ALL)
ROUTED = LayerBytes(20 * MIB, MIB, 16 * MIB, 4 * MIB, 64, reading=RowReading.CHOSEN, chosen=4)


def pipeline_of(layer: LayerBytes, n_texts: int = 1, rank: int = 0) -> Pipeline:
    sizes = ModelBytes((layer,) * N_LAYER, 100 * MIB, MIB)
    work = Work(sizes, always_active(sizes.layers), "Q4_0", N_EMBD, depth=0.5)
    weights = layer.attention + layer.predictor + layer.ffn
    main = MainBytes((weights,) * N_LAYER, (n_texts * layer.kv,) * N_LAYER, 100 * MIB, rank, N_LAYER)
    return Pipeline(work, main, N_VOCAB, 4096, n_texts=n_texts)


def machine(name: str, memory: int = 1 << 40, speed: float = 100 * GB) -> Machine:
    profile = DeviceProfile("data sheet", "", data_sheet_cpu(speed), (), Link(1e10, 0.0))
    return Machine(name, f"{name}.lan", memory, profile)


def network_of(*machines: Machine, gbit: float = 10.0) -> Network:
    return Network(machines, Wire(gbit * 1e9 / 8, 5e-5), {})


@pytest.mark.parametrize("layer", [DENSE, ROUTED])
def test_one_machine_is_as_its_own_plan_says(layer: LayerBytes) -> None:
    pipeline, here = pipeline_of(layer), machine("a")
    expected = simulate(main_memory_plan(N_LAYER), pipeline.work, here.profile)
    plan = plan_machines(pipeline, network_of(here))[1]
    assert plan.tokens_per_second == pytest.approx(expected.tokens_per_second)
    assert plan.one_text == plan.tokens_per_second


def test_a_border_costs_its_bytes_and_its_latency() -> None:
    pipeline = pipeline_of(DENSE)
    plans = plan_machines(pipeline, network_of(machine("a"), machine("b"), gbit=1.0))
    token = machine("a").profile.cpu.token
    wires = 2 * 5e-5 + 8 * (4 * N_EMBD + 4 * N_VOCAB) / 1e9  # x there, and logits back
    slower = 1 / plans[2].tokens_per_second - 1 / plans[1].tokens_per_second
    assert slower == pytest.approx(wires + 2 * BORDER + token)
    halves = plan_machines(replace(pipeline, link=2), network_of(machine("a"), machine("b"), gbit=1.0))
    assert 1 / plans[2].one_text - 1 / halves[2].one_text == pytest.approx(8 * 2 * N_EMBD / 1e9)


def test_a_second_machine_does_not_pay_for_one_text_and_does_for_many() -> None:
    two = network_of(machine("a"), machine("b"))
    pipeline = pipeline_of(DENSE)
    plans = plan_machines(pipeline, two)
    assert best_number(plans, pipeline, two) == 1
    assert sentence(plans, 1, two, 1).startswith("a second machine does not pay: ")
    assert command(plans[1], two, MODEL, pipeline) == "powerinfer main -m m.gguf -c 4096"
    many = pipeline_of(DENSE, n_texts=8)
    plans = plan_machines(many, two)
    best = best_number(plans, many, two)
    assert best == 2
    assert plans[2].tokens_per_second > 1.3 * plans[1].tokens_per_second
    assert "2 machines pay (a, b)" in sentence(plans, 2, two, 8)
    told = command(plans[2], two, MODEL, many)
    assert told.startswith("powerinfer cluster run --hosts a.lan,b.lan --layers 0-")
    assert told.endswith(" --cluster-key-file KEY -m m.gguf -c 4096 --port 8080 -np 8")


def test_texts_go_in_as_many_groups_as_are_fastest() -> None:
    """A few texts cost what one does, and 12 layers are unevenly divided among 8 machines: the busiest two, 8 times."""
    eight = network_of(*map(machine, "abcdefgh"))
    plan = plan_machines(pipeline_of(DENSE, n_texts=8), eight, numbers=[8])[8]
    assert 1 < plan.groups < 8
    assert plan.tokens_per_second > 0.95 * 8 * plan.one_text
    assert plan.bound >= plan.twin >= 0.999 * plan.tokens_per_second


def test_the_command_is_quoted_and_says_what_was_planned_with() -> None:
    """A shell gets the words that are meant, whatever they hold."""
    profile = load_profile("rtx-3090-ddr5")
    a, b = (replace(machine(name), profile=profile, vram=(22 << 30,)) for name in "ab")
    odd = replace(b, host="x; touch /tmp/pwned #")
    pipeline = replace(pipeline_of(DENSE), link=2)
    flags = ["-m", "my model.gguf", "-ctk", "q8_0"]
    both = network_of(a, odd)
    plan = plan_machines(pipeline, both)[2]
    words = shlex.split(command(plan, both, flags, pipeline), comments=True)
    ranks = ["--layers", shown_ranges(plan.ranges), "--cluster-key-file", "KEY", "--link-type", "bf16"]
    rest = [*ranks, *flags, "-c", "4096", "--vram-budget", "22"]
    assert words == ["powerinfer", "cluster", "run", "--hosts", "a.lan,x; touch /tmp/pwned #", *rest]
    mixed = network_of(a, replace(b, vram=(11 << 29,)))
    assert command(plan, mixed, flags, pipeline).endswith(" --vram-budget VRAM")
    one = plan_machines(pipeline, network_of(a))[1]
    assert command(one, network_of(a), flags, pipeline).endswith(" -c 4096 --vram-budget 22")
    assert shown_vram(mixed.machines[1].vram) == "5.5"


def test_memory_says_how_many_are_needed() -> None:
    """Weights and cache of each layer, the head with the last, and of each rank what it takes besides."""
    pipeline = pipeline_of(DENSE, rank=50 * MIB)
    layer = pipeline.main.weights[0] + pipeline.main.cache[0]
    room = 6 * layer + 100 * MIB + 50 * MIB
    two = network_of(machine("a", room), machine("b", room))
    plans = plan_machines(pipeline, two)
    assert [one.end - one.begin for one in plans[2].ranges] == [6, 6]
    assert list(plans) == [2]
    assert "does not fit fewer than 2 machines" in sentence(plans, 2, two, 1)
    short = network_of(machine("a", room), machine("b", room - 1))
    assert plan_machines(pipeline, short) == {}
    with pytest.raises(PowerInferError, match="do not fit the machines") as raised:
        best_number({}, pipeline, short)
    assert "\n" not in str(raised.value)


def test_machines_alike_have_about_as_many_layers() -> None:
    """For one text it does not matter; for a prompt it does."""
    plan = plan_machines(pipeline_of(DENSE), network_of(*map(machine, "abc")))[3]
    assert [one.end - one.begin for one in plan.ranges] == [4, 4, 4]
    assert plan.tokens_per_second <= plan.twin <= (1 + 1e-3) * plan.tokens_per_second


def test_the_faster_machine_gets_more_layers() -> None:
    pipeline = pipeline_of(DENSE, n_texts=2)
    two = network_of(machine("a", speed=50 * GB), machine("b", speed=150 * GB))
    first, second = plan_machines(pipeline, two)[2].ranges
    assert second.end - second.begin > 2 * (first.end - first.begin)


def test_a_layer_that_others_read_is_not_cut_off() -> None:
    pipeline = pipeline_of(DENSE, n_texts=2)
    pipeline = replace(pipeline, main=replace(pipeline.main, whole=3))
    plans = plan_machines(pipeline, network_of(machine("a"), machine("b"), machine("c")))
    assert [plans[n].ranges[-1] for n in (2, 3)] == [LayerRange(3, N_LAYER)] * 2


def test_a_gpu_takes_what_fits_it() -> None:
    layer, pipeline = ROUTED, pipeline_of(ROUTED)
    profile = load_profile("rtx-3090-ddr5")
    budgets = [0, 3 * (layer.fixed + layer.ffn), 1 << 40]
    speeds = []
    for budget in budgets:
        here = replace(machine("a"), profile=profile, vram=(budget,) if budget else ())
        speeds.append(plan_machines(pipeline, network_of(here))[1].tokens_per_second)
    assert speeds[0] < speeds[1] < speeds[2] / 2
    everything = make_site(pipeline.work, pipeline.main, replace(machine("a"), profile=profile, vram=(1 << 40,)), 1)
    assert everything.layers[0].main[-1] == 0  # a whole layer on the GPU needs no main memory


def test_several_texts_read_weights_once() -> None:
    work, profile = pipeline_of(DENSE).work, machine("a").profile
    one, four, eight = (
        simulate(main_memory_plan(N_LAYER), work_for(work, n), profile_for(profile, work, n)).layers[0]
        for n in (1, 4, 8)
    )
    cache = 0.5 * DENSE.kv / profile.cpu.cache
    assert four.total - one.total == pytest.approx(3 * cache)
    assert eight.ffn == pytest.approx(CPU_GROWTH.at(8) * one.ffn)


def test_several_texts_read_more_experts() -> None:
    work, profile = pipeline_of(ROUTED).work, machine("a").profile
    one, many = (
        simulate(main_memory_plan(N_LAYER), work_for(work, n), profile_for(profile, work, n)).layers[0].ffn
        for n in (1, 4)
    )
    experts = 64 * (1 - (1 - 4 / 64) ** 4)
    fixed = profile.cpu.routing
    assert (many - fixed) / (one - fixed) == pytest.approx(experts / 4)


def test_what_programs_are_told() -> None:
    pipeline, two = pipeline_of(DENSE), network_of(machine("a"), machine("b"))
    plans = plan_machines(pipeline, two)
    data = machines_data(plans, 1, pipeline, two, MODEL)
    assert data["best"] == 1
    assert [len(one["machines"]) for one in data["plans"]] == [1, 2]
    last = data["plans"][1]["machines"][-1]
    assert last["layers"][1] == N_LAYER - 1
    for one in data["plans"]:
        assert one["tokens_per_second"] <= one["tokens_per_second_at_most"] * (1 + 1e-9)
        assert one["tokens_per_second_at_most"] == pytest.approx(one["tokens_per_second"], rel=2e-3)
        assert one["tokens_per_second_of_dynamic_programming"] == pytest.approx(one["tokens_per_second"], rel=2e-3)


def test_numbers_of_columns() -> None:
    assert [CPU_GROWTH.at(n) for n in (1, 2, 4)] == [1, 1, 1]
    assert CPU_GROWTH.at(32) == pytest.approx(2 * CPU_GROWTH.at(16))
    assert np.all(np.diff([CPU_GROWTH.at(n) for n in range(1, 40)]) >= 0)
