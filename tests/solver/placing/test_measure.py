"""Measuring: not how fast this machine is, but that figures are made of what was timed."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, retyped
from powerinfer_cli.kernels.jit.team import Team
from powerinfer_cli.model import load_model
from powerinfer_cli.model.blocks import Routed
from powerinfer_cli.placement import main_memory_plan
from solver.placing import machine, measure, measure_gpu
from solver.placing.costs import always_active
from solver.placing.device_profile import Processor, load_profile, save_profile
from solver.placing.machine import measure_machine
from solver.placing.measure import CostShape
from solver.placing.simulation import Work, simulate
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.families import tiny_family
from tests.helpers.placing.placement_problems import sizes
from tests.helpers.tiny_models import tiny_model

KINDS = (GGMLType.Q4_0, GGMLType.F16, GGMLType.Q6_K)
SMALL = CostShape(256, 512, n_q=256, n_kv=128, head_dim=64, n_layer=3, rank=32)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little data, few runs: the figures are those of caches."""
    for module in (measure, measure_gpu):
        monkeypatch.setattr(module, "WEIGHTS", 1 << 20)
        monkeypatch.setattr(module, "LONG_ENOUGH", 0.002)
        monkeypatch.setattr(module, "POSITIONS", 128)
    monkeypatch.setattr(measure_gpu, "COPY", 1 << 16)


def check(found: Processor, kinds: tuple[GGMLType, ...]) -> None:
    assert set(found.rates) == {*(kind.name for kind in kinds), "any"}
    assert found.rates["any"] == found.rates[kinds[0].name]
    rates = [rate for pair in found.rates.values() for rate in (pair.dense, pair.scattered)]
    assert all(1e6 < rate < 1e14 for rate in [*rates, found.cache])
    assert all(0 <= seconds < 0.1 for seconds in (found.layer, found.ffn, found.token))
    assert found.layer > 0


def test_cpu(small: None) -> None:
    steps: list[str] = []
    found = measure.measure_cpu(KINDS, SMALL, threads=2, on_step=steps.append)
    check(found, KINDS)
    assert steps == ["CPU: Q4_0", "CPU: F16", "CPU: Q6_K", "CPU: attention"]


def test_device_without_a_gpu(small: None) -> None:
    """The same code that times a GPU, on "cpu"."""
    device = torch.device("cpu")
    check(measure_gpu.measure_gpu(device, (GGMLType.Q4_0,), 256), (GGMLType.Q4_0,))
    link = measure_gpu.measure_link(device, 256)
    assert 1e6 < link.bandwidth < 1e14
    assert 0 <= link.synchronisation < 0.1


def test_experts(small: None, tmp_path: Path) -> None:
    """On both sides, of types whose rows fit; and what is measured is kept."""
    shape = replace(SMALL, n_ff=2 * 96, n_experts=8, n_chosen=2)
    found = measure_machine(["cpu"], (GGMLType.Q4_0, GGMLType.Q6_K), shape, budgets=[1 << 18], threads=1)
    assert found.link.rehearsed
    for one in (found.cpu, *found.gpus):
        assert one.experts is not None
        assert 0 <= one.routing < 0.1
        assert 1e6 < one.rates_for("Q4_0").chosen < 1e14
        assert one.rates_for("Q6_K").chosen == one.rates["any"].chosen, "a row of 96 is no block of it"
    save_profile(tmp_path / "p.json", found)
    assert load_profile(str(tmp_path / "p.json")) == found


def test_measured_profiles_are_files(small: None, tmp_path: Path) -> None:
    profile = measure_machine(["cpu", "cpu"], (GGMLType.Q4_0,), SMALL, budgets=[1 << 18, 1 << 20], threads=1)
    assert profile.source == "measured"
    assert len(profile.gpus) == 2
    save_profile(tmp_path / "p.json", profile)
    read = load_profile(str(tmp_path / "p.json"))
    assert read == profile
    model = sizes([100, 100])
    work = Work(model, always_active(model.layers), "Q4_0", 256)
    assert 0 < simulate(main_memory_plan(2), work, read).seconds < 1


def test_a_machine_without_gpus(small: None) -> None:
    odd = CostShape(64, 100, gated=False, n_q=96, n_kv=32, head_dim=32, n_layer=1, rank=32)
    profile = measure_machine((), (GGMLType.F16, GGMLType.Q8_0), odd, threads=1)
    assert profile.cpu.rates_for("Q8_0").dense != profile.cpu.rates_for("F16").dense
    assert profile.gpus == ()
    assert profile.link.bandwidth > 0


@pytest.mark.parametrize("error", [MemoryError(), torch.cuda.OutOfMemoryError("CUDA out of memory.")])
def test_too_little_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(machine, "measure_cpu", fail)
    with pytest.raises(PowerInferError, match=r"^no memory to measure this machine: .*--device-profile$"):
        measure_machine()


def test_rows_are_timed_with_a_down_matrix_of_its_own_type(small: None) -> None:
    """Turned, it is wider than the others: the bytes of half the rows that are let through."""
    team = Team(1)
    try:
        _, same, *_ = measure._scattered(team, GGMLType.Q4_0, GGMLType.Q4_0, SMALL)
        _, wide, *_ = measure._scattered(team, GGMLType.Q4_0, GGMLType.Q8_0, SMALL)
    finally:
        team.close()
    assert [b / a for a, b in zip(same, wide, strict=True)] == pytest.approx([(1 + (1 + 34 / 18) / 2) / 2] * len(same))


def test_a_dense_models_down_matrix_is_timed_as_it_will_be_turned(tmp_path: Path) -> None:
    model = load_model(tiny_model("llama-relu").file.open(tmp_path))
    assert CostShape.of(model).down is None
    narrow = (layer.map(lambda matrix: retyped(matrix, GGMLType.Q4_0), lambda vector: vector) for layer in model.layers)
    assert CostShape.of(replace(model, layers=tuple(narrow))).down is GGMLType.Q8_0


def test_a_line_through_what_was_measured() -> None:
    n_bytes = np.array([1e6, 2e6, 4e6])
    rate, fixed = measure.rate_and_fixed(n_bytes.tolist(), (n_bytes / 5e9 + 3e-5).tolist())
    assert rate == pytest.approx(5e9)
    assert fixed == pytest.approx(3e-5)


@pytest.mark.parametrize("seconds", [[3e-3, 2e-3, 1e-3], [1e-4, 1e-3, 4e-3], [1e-3, 1e-3, 1e-3]])
def test_noise_is_no_line(seconds: list[float]) -> None:
    """Falling, or with less than nothing for no bytes: then all of the time is the bytes'."""
    rate, fixed = measure.rate_and_fixed([1e6, 2e6, 4e6], seconds)
    assert rate > 0
    assert 0 <= fixed <= max(seconds)


def test_the_sizes_of_a_model(tmp_path: Path) -> None:
    """Of experts, those that a token needs; of predictors, their rank, rounded down."""
    sparse, _ = exact_sparse(n_embd=64, n_ff=200, n_layer=3, rank=40)
    asked = load_model(sparse.open(tmp_path))
    assert CostShape.of(asked) == CostShape(64, 200, n_q=64, n_kv=32, head_dim=16, n_layer=3, rank=64)
    routed = load_model(tiny_family("qwen3moe").file.open(tmp_path))
    ffn = routed.layers[0].ffn
    assert isinstance(ffn.selection, Routed)
    assert CostShape.of(routed).n_ff * ffn.selection.n_experts == ffn.neurons.n_ff * ffn.selection.router.n_chosen


class Scripted:
    """Something timed, with what each round of it takes."""

    def __init__(self, *rounds: float) -> None:
        self.rounds, self.last = iter(rounds), 0.0

    def run(self, share: float) -> None:
        self.last = next(self.rounds)


def test_rates_are_of_one_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """That in which nothing was slow, though in another the first row's was faster."""
    few, many = Scripted(5e-3, 2e-3, 3e-3, 5e-3), Scripted(5e-3, 4e-3, 9e-3, 9e-3)
    monkeypatch.setattr(measure, "_dense", lambda *_: (Scripted(1e-3, 1e-3, 1e-3, 5e-4), 5_000_000))
    monkeypatch.setattr(measure, "_scattered", lambda *_: ([few, many], [1e6, 3e6], 0.0, 1))
    dense, rate, fixed = measure._reading(None, GGMLType.Q4_0, GGMLType.Q4_0, SMALL)  # type: ignore[arg-type]
    assert dense == pytest.approx(5e9)
    assert rate == pytest.approx(1e9)
    assert fixed == pytest.approx(1e-3)
