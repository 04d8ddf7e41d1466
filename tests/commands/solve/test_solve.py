"""`powerinfer solve`: from a model to statistics, predictors, a plan and a report, each kept where it fits."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import solver.comparison
import solver.predictor.training
import solver.run
import solver.stages
from powerinfer_cli import files
from powerinfer_cli.commands.shared.loading import Loading
from powerinfer_cli.commands.solve.progress import Working
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_model
from powerinfer_cli.opening import companions, plan_files, plan_job
from powerinfer_cli.opening.companions import find_companions
from powerinfer_cli.placement import gpuidx_path, read_gpuidx
from solver.placing import kept_costs, load_profile, save_profile
from solver.state import read_state
from tests.helpers.main_cli import PATIENCE, Process, powerinfer
from tests.helpers.placed_model import (
    N_LAYER,
    budget,
    bytes_alone_count,
    dense_model,
    placed_model,
    turned_model,
    write_placed,
)
from tests.helpers.result import Result

N_FF = 32
STORY = "Once upon a time there was one fox.\n"
QUICK = ("--force", "--steps", "5", "--rank", "8", "-t", "1")
BAR = "measuring "  # part of a progress bar
ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for module in (plan_files, companions):
        monkeypatch.setattr(module, "cache_root", lambda: tmp_path / "cache")


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(STORY * 60)
    return str(path)


def solve(path: Path, *flags: str) -> Result:
    return powerinfer("solve", "-m", str(path), *flags)


def data_of(result: Result) -> dict[str, Any]:
    assert result.code == 0, result
    found: dict[str, Any] = json.loads(result.out)
    return found


def test_exact_zeros_need_no_predictors(tmp_path: Path) -> None:
    path, turned = write_placed(tmp_path, statistics=False, model=dense_model("relu")), tmp_path / "turned.gguf"
    before = sorted(tmp_path.iterdir())
    result = solve(path, "--merge", str(turned), "--no-predictors")
    assert result.code == 0, result
    assert sorted(tmp_path.iterdir()) == sorted([*before, turned])
    assert not open_gguf(turned).sparse
    asked = ("-p", "Once", "-n", "8", "--temp", "0", "-t", "1")
    texts = [powerinfer("main", "-m", str(one), *asked) for one in (turned, path)]
    assert [text.code for text in texts] == [0, 0]
    assert texts[0].out == texts[1].out


def test_a_dense_model_becomes_sparse_and_is_placed(tmp_path: Path, text: str) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model("relu"))
    out, page, merged = tmp_path / "out", tmp_path / "plan.html", tmp_path / "merged.gguf"
    flags = ("-f", text, "-o", str(out), "--vram-budget", "1", "--json", *QUICK)
    data = data_of(solve(path, *flags, "--report", str(page), "--merge", str(merged)))
    assert [layer["rank"] for layer in data["predictors"]["layers"]] == [8] * N_LAYER
    assert data["profile"]["tokens"] > 500
    assert data["quality"]["perplexity_dense"] == pytest.approx(data["quality"]["perplexity"], rel=0.05)
    plan = data["plan"]
    assert [layer["hot"] for layer in plan["layers"]] == [N_FF] * N_LAYER
    assert plan["devices"][0]["total"] <= plan["devices"][0]["budget"] == 1 << 30
    assert plan["machine"]["source"] == "data sheet"
    assert sorted(p.name for p in out.iterdir()) == [
        "activation",
        "activation.npz",
        "model.gguf.generated.gpuidx",
        "predictor",
        "solver.json",
    ]
    assert open_gguf(merged).sparse
    sparse = powerinfer("main", "-m", str(merged), "-p", "Once", "-n", "4", "--temp", "0", "-t", "1")
    assert sparse.out == "Once upon a time there\n"
    assert_page(page)
    again = solve(path, *flags)
    again.note("activation statistics kept")
    again.note("predictors kept")
    assert data_of(again)["predictors"] == data["predictors"]
    again.note(f"^run it: powerinfer main -m {path} --predictor-path {out}/predictor$")


def assert_page(path: Path) -> None:
    """It stands alone, and shows what it should."""
    page = path.read_text()
    assert set(re.findall(r"(?:https?:)?//[^\"' <)]+", page)) <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(?:script|link|img|iframe)|url\(|@import", page)
    assert page.count("<svg") == 3
    assert "prefers-color-scheme: dark" in page


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


def test_two_models_in_one_folder_keep_apart(tmp_path: Path, text: str) -> None:
    relu, silu = (dense_model(kind).write(tmp_path / f"{kind}.gguf") for kind in ("relu", "silu"))
    flags = ("--profile-only", "-f", text, "-t", "1")
    assert solve(relu, *flags).code == 0
    assert solve(silu, *flags, "--density", "0.5").code == 0
    assert (tmp_path / "activation").is_dir()
    assert (tmp_path / "silu.solved" / "activation").is_dir()
    again = solve(silu, *flags, "--density", "0.5")
    again.note(f"{tmp_path}/silu.solved/activation: activation statistics kept")


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


def test_stages_alone(tmp_path: Path, text: str) -> None:
    path = write_placed(tmp_path, statistics=False)
    assert "no activation statistics to plan by" in solve(path, "--plan-only", "--vram-budget", "1").error
    result = solve(path, "--profile-only", "-f", text, "-t", "1")
    assert re.search(r"^profile: [\d.]+% of the neurons active, over [\d,]+ tokens$", result.out, re.MULTILINE)
    assert sorted(p.name for p in (tmp_path / "activation").iterdir()) == ["activation_0.pt", "activation_1.pt"]
    assert not gpuidx_path(path).exists()
    data = data_of(solve(path, "--train-only", "-f", text, "--json", *QUICK))
    assert data["plan"] is None
    assert len(data["predictors"]["layers"]) == N_LAYER


def test_what_is_interrupted_goes_on(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model("relu"))
    flags = ("-f", text, "--vram-budget", "1", "--json", *QUICK)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(solver.run, "sparsify", interrupted)
        result = solve(path, *flags)
    assert result.code == 130
    result.note("^interrupted: the same command goes on where this stopped$")
    result = solve(path, *flags)
    result.note("activation statistics kept")
    assert data_of(result)["plan"]["file"] == str(gpuidx_path(path))


def test_the_density_of_a_silu_model(tmp_path: Path, text: str) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model())
    result = solve(path, "-f", text, "--density", "0.5", "--vram-budget", "1", "--json", *QUICK)
    data = data_of(result)
    assert data["density"]["density"] == 0.5
    assert data["profile"]["density"] == pytest.approx(0.5, abs=0.02)


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


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--vram-budget", "-1"], 2, "must be a number from 0 to 1048576"),
        (["--vram-budget", "nan"], 2, "must be a number from 0 to 1048576"),
        (["--vram-budget", "13", "--device-profile", "rtx-3060-12gb-ddr4"], 2, "is more than GPU 0 has"),
        (["--device-profile", "abacus"], 1, "abacus: cannot read the device profile"),
        (["--plan-only", "--train-only"], 2, "exclude each other"),
        (["--recall", "1"], 2, "--recall must be between 0 and 1"),
        (["--density", "0"], 2, "--density must be above 0"),
        (["--density", "0.5", "--max-quality-loss", "0.1"], 2, "exclude each other"),
        (["--merge", "x.gguf"], 2, "has predictors already"),
        (["--down-type", "same"], 2, "give that, too"),
        (["--merge", "x.gguf", "--down-type", "q7"], 2, "--down-type q7: choose from auto, same, f32, f16, q4_0"),
        (["--no-predictors"], 2, "give that, too"),
        (["--no-predictors", "--merge", "x.gguf", "--profile-only"], 2, "goes with no other stage"),
        (["-f", "absent.txt"], 1, "absent.txt: cannot read"),
        (["--profile-only", "--anew", "-f", "{short}"], 1, "but one chunk has 128: give a longer text"),
        (["--plan-only", "--vram-budget", "1", "-o", "{short}/x"], 1, "{short}/x"),
        (["--plan-only", "--vram-budget", "1", "-o", "{short}"], 2, "is a file: give a folder"),
        (["--plan-only", "--vram-budget", "1", "--predictor-path", "{short}"], 1, "cannot read the predictors"),
        (["--plan-only", "--vram-budget", "1", "--report", "{short}/r.html"], 1, "r.html: cannot be written"),
    ],
)
def test_what_cannot_be(tmp_path: Path, flags: list[str], code: int, says: str) -> None:
    path, short = write_placed(tmp_path), tmp_path / "short.txt"
    short.write_text(STORY)
    result = solve(path, *(flag.format(short=short) for flag in flags), "-t", "1")
    assert says.format(short=short) in result.error
    assert result.code == code
    assert not [p for p in tmp_path.rglob("*") if p.suffix in {".tmp", ".partial"}]


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a model is run."""

    def work(*_: object, **__: object) -> None:
        raise AssertionError("the work has begun")

    monkeypatch.setattr(solver.stages.Engine, "load", work)


@pytest.mark.parametrize("link", ["itself", "symbolic", "hard", "by another way"])
def test_nothing_is_merged_onto_its_own_source(tmp_path: Path, text: str, no_work: None, link: str) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model("relu"))
    before, other = path.read_bytes(), tmp_path / "other.gguf"
    if link == "symbolic":
        other.symlink_to(path)
    elif link == "hard":
        other.hardlink_to(path)
    else:
        other = path if link == "itself" else tmp_path / ".." / tmp_path.name / path.name
    result = solve(path, "-f", text, "--merge", str(other), *QUICK)
    assert f"--merge {other} would overwrite {path}, which is read" in result.error
    assert result.code == 2
    assert path.read_bytes() == before
    assert not (tmp_path / "activation").exists()


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (["--report", "{text}"], 2, "--report {text} would overwrite {text}, which is read"),
        (["--report", "{tmp}/one", "--merge", "{tmp}/one"], 2, "--merge and --report are both {tmp}/one: give two"),
        (["--report", "{tmp}"], 2, "--report {tmp} is a folder: name a file"),
        (["--merge", "/dev/null"], 2, "--merge /dev/null is no ordinary file"),
        (["--merge", "{tmp}/none/m.gguf"], 1, "cannot be written: there is no folder {tmp}/none"),
        (["--merge", "/proc/m.gguf"], 1, "/proc: cannot be written: "),
        (["--report", "/proc/r.html"], 1, "name another place with --report"),
        (["-o", "/proc/none"], 1, "name another place with -o"),
        (["-o", "/proc/none", "--profile-only"], 1, "name another place with -o"),
        (["-o", "{text}/below"], 1, "{text}/below: cannot be written: Not a directory"),
    ],
)
def test_what_cannot_be_written_is_found_out_first(
    tmp_path: Path, text: str, no_work: None, flags: list[str], code: int, says: str
) -> None:
    names = {"text": text, "tmp": str(tmp_path)}
    path = write_placed(tmp_path, statistics=False, model=dense_model("relu"))
    before = sorted(tmp_path.rglob("*"))
    result = solve(path, "-f", text, *(flag.format(**names) for flag in flags), *QUICK)
    assert says.format(**names) in result.error
    assert result.code == code
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_in_a_folder_that_takes_nothing(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made goes to the user's cache folder, and is found there."""
    folder = tmp_path / "models"
    folder.mkdir()
    path = write_placed(folder, statistics=False)
    real = files.tempfile.TemporaryFile

    def refused(dir: Path) -> Any:  # noqa: A002  # as the replaced function names it
        if dir == folder:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(dir=dir)

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)
    result = solve(path, "-f", text, "--profile-only", "-t", "1")
    assert result.code == 0, result
    result.note(f"^{folder} takes no files: what is made goes to {tmp_path}/cache/solved/")
    assert list(folder.iterdir()) == [path]
    gguf = open_gguf(path)
    found = find_companions(gguf, load_model(gguf), None, print).statistics
    assert found is not None
    assert found.tokens


def test_a_folder_that_was_given_takes_nothing(
    tmp_path: Path, text: str, no_work: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model("relu"))

    def refused(**_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(files.tempfile, "TemporaryFile", refused)
    out = tmp_path / "out"
    error = solve(path, "-f", text, "-o", str(out), *QUICK).error
    assert f"{out}: cannot be written: Permission denied: name another place with -o" in error


def test_a_model_that_gains_nothing_is_told_so_and_no_more(tmp_path: Path, text: str) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model())
    before = sorted(tmp_path.iterdir())
    result = solve(path, "-f", text, "-t", "1", "--device-profile", "rtx-3090-ddr5")
    assert result.code == 0, result
    assert "verdict: silu, no neuron is ever exactly 0; " in result.out
    assert re.search(r"^not worth it: .* What helps instead: .*--force goes on all the same$", result.out, re.MULTILINE)
    assert {one.name for one in set(tmp_path.iterdir()) - set(before)} <= {"solver.json", "cache"}
    data = data_of(solve(path, "-f", text, "-t", "1", "--device-profile", "rtx-3090-ddr5", "--verdict", "--json"))
    assert data["verdict"]["pays"] is False
    assert data["verdict"]["bytes_best"] <= data["verdict"]["bytes_now"]
    assert data["plan"] is None


def test_what_may_be_made_all_the_same_is_not_told_to_be_forced(tmp_path: Path, text: str) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model())
    result = solve(path, "-f", text, "--density", "0.5", "--device-profile", "rtx-3090-ddr5", *QUICK)
    assert result.code == 0, result
    assert "goes on all the same" not in result.note("^not worth it: .*")[0]
    result.note("^gradient steps: [0-9]+ s of the 30 min of --time-budget; ")


def test_a_model_in_which_no_predictor_pays_stays_dense(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solver.predictor.training._Run, "_pays", lambda *_: False)
    path, merged = write_placed(tmp_path, statistics=False, model=dense_model()), tmp_path / "merged.gguf"
    flags = ("-f", text, "--density", "0.5", "--device-profile", "rtx-3090-ddr5", "--merge", str(merged), *QUICK)
    result = solve(path, *flags, "--json")
    assert data_of(result)["plan"] is None
    assert data_of(result)["merged"] is None
    result.note("^no layer is faster with a predictor: the model stays dense")
    result.note(f"^run the dense file: powerinfer main -m {path}$")
    assert not merged.exists()


def test_ctrl_c_at_any_time_keeps_what_is_done(tmp_path: Path, text: str) -> None:
    path, out, whole = (
        write_placed(tmp_path, statistics=False, model=dense_model("relu")),
        tmp_path / "a",
        tmp_path / "b",
    )
    flags = ("-f", text, "--device-profile", "rtx-3090-ddr5", *QUICK)
    for stage in ("verdict", "activation"):
        with Process("solve", "-m", str(path), *flags, "-o", str(out)) as process:
            deadline = time.monotonic() + PATIENCE
            while stage not in read_state(out).stages and process.alive:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.interrupt()
            result = process.wait()
        assert result.code in (0, 130), result  # 0: it was faster
        assert "Traceback" not in result.err
        assert stage in read_state(out).stages
        assert not list(tmp_path.rglob("*.tmp"))
    for folder in (out, whole):
        assert solve(path, *flags, "-o", str(folder)).code == 0
    assert read_state(out).found("predictor") == read_state(whole).found("predictor")
    assert not (out / ".solver-work").exists()


@pytest.mark.parametrize("terminal", [False, True])
def test_work_that_tells_nothing_is_told_of_all_the_same(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """In a log a line now and then, on a terminal a bar."""
    out = io.StringIO()
    monkeypatch.setattr(out, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", out)
    working = Working(between=0.01)
    with working as events:
        working.schedule.declare({"profile": 100})
        events.progress("profile", 1, 100)
        deadline = time.monotonic() + PATIENCE
        while "left" not in out.getvalue():
            assert time.monotonic() < deadline
            time.sleep(0.01)
    words = "2 min left" if terminal else "% of all, profile 1%, about 2 min left\n"
    assert words in out.getvalue()


def test_what_was_made_is_measured_beside_the_dense_model(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_costs, "this_machine", lambda *_, **__: load_profile("rtx-3090-ddr5"))
    monkeypatch.setattr(solver.comparison, "SECONDS", 0.1)
    path = write_placed(tmp_path, statistics=False, model=dense_model("relu"))
    result = solve(path, "-f", text, *QUICK)
    assert result.code == 0, result
    assert re.search(
        r"^measured: dense [\d,.]+ tokens/s, sparse [\d,.]+ \([\d.]+x; predicted", result.out, re.MULTILINE
    )
    ratio = float(re.findall(r"\(([\d.]+)x;", result.out)[0])
    result.note("^run it: " if ratio > 1 else "^run (the dense file|it): ")


class Trap:
    """A pickle that would leave a file behind, if anybody executed it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["other sizes", "other layers", "a pickle"])
def test_statistics_of_another_model(tmp_path: Path, text: str, damage: str) -> None:
    path, trap = write_placed(tmp_path), tmp_path / "trap"
    file = tmp_path / "activation" / "activation_1.pt"
    if damage == "other sizes":
        torch.save(torch.ones(N_FF + 1), file)
    elif damage == "other layers":
        torch.save(torch.ones(N_FF), file.with_name("activation_2.pt"))
    else:
        torch.save(Trap(trap), file)
    error = solve(path, "--plan-only", "--vram-budget", "1").error
    assert "activation" in error
    assert not trap.exists()
    assert not gpuidx_path(path).exists()


def test_a_predictor_of_the_wrong_shape(tmp_path: Path) -> None:
    path, folder = write_placed(tmp_path, model=dense_model("relu")), tmp_path / "predictor"
    folder.mkdir()
    for layer in range(N_LAYER):
        torch.save({"fc1.weight": torch.ones(4, 8), "fc2.weight": torch.ones(N_FF, 4)}, folder / f"model_{layer}.pt")
    error = solve(path, "--plan-only", "--vram-budget", "1").error
    assert "a predictor of another model" in error


def test_the_sparse_model_needs_no_predictor(tmp_path: Path) -> None:
    path = write_placed(tmp_path, model=placed_model())
    assert data_of(solve(path, "--vram-budget", "1", "--json"))["predictors"] is None


def test_without_a_gpu_or_a_budget_the_cpu_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_costs, "this_machine", lambda *_, **__: load_profile("rtx-3090-ddr5"))
    path = write_placed(tmp_path)
    plan = data_of(solve(path, "--json"))["plan"]
    assert [device["name"] for device in plan["devices"]] == ["main memory"]
    assert plan["tokens_per_second"] > 0
    assert plan["file"] is None
    assert not gpuidx_path(path).exists()


def test_what_predictors_let_through_is_seen_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan is made by it, where no report says it; for another machine the model is not loaded."""
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
    assert elsewhere is None


def test_at_a_terminal_json_goes_to_the_file_and_progress_does_not(tmp_path: Path) -> None:
    args = ("solve", "-m", str(write_placed(tmp_path)), "--plan-only", "--device", "cpu", "-t", "1")  # measures costs
    with Process(*args, "--json", terminal=True, redirected=(1,)) as process:
        result = process.wait()
    assert data_of(result)["plan"]["machine"]["source"] == "measured"
    assert BAR in result.err


def test_a_bar_is_gone_before_the_report(tmp_path: Path) -> None:
    args = ("solve", "-m", str(write_placed(tmp_path)), "--plan-only", "--device", "cpu", "-t", "1")
    with Process(*args, terminal=True) as process:
        shown = process.wait().out
    _, after = shown.rsplit(BAR, 1)
    assert "\x1b[2K" in after[: after.index("profile: ")]


def test_what_is_written_beside_a_bar_stays_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, out = io.StringIO(), io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", out)
    for progress in (Working(), Loading(print)):
        with progress as events:
            events.progress("compiling", 1, 2)
            print("text")
    assert out.getvalue() == "text\ntext\n"
    assert "compiling" in terminal.getvalue()
