"""What `powerinfer solve` makes: statistics, predictors, a merged file; kept where it fits, measured at the end."""

import os
import re
import signal
from pathlib import Path

import pytest

import solver.comparison
import solver.predictor.training
import solver.run
import solver.stages
from powerinfer_cli.commands.solve.progress import Working
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.placement import gpuidx_path
from solver.placing import kept_costs, load_profile
from tests.commands.solve.running import N_FF, QUICK, data_of, solve
from tests.helpers.interrupts import ctrl_c_counts
from tests.helpers.main_cli import powerinfer
from tests.helpers.placing.placed_model import (
    N_LAYER,
    dense_model,
    placed_model,
    write_placed,
)


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


def test_a_signal_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, turned = write_placed(tmp_path, statistics=False, model=dense_model("relu")), tmp_path / "turned.gguf"
    before = sorted(tmp_path.iterdir())

    told: list[int] = []

    def end(*_: object) -> None:
        """Once: what tells of progress behind the end would be told to end without a handler."""
        if not told:
            assert sorted(tmp_path.iterdir()) != before
            told.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Working, "_progress", end)
    assert solve(path, "--merge", str(turned), "--no-predictors").code == 128 + signal.SIGTERM
    assert sorted(tmp_path.iterdir()) == before


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
        "firing.npz",
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


def test_two_models_in_one_folder_keep_apart(tmp_path: Path, text: str) -> None:
    relu, silu = (dense_model(kind).write(tmp_path / f"{kind}.gguf") for kind in ("relu", "silu"))
    flags = ("--profile-only", "-f", text, "-t", "1")
    assert solve(relu, *flags).code == 0
    assert solve(silu, *flags, "--density", "0.5").code == 0
    assert (tmp_path / "activation").is_dir()
    assert (tmp_path / "silu.solved" / "activation").is_dir()
    again = solve(silu, *flags, "--density", "0.5")
    again.note(f"{tmp_path}/silu.solved/activation: activation statistics kept")


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


@pytest.mark.parametrize(
    ("number", "stage", "kept"),
    [
        (signal.SIGINT, "collecting", "^collecting: going on after chunk 1 of "),
        (signal.SIGTERM, "training predictors", f"^training: going on, 1 of {N_LAYER} layers are done"),
        (signal.SIGTERM, "merging", "predictors kept$"),
    ],
)
def test_a_signal_at_work_costs_only_what_was_in_hand(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, stage: str, kept: str
) -> None:
    path, merged = write_placed(tmp_path, statistics=False, model=dense_model("relu")), tmp_path / "merged.gguf"
    flags = ("-f", text, "--merge", str(merged), "--train-only", *QUICK)
    sent: list[str] = []

    def end(_: Working, what: str, done: int, total: int) -> None:
        if what == stage and 0 < done < total and not sent:
            sent.append(what)
            os.kill(os.getpid(), number)

    with monkeypatch.context() as patch, ctrl_c_counts():
        patch.setattr(Working, "_progress", end)
        result = solve(path, *flags)
    assert (result.code, sent) == (128 + number, [stage])
    result.note("^interrupted: the same command goes on where this stopped$")
    assert not list(tmp_path.glob("*merged*"))
    again = solve(path, *flags)
    again.note(kept)
    assert again.code == 0
    assert open_gguf(merged).sparse


def test_the_density_of_a_silu_model(tmp_path: Path, text: str) -> None:
    path = write_placed(tmp_path, statistics=False, model=dense_model())
    result = solve(path, "-f", text, "--density", "0.5", "--vram-budget", "1", "--json", *QUICK)
    data = data_of(result)
    assert data["density"]["density"] == 0.5
    assert data["profile"]["density"] == pytest.approx(0.5, abs=0.02)


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


def test_the_sparse_model_needs_no_predictor(tmp_path: Path) -> None:
    path = write_placed(tmp_path, model=placed_model())
    assert data_of(solve(path, "--vram-budget", "1", "--json"))["predictors"] is None
