"""Plans by `powerinfer solve`: for this machine and for others."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from powerinfer_cli.opening.planning import plan_job
from powerinfer_cli.placement import gpuidx_path, read_gpuidx
from solver.placing import kept_costs, load_profile, save_profile
from tests.commands.solve.running import N_FF, data_of, solve
from tests.helpers.main_cli import powerinfer
from tests.helpers.placing.placed_model import (
    N_LAYER,
    budget,
    bytes_alone_count,
    dense_model,
    turned_model,
    write_placed,
)

ROOT = Path(__file__).parents[3]


def test_a_plan_is_made_in_a_second_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_alone_count(monkeypatch)
    path = write_placed(tmp_path)
    half = budget(path)
    result = solve(path, "--vram-budget", half)
    assert result.code == 0, result
    result.note("activation statistics kept")
    for words in ("Memory", "KV cache", "main memory", "activations covered", "data sheets, not measured"):
        assert words in result.out
    index = gpuidx_path(path)
    assert sum(read_gpuidx(index, [N_FF] * N_LAYER).plan.hot_counts) == N_FF
    run = ("main", "-m", str(path), "-p", "Once", "-n", "2", "--device", "cpu", "--vram-budget", half, "-t", "1")
    powerinfer(*run).note(f"^plan: {index}$")


def test_exact_zeros_are_planned_for_without_predictors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bytes_alone_count(monkeypatch)
    path = write_placed(tmp_path, model=turned_model())
    data = data_of(solve(path, "--plan-only", "--vram-budget", budget(path), "--json"))
    assert sum(layer["hot"] for layer in data["plan"]["layers"]) == N_FF
    path = write_placed(tmp_path, model=dense_model("relu"))
    assert "no predictors to plan by" in solve(path, "--plan-only", "--vram-budget", "1").error


def test_a_plan_for_another_machine_is_used_as_it_is(tmp_path: Path) -> None:
    path, file = write_placed(tmp_path), tmp_path / "own.gpuidx"
    flags = ("--plan-only", "--device-profile", "rtx-4090-ddr5", "--json")
    data = data_of(solve(path, *flags, "--solver", "frequency", "-ngl", "1", "-o", str(file)))
    assert [layer["hot"] for layer in data["plan"]["layers"]] == [0, N_FF]
    assert data["plan"]["solver"] == "frequency"
    assert data["plan"]["budgets"][0] < 24 << 30
    assert data["plan"]["file"] == str(file)
    index = read_gpuidx(file, [N_FF] * N_LAYER)
    assert index.conditions is not None
    assert (index.conditions.profile, index.conditions.max_layers) == ("given: rtx-4090-ddr5", 1)


def test_by_the_name_and_flags_of_existing_guides(tmp_path: Path) -> None:
    path = write_placed(tmp_path)
    flags = [
        "--model",
        str(path),
        "--output",
        str(tmp_path / "out"),
        "--target-gpu-layers",
        "1",
        "--gpu-memory-gb",
        "1",
    ]
    command = [sys.executable, str(ROOT / "solver" / "solve.py"), *flags, "--plan-only", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    data = json.loads(done.stdout)
    assert [layer["device"] for layer in data["plan"]["layers"]] == [-1, 0]
    assert data["plan"]["file"] == str(tmp_path / "out" / "model.gguf.generated.gpuidx")


@pytest.mark.parametrize(
    ("budget", "card", "warns"),
    [
        ("11", "RTX 3060", False),
        ("16", "RTX 3090", False),
        ("8,16", "RTX 3090", False),
        ("80", "RTX 4090", True),
    ],
)
def test_the_machine_that_stands_in_has_the_memory_that_is_planned_for(
    tmp_path: Path, budget: str, card: str, warns: bool
) -> None:
    result = solve(write_placed(tmp_path), "--plan-only", "--gpu-memory-gb", budget, "--json")
    plan = data_of(result)["plan"]
    assert card in plan["devices"][0]["name"]
    result.note(f"^no CUDA GPU is used here: the plan is for another machine, with NVIDIA GeForce {card}")
    assert ("warning: 80.00 GiB is more than any GPU has whose data sheet is here" in result.err) is warns


def test_a_profile_that_does_not_say_how_much_memory_there_is(tmp_path: Path) -> None:
    profile, file = load_profile("rtx-3090-ddr5"), tmp_path / "mine.json"
    save_profile(file, replace(profile, gpus=(replace(profile.gpus[0], memory=0),)))
    path = write_placed(tmp_path)
    assert "does not say how much memory GPU 0 has" in solve(path, "--device-profile", str(file)).error
    assert solve(path, "--plan-only", "--device-profile", str(file), "--vram-budget", "1").code == 0


def test_the_names_of_machines() -> None:
    result = powerinfer("solve", "--device-profile", "list")
    assert re.search("^rtx-3060-12gb-ddr4 +NVIDIA GeForce RTX 3060", result.out, re.MULTILINE)


def test_without_a_gpu_or_a_budget_the_cpu_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_costs, "this_machine", lambda *_, **__: load_profile("rtx-3090-ddr5"))
    path = write_placed(tmp_path)
    plan = data_of(solve(path, "--json"))["plan"]
    assert [device["name"] for device in plan["devices"]] == ["main memory"]
    assert plan["tokens_per_second"] > 0
    assert plan["file"] is None
    assert not gpuidx_path(path).exists()


def test_what_predictors_let_through_is_seen_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is made by it, where no report says it, for this machine or another."""
    monkeypatch.setattr(kept_costs, "this_machine", lambda *_, **__: load_profile("rtx-3090-ddr5"))
    seen: list[Any] = []
    made = plan_job.make_plan
    monkeypatch.setattr(plan_job, "make_plan", lambda *parts: seen.append(parts[-1].let_through) or made(*parts))
    path = write_placed(tmp_path)
    assert solve(path, "--plan-only", "--device", "cpu", "-t", "1").code == 0
    assert solve(path, "--plan-only", "--device-profile", "rtx-4090-ddr5").code == 0
    here, elsewhere = seen
    assert len(here) == N_LAYER
    assert all(0 < share <= 1 for share in here)
    assert elsewhere == here  # its neurons are these
