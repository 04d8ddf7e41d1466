"""What of a model goes to GPUs, rehearsed on the CPU: flags, plans that are kept, and the same text all the while."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from powerinfer_cli.errors import UsageError
from powerinfer_cli.opening import PlacementWishes
from powerinfer_cli.opening.planning import gpus, plan_files
from powerinfer_cli.opening.planning.gpus import UNIFIED, Target, find_target
from powerinfer_cli.placement import gpuidx_path, read_gpuidx
from tests.helpers.main_cli import powerinfer
from tests.helpers.model_file import ModelFile
from tests.helpers.placing.placed_model import (
    N_LAYER,
    budget,
    bytes_alone_count,
    dense_model,
    placed_model,
    turned_model,
    write_placed,
)
from tests.helpers.result import Result

GIB = 1 << 30
TEXT = "Once upon a time there was"


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # The variable would move the compiled kernels, too.
    monkeypatch.setattr(plan_files, "cache_root", lambda: tmp_path / "cache")
    bytes_alone_count(monkeypatch)
    return write_placed(tmp_path)


def run(path: Path, *flags: str) -> Result:
    result = powerinfer("main", "-m", str(path), "-p", "Once", "-n", "5", "--temp", "0", "-t", "1", *flags)
    if result.code == 0:
        assert result.out == TEXT + "\n"
    return result


def rehearse(path: Path, *flags: str) -> Result:
    result = run(path, "--device", "cpu", *flags)
    if result.code == 0:
        result.note("^the GPU's part is rehearsed on the CPU: slow")
    return result


def test_without_a_gpu_its_flags_are_told_to_do_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run(path, "--vram-budget", "1", "-mg", "0").note("^no CUDA GPU: --vram-budget and -mg have no effect, everything")
    assert "GPU" not in run(path).err
    assert "GPU" not in run(path, "--device", "cpu").err
    run(path, "--device", "cuda").note("^no CUDA GPU: --device cuda has no effect")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    run(path, "--device", "mps").note(
        "^no Apple GPU \\(mps\\): --device mps has no effect, everything runs on the CPU$"
    )


def test_a_plan_is_made_once_and_kept(path: Path) -> None:
    half = budget(path)
    index = gpuidx_path(path)
    result = rehearse(path, "--vram-budget", half)
    result.note(rf"^planned in [\d.]+ s, within [\d.]+% of the best, kept in {index}$")
    result.note(r"^gpu:     rehearsed on the CPU, 2 of 2 layers and 50\.0% of their neurons and the head: .* of ")
    plan = read_gpuidx(index, [32] * N_LAYER).plan
    assert sum(plan.hot_counts) == 32
    made = index.read_bytes()
    again = rehearse(path, "--vram-budget", half)
    again.note(f"^plan: {index}$")
    assert "planned" not in again.err
    assert index.read_bytes() == made
    rehearse(path, "--vram-budget", half, "--reset-gpu-index").note("^planned in")


def test_another_budget_is_planned_anew(path: Path) -> None:
    rehearse(path, "--vram-budget", budget(path))
    index = gpuidx_path(path)
    result = rehearse(path, "--vram-budget", budget(path, 0.25))
    result.note(r"^planning anew: model.gguf.generated.gpuidx does not fit: it was made for a budget of .*, and now it")
    result.note(r"25\.0% of their neurons")
    plan = read_gpuidx(index, [32] * N_LAYER).plan
    assert sum(plan.hot_counts) == 16
    assert plan.budgets == (round(float(budget(path, 0.25)) * 2**30),)


def test_a_plan_that_is_not_to_be_kept(path: Path) -> None:
    result = rehearse(path, "--vram-budget", budget(path), "--disable-gpu-index")
    result.note(r"^planned in [\d.]+ s, within [\d.]+% of the best$")
    assert not gpuidx_path(path).exists()


def test_everything_fits(path: Path) -> None:
    result = rehearse(path, "--vram-budget", "2")
    result.note(r"^gpu:     rehearsed on the CPU, 2 of 2 layers and the head: .* of 2\.00 GiB$")
    assert not gpuidx_path(path).exists()


def test_nothing_fits(path: Path) -> None:
    rehearse(path, "--vram-budget", "0").note("^no GPU memory may be used: everything runs on the CPU$")
    result = rehearse(path, "--vram-budget", "0.0001")
    result.note("^the budget of 0.1 MiB does not hold one layer: everything stays in main memory$")
    assert "gpu:" not in result.err
    assert not gpuidx_path(path).exists()


def test_whole_layers(path: Path) -> None:
    rehearse(path, "-ngl", "1").note(r"^gpu:     rehearsed on the CPU, 1 of 2 layers: ")
    rehearse(path, "-ngl", "-1").note(r"^gpu:     rehearsed on the CPU, 2 of 2 layers and the head: ")
    assert not gpuidx_path(path).exists()


def test_exact_zeros_are_placed_without_predictors(path: Path, tmp_path: Path) -> None:
    write_placed(tmp_path, model=turned_model())
    half = budget(path)
    result = rehearse(path, "--vram-budget", half)
    result.note(r"^gpu:     rehearsed on the CPU, 2 of 2 layers and 50\.0% of their neurons and the head: .* of ")
    assert sum(read_gpuidx(gpuidx_path(path), [32] * N_LAYER).plan.hot_counts) == 32
    rehearse(path, "--vram-budget", half).note(f"^plan: {gpuidx_path(path)}$")


@pytest.mark.parametrize("model", [placed_model, turned_model, dense_model])
def test_without_statistics_whole_layers_go(tmp_path: Path, model: Callable[[], ModelFile]) -> None:
    path = write_placed(tmp_path, statistics=False, model=model())
    result = rehearse(path, "--vram-budget", budget(path, 0.5))
    what = "no predictor" if model is dense_model else "no activation statistics"
    result.note(rf"^{what}: whole layers go to the GPU; `powerinfer solve -m {path}` makes")
    result.note(r"^the output head stays in main memory: the budget of .* does not hold it as well$")
    result.note(r"^gpu:     rehearsed on the CPU, 2 of 2 layers: ")


def test_two_devices(path: Path) -> None:
    result = rehearse(path, "--vram-budget", "1,1", "-ts", "1,1")
    assert result.err.count("gpu:     rehearsed on the CPU, 1 of 2 layers") == 2
    assert rehearse(path, "--vram-budget", "1,1", "-ts", "1,1,1").error.endswith("one for each GPU, not all 0")


@pytest.mark.parametrize("damage", ["cut short", "another model's", "no file at all"])
def test_a_bad_plan_is_made_anew(path: Path, tmp_path: Path, damage: str) -> None:
    half, index = budget(path), gpuidx_path(path)
    rehearse(path, "--vram-budget", half)
    content = index.read_bytes()
    if damage == "cut short":
        index.write_bytes(content[: len(content) // 2])
    elif damage == "another model's":
        model = placed_model()
        other = dict(model.tensors) | {"output_norm.weight": 2 * model.tensors["output_norm.weight"]}
        write_placed(tmp_path, statistics=False, model=model.with_tensors(other))
    else:
        index.unlink()
        index.mkdir()
    result = rehearse(path, "--vram-budget", half)
    if damage == "no file at all":  # a folder that cannot be written is as bad
        result.note(rf"^the plan is kept in {tmp_path}/cache/plans: {index}")
        rehearse(path, "--vram-budget", half).note(rf"^plan: {tmp_path}/cache/plans/[0-9a-f]+\.gpuidx$")
    else:
        result.note("^planning anew: ")
        rehearse(path, "--vram-budget", half).note(f"^plan: {index}$")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--vram-budget", "-1"], "must be a number from 0 to 1048576"),
        (["--vram-budget", "nan"], "must be a number from 0 to 1048576"),
        (["--vram-budget", "inf"], "must be a number from 0 to 1048576"),
        (["--vram-budget", "much"], "--vram-budget has 'much', but must be GiB"),
        (["-ts", "1,x"], "-ts '1,x': must be numbers"),
        (["-ts", "0,0"], "-ts '0,0': must be numbers"),
        (["-ngl", "-2"], "-ngl must be -1 or more"),
        (["--vram-budget", "1", "--reference"], "--reference excludes --vram-budget"),
    ],
)
def test_flags_that_cannot_be(path: Path, flags: list[str], says: str) -> None:
    result = run(path, *flags)
    assert says in result.error
    assert result.code == 2


def test_bench_and_perplexity_take_the_flags(path: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was one fox.\n" * 12)
    score = ("perplexity", "-m", str(path), "-f", str(text), "-c", "16", "-t", "1")
    half = ("--device", "cpu", "--vram-budget", budget(path, 0.5, 16))
    whole, divided = powerinfer(*score), powerinfer(*score, *half)
    divided.note("^gpu: rehearsed on the CPU, 2 of 2 layers and ")
    values = [float(result.out.split("PPL = ")[1].split()[0]) for result in (whole, divided)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)
    bench = ("bench", "-m", str(path), "-p", "0", "-n", "2", "-r", "1", "-t", "1", "-o", "json", "--device", "cpu")
    (plain,), (placed,) = (json.loads(powerinfer(*bench, *flags).out) for flags in ((), ("-ngl", "2")))
    assert (plain["n_gpu_layers"], plain["backends"]) == (0, "CPU")
    assert (placed["n_gpu_layers"], placed["backends"]) == (2, "CPU, GPU rehearsed")
    assert plain["bytes_per_token"] > 0
    assert placed["bytes_per_token"] is None


def test_comparing_leaves_the_plan_that_is_kept(path: Path, tmp_path: Path) -> None:
    """The model is opened twice, the second time to compute every neuron."""
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was one fox.\n" * 5)
    score = ("perplexity", "-m", str(path), "-f", str(text), "-c", "16", "-t", "1", "--chunks", "1")
    half = ("--device", "cpu", "--vram-budget", budget(path, 0.5, 16))
    result = powerinfer(*score, *half, "--compare", "dense")
    assert result.err.count("planned in") == 2
    assert result.err.count(f"kept in {gpuidx_path(path)}") == 1
    assert result.out.count("PPL = ") == 2
    powerinfer(*score, *half).note(f"^plan: {gpuidx_path(path)}$")


class Card:
    """What torch tells of a GPU."""

    total_memory, is_integrated = 10 * GIB, 0


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "has_gpu_driver", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Card)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: ((8 - 4 * gpu) * GIB, 10 * GIB))


@pytest.mark.usefixtures("two_cards")
def test_which_gpus_and_how_much_of_them() -> None:
    def target(**flags: object) -> Target | None:
        return find_target(PlacementWishes(**flags), notes.append)  # type: ignore[arg-type]

    notes: list[str] = []
    free = (round(8 * GIB * 0.96), 4 * GIB - GIB // 4)
    found = target()
    assert found is not None
    assert found.devices == ("cuda:0", "cuda:1")
    assert found.budgets == pytest.approx(free, abs=2)
    assert found.free
    assert target(device="cpu") is None
    alone = target(main_gpu=1)
    assert alone is not None
    assert (alone.devices, alone.budgets) == (("cuda:1",), pytest.approx(free[1:], abs=2))
    assert target(vram_budget=(3 * GIB,), main_gpu=1) == Target(("cuda:1",), (3 * GIB,))
    assert target(vram_budget=(3 * GIB, GIB), main_gpu=1) == Target(("cuda:1", "cuda:0"), (3 * GIB, GIB))
    assert not notes
    assert target(vram_budget=(9 * GIB,), tensor_split=(1.0,)) == Target(("cuda:0",), (9 * GIB,), (1.0,))
    assert notes == ["warning: other programs leave 8.00 GiB of GPU 0, less than its budget"]


@pytest.mark.usefixtures("two_cards")
def test_a_gpu_without_memory_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Card, "is_integrated", 1)
    notes: list[str] = []
    found = find_target(PlacementWishes(vram_budget=(3 * GIB,)), notes.append)
    assert found == Target(("cuda:0",), (3 * GIB,), unified=True)
    assert notes == [UNIFIED]


def test_the_gpu_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    def target(**flags: object) -> Target | None:
        return find_target(PlacementWishes(device="mps", **flags), notes.append)  # type: ignore[arg-type]

    notes: list[str] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 10 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: GIB)
    monkeypatch.setattr(gpus, "available_memory", lambda: 30 * GIB)
    found = target()
    assert found == Target(("mps",), (9 * GIB - int(9 * GIB * 0.04),), free=True, unified=True)
    assert not found.cuda
    assert not found.rehearsed
    monkeypatch.setattr(gpus, "available_memory", lambda: 2 * GIB)
    assert target(vram_budget=(3 * GIB,)) == Target(("mps",), (3 * GIB,), unified=True)
    warning = "warning: other programs leave 2.00 GiB of main memory, less than the GPU's budget"
    assert notes == [UNIFIED, warning, UNIFIED]
    for flags, says in (
        ({"vram_budget": (11 * GIB,)}, "more than GPU 0 has"),
        ({"main_gpu": 1}, "^-mg 1: there is one GPU"),
        ({"tensor_split": (1.0, 1.0)}, "^-ts names 2 GPUs, but there is one"),
    ):
        with pytest.raises(UsageError, match=says):
            target(**flags)


@pytest.mark.usefixtures("two_cards")
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"vram_budget": (11 * GIB,)}, "more than GPU 0 has"),
        ({"vram_budget": (GIB, GIB, GIB)}, "names 3 GPUs, but there are 2"),
        ({"main_gpu": 2}, "-mg 2: there are 2 GPUs"),
        ({"tensor_split": (1.0, 1.0, 1.0)}, "-ts names 3 GPUs, but there are 2"),
    ],
)
def test_gpus_that_are_not_there(flags: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        find_target(PlacementWishes(**flags), print)  # type: ignore[arg-type]
