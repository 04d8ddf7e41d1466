"""`powerinfer solve` of a mixture of experts: from a text to counts, a trace, a plan, and the plan at work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.opening import companions
from powerinfer_cli.opening.planning import plan_files
from powerinfer_cli.placement import gpuidx_path, load_routes, read_gpuidx
from tests.helpers.main_cli import powerinfer
from tests.helpers.placing.placed_model import N_LAYER, budget, bytes_alone_count, routed_model, write_placed
from tests.helpers.result import Result

STORY = "Once upon a time there was one fox.\n"
HALF = 0.5


@pytest.fixture(autouse=True)
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (plan_files, companions):
        monkeypatch.setattr(module, "cache_root", lambda: tmp_path / "cache")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_placed(tmp_path, statistics=False, model=routed_model())


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(STORY * 60)
    return str(path)


def solve(path: Path, *flags: str) -> Result:
    return powerinfer("solve", "-m", str(path), "-t", "1", *flags)


def data_of(result: Result) -> dict[str, Any]:
    assert result.code == 0, result
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_from_a_text_to_a_plan_at_work(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_alone_count(monkeypatch)
    half = budget(path, HALF)
    flags = ("-f", text, "--vram-budget", half, "--force")
    data = data_of(solve(path, *flags, "--json"))
    verdict, plan = data["verdict"], data["plan"]
    assert (verdict["kind"], verdict["experts"], verdict["chosen"], verdict["layers"]) == ("experts", 8, 2, N_LAYER)
    assert min(verdict["skew"]) > 0.25
    assert set(plan["policies"]["hit_rates"]) == {"static", "lru", "heat", "belady"}
    assert data["experts"] == {"experts": 8, "chosen": 2, "layers": [0, 1]}
    trace = load_routes(path.parent / "routes.npz", {0: 8, 1: 8})
    assert trace.tokens == data["profile"]["tokens"] > 500
    files = {one.name for one in path.parent.iterdir()}
    assert {"activation", "routes.npz", "solver.json", gpuidx_path(path).name} <= files
    placed = read_gpuidx(gpuidx_path(path), [8, 8]).plan
    assert sum(placed.hot_counts) == 8
    for layer, counts in zip(placed.layers, trace.counts(), strict=True):  # the most used, whatever their number
        cold = np.setdiff1d(np.arange(8), layer.hot)
        assert counts[layer.hot].min(initial=np.inf) >= counts[cold].max(initial=0)
    shown = solve(path, *flags)
    shown.note("activation statistics kept")
    for words in ("hot experts, uses covered", "2 of 8 experts a token", "--n-cpu-moe", "by placement: static"):
        assert words in shown.out
    shown.note(f"^run it: powerinfer main -m {path} --vram-budget {half}$")
    run = ("main", "-m", str(path), "-p", "Once", "-n", "8", "--temp", "0", "--device", "cpu", "-t", "1")
    with_plan = powerinfer(*run, "--vram-budget", half)
    with_plan.note(f"^plan: {gpuidx_path(path)}$")
    assert with_plan.out == powerinfer(*run).out
    measured = [
        powerinfer("perplexity", "-m", str(path), "-f", text, "-c", "64", "--device", "cpu", "-t", "1", *more)
        for more in ((), ("--vram-budget", half))
    ]
    assert [one.code for one in measured] == [0, 0]


def test_without_a_gpu_nothing_is_placed(path: Path, text: str) -> None:
    before = sorted(path.parent.iterdir())
    result = solve(path)
    assert result.code == 0, result
    result.note("^text: .* tokens that the model has written itself are added$")  # as it knows none of the sample
    assert result.out.startswith(
        "verdict: experts, of which a router chooses a few for each token: 2 of 8 in each of 2"
    )
    assert "nothing to place: no GPU memory may be used" in result.out
    assert f"run it as it is: powerinfer main -m {path}" in result.out
    assert sorted(path.parent.iterdir()) == before
    verdict = data_of(solve(path, "-f", text, "--verdict", "--json"))["verdict"]
    assert (verdict["pays"], verdict["tokens_per_second"]) == (False, None)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--train-only",), "a mixture's routers say which experts are needed"),
        (("--density", "0.5"), "a mixture's routers say which experts are needed"),
        (("--merge", "x.gguf"), "has experts, whose down matrices are not transposed"),
        (("--merge", "x.gguf", "--no-predictors"), "has experts, whose down matrices cannot be transposed yet"),
    ],
)
def test_what_makes_no_sense_is_one_line(path: Path, flags: tuple[str, ...], says: str) -> None:
    result = solve(path, *flags)
    assert result.code != 0
    assert says in result.err.splitlines()[-1]


def test_plans_by_what_is_there(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By counts alone where the trace is of no use, with a line."""
    bytes_alone_count(monkeypatch)
    assert solve(path, "-f", text, "--profile-only").code == 0
    plan = ("--plan-only", "--vram-budget", budget(path, HALF), "--json")
    whole = data_of(solve(path, *plan))["plan"]
    (path.parent / "routes.npz").write_bytes(b"hello")
    result = solve(path, *plan)
    result.note("planned by counts alone: .*routes.npz: not a route trace")
    found = data_of(result)["plan"]
    assert found["layers"] == whole["layers"]
    assert (found["policies"], whole["policies"] is None) == (None, False)


def test_plans_where_nobody_has_counted(path: Path, tmp_path: Path) -> None:
    """No weight is read: for a machine that is elsewhere, all experts are alike."""
    flags = "--plan-only", "--vram-budget", budget(path, HALF), "--device-profile", "rtx-3060-12gb-ddr4"
    result = solve(path, *flags, "-o", str(tmp_path))
    assert result.code == 0, result
    assert "nobody counted which experts are chosen" in result.out
    assert "hot experts, uses covered" in result.out
    assert "--n-cpu-moe" in result.out


def test_results_of_another_model(path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are not used, and made anew when asked for."""
    bytes_alone_count(monkeypatch)
    assert solve(path, "-f", text, "--profile-only").code == 0
    routed_model(n_experts=4).write(path)
    half = budget(path, HALF)
    run = powerinfer("main", "-m", str(path), "-p", "Once", "-n", "2", "--device", "cpu", "--vram-budget", half)
    run.note("activation statistics are not used: .* of another model")
    again = solve(path, "-f", text, "--profile-only")
    assert again.code == 0, again
    folder = next(one for one in (path.parent / "model.solved", path.parent) if (one / "routes.npz").is_file())
    assert load_routes(folder / "routes.npz", load_model(open_gguf(path)).n_experts).tokens > 500
