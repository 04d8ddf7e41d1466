"""The stages on a small model whose neurons can be foretold: from a text to a merged file that writes the same."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import GGMLType, open_gguf
from powerinfer_cli.model import load_predictors
from powerinfer_cli.model.turned import DownType, Width
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from solver import stages
from solver.dense import write_dense
from solver.held_out_stages import quality_stage
from solver.merge import merge
from solver.predictor import LayersMade, PredictorOptions, RankOptions, TrainOptions, quality, training
from solver.predictor.improving import Offer
from solver.predictor.ranks import Costs
from solver.profile import ActiveRule
from solver.stages import Place, SolverModel, predictor_stage, profile_stage, text_chunks
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import PROMPT, tiny_model

OPTIONS = TrainOptions(PredictorOptions(steps=40, batch=128), RankOptions())
ENGINE = EngineOptions(n_threads=1, reference=True)
IDS = [int(i) for i in np.random.default_rng(4).integers(0, 80, 16 * 256)]
SIZES = {"n_ff": 192, "rank": 9}


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exact_sparse(**SIZES)[1].write(tmp_path_factory.mktemp("dense") / "model.gguf")


def model_of(path: Path, notes: list[str] | None = None) -> SolverModel:
    told: list[str] = [] if notes is None else notes
    return SolverModel(open_gguf(path), ENGINE, LoadEvents(note=told.append))


def chunks_for(model: SolverModel, seed: int = 0) -> list[list[int]]:
    return text_chunks(model, IDS[seed:], None)


@pytest.fixture(scope="module")
def made(dense: Path, tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place(tmp_path_factory.mktemp("made"))
    model = model_of(dense)
    profile_stage(model, chunks_for(model), place, ActiveRule())
    predictor_stage(model, chunks_for(model), place, ActiveRule(), OPTIONS)
    return place


def test_predictors_meet_the_target(made: Place, dense: Path) -> None:
    model = model_of(dense)
    reports = predictor_stage(model, chunks_for(model), made, ActiveRule(), OPTIONS)
    assert [report.recall >= 0.95 for report in reports] == [True] * 3
    assert all(0.05 < report.true_density < 0.25 and report.excess < 1.3 for report in reports)


def test_files_are_what_the_original_reads(made: Place) -> None:
    assert sorted(path.name for path in made.predictor.iterdir()) == [
        "config.json",
        *(f"model_{i}.pt" for i in range(3)),
    ]
    assert json.loads((made.predictor / "config.json").read_text())["sparse_threshold"] == 0.0
    weights = torch.load(made.predictor / "model_1.pt", weights_only=True)
    assert type(weights) is dict
    assert list(weights) == ["fc1.weight", "fc2.weight"]
    rank = len(weights["fc1.weight"])
    assert weights["fc1.weight"].shape == (rank, 64)
    assert weights["fc2.weight"].shape == (192, rank)
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert sorted(path.name for path in made.folder.iterdir()) == [
        "activation",
        "activation.npz",
        "firing.npz",
        "predictor",
        "solver.json",
    ]


def test_what_is_there_and_fits_is_kept(made: Place, dense: Path) -> None:
    notes: list[str] = []
    model = model_of(dense, notes)
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    statistics = profile_stage(model, chunks_for(model), made, ActiveRule())
    predictor_stage(model, chunks_for(model), made, ActiveRule(), OPTIONS)
    assert statistics.tokens == 4096
    assert [note.split(": ")[1] for note in notes] == ["activation statistics kept (4,096 tokens)", "predictors kept"]
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == before


def test_counts_without_a_trace_are_made_anew(made: Place, dense: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    model, place = model_of(dense, notes), Place(tmp_path / "made")
    shutil.copytree(made.folder, place.folder)
    (place.folder / "firing.npz").unlink()
    profile_stage(model, chunks_for(model), place, ActiveRule())
    assert notes[0] == f"{place.statistics}: made anew (counts without a trace of what fired)"
    assert (place.folder / "firing.npz").is_file()


def test_what_does_not_fit_is_made_anew_and_said(dense: Path, tmp_path: Path) -> None:
    place, quick = Place(tmp_path), replace(OPTIONS, ranks=RankOptions(rank=32))
    first = model_of(dense)
    profile_stage(first, chunks_for(first), place, ActiveRule())
    predictor_stage(first, chunks_for(first), place, ActiveRule(), quick)
    notes: list[str] = []
    other = model_of(exact_sparse(**SIZES, seed=1)[1].write(tmp_path / "other.gguf"), notes)
    profile_stage(other, chunks_for(other), place, ActiveRule())
    predictor_stage(other, chunks_for(other, 256), place, ActiveRule(), quick)
    again = [note for note in notes if "anew" in note]
    assert again == [
        f"{tmp_path / 'activation'}: made anew (another model)",
        f"{tmp_path / 'predictor'}: made anew (another model, text)",
    ]


def test_statistics_that_came_with_the_model_are_kept(dense: Path, made: Place, tmp_path: Path) -> None:
    model_path = tmp_path / "model.gguf"
    model_path.write_bytes(dense.read_bytes())
    (tmp_path / "activation").mkdir()
    for path in made.statistics.iterdir():
        (tmp_path / "activation" / path.name).write_bytes(path.read_bytes())
    notes: list[str] = []
    model = model_of(model_path, notes)
    statistics = profile_stage(model, chunks_for(model), Place(tmp_path / "out"), ActiveRule())
    assert statistics.tokens is None
    assert "number of tokens unknown" in notes[0]
    profile_stage(model, chunks_for(model), Place(tmp_path / "out"), ActiveRule(), force=True)
    assert (tmp_path / "out" / "activation" / "activation_2.pt").is_file()
    assert "made anew (of which text they are is not known)" in notes[1]


def test_training_goes_on_after_the_last_finished_layer(
    dense: Path, made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, notes = Place(tmp_path), []
    model = model_of(dense, notes)
    train = training.train_at_best_rank
    calls: list[int] = []

    def stops_at_the_third(*given: object, **named: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "train_at_best_rank", stops_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        predictor_stage(model, chunks_for(model), place, ActiveRule(), OPTIONS)
    assert not place.predictor.exists()
    predictor_stage(model, chunks_for(model), place, ActiveRule(), OPTIONS)
    assert len(calls) == 4, "two layers, the one that failed, and that one again"
    assert "training: going on, 2 of 3 layers are done" in notes
    for layer in range(3):
        one, other = (torch.load(folder / f"model_{layer}.pt") for folder in (place.predictor, made.predictor))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_number_of_threads_changes_nothing(dense: Path, made: Place, tmp_path: Path) -> None:
    """Layers are made side by side."""
    place = Place(tmp_path)
    model = SolverModel(open_gguf(dense), replace(ENGINE, n_threads=3), LoadEvents())
    before = torch.get_num_threads()
    try:
        predictor_stage(model, chunks_for(model), place, ActiveRule(), OPTIONS)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    for layer in range(3):
        one, other = (torch.load(folder / f"model_{layer}.pt") for folder in (place.predictor, made.predictor))
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_full_disk_leaves_the_old_predictors(
    dense: Path, made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(tmp_path)
    place.predictor.mkdir()
    for path in made.predictor.iterdir():
        (place.predictor / path.name).write_bytes(path.read_bytes())
    before = {path.name: path.read_bytes() for path in place.predictor.iterdir()}
    model = model_of(dense)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(PowerInferError, match="cannot be written: No space left on device"):
        predictor_stage(model, chunks_for(model), place, ActiveRule(), replace(OPTIONS, ranks=RankOptions(rank=32)))
    assert {path.name: path.read_bytes() for path in place.predictor.iterdir()} == before


def test_the_loss_is_measured(made: Place, dense: Path) -> None:
    model = model_of(dense)
    found = quality_stage(model, chunks_for(model), made.predictor)
    assert found.tokens == 4 * (255 - 32)
    assert 0 < found.error < 0.01
    assert abs(found.loss) < 0.02
    assert found.predicted is not None
    assert found.active is not None
    assert 0.05 < found.active <= found.predicted < 0.3


def test_a_merged_file_is_the_model_with_its_predictors(made: Place, dense: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged.powerinfer.gguf"
    merge(open_gguf(dense), made.predictor, merged, LoadEvents())
    file, original = open_gguf(merged), open_gguf(dense)
    assert file.sparse
    assert file.metadata["powerinfer.sparse_threshold"] == 0.0
    assert "powerinfer.activation" not in file.metadata
    down = original.tensors["blk.1.ffn_down.weight"].to_float32()
    assert np.array_equal(file.tensors["blk.1.ffn_down_t.weight"].to_float32(), down.T)
    assert file.tensors["blk.1.fc1.weight"].type is GGMLType.F16
    assert "blk.1.ffn_down.weight" not in file.tensors
    sparse, whole = (Engine.load(gguf, ENGINE) for gguf in (file, original))
    ids = IDS[:100]
    assert np.abs(sparse.logits(ids) - whole.logits(ids)).mean() < 0.1 * np.abs(whole.logits(ids[:1])).mean()
    all_active = Engine.load(file, replace(ENGINE, all_active=True)).logits(ids)
    check_logits(all_active, Engine.load(original, ENGINE).logits(ids))


def test_a_dense_twin_is_what_was_merged(made: Place, dense: Path, tmp_path: Path) -> None:
    merge(open_gguf(dense), made.predictor, tmp_path / "merged.gguf", LoadEvents())
    write_dense(open_gguf(tmp_path / "merged.gguf"), tmp_path / "dense.gguf")
    original, back = open_gguf(dense), open_gguf(tmp_path / "dense.gguf")
    assert not back.sparse
    assert back.metadata.keys() == original.metadata.keys()
    assert {name: (t.type, t.shape, t.data.tobytes()) for name, t in back.tensors.items()} == {
        name: (t.type, t.shape, t.data.tobytes()) for name, t in original.tensors.items()
    }
    with pytest.raises(PowerInferError, match="is dense already"):
        write_dense(back, tmp_path / "again.gguf")


@pytest.mark.parametrize(
    ("kind", "down", "becomes", "says"),
    [
        (
            GGMLType.Q4_0,
            Width.AUTO,
            GGMLType.Q8_0,
            r"Q4_0 to Q8_0: [\d.]+ MiB more, numbers move by 0\.\d %; --down-type same keeps their size",
        ),
        (
            GGMLType.Q4_0,
            Width.SAME,
            GGMLType.Q4_0,
            r"^warning: .* Q4_0 to Q4_0: .* by \d\.\d %, which costs a",
        ),
        (GGMLType.Q4_0, GGMLType.Q5_K, GGMLType.Q5_1, r"^warning: .* Q4_0 to Q5_1: .* more, numbers move by \d\.\d %"),
        (GGMLType.Q8_0, Width.AUTO, GGMLType.Q8_0, r"Q8_0 to Q8_0: 0\.0 MiB more, numbers move by 0\.\d %$"),
        (GGMLType.F16, Width.SAME, GGMLType.F16, None),
        (GGMLType.F16, GGMLType.Q8_0, GGMLType.Q8_0, r"F16 to Q8_0: [\d.]+ MiB less, numbers move by 0\.\d %$"),
    ],
)
def test_what_becomes_of_down_matrices_is_told(
    made: Place, tmp_path: Path, kind: GGMLType, down: DownType, becomes: GGMLType, says: str | None
) -> None:
    notes: list[str] = []
    path = exact_sparse(**SIZES)[1].stored_as(kind).write(tmp_path / f"{kind.name}.gguf")
    merge(open_gguf(path), made.predictor, tmp_path / "merged.gguf", LoadEvents(note=notes.append), down=down)
    tensors = open_gguf(tmp_path / "merged.gguf").tensors
    assert tensors["blk.0.ffn_down_t.weight"].type is becomes
    wanted = GGMLType.F16 if kind is GGMLType.F16 else GGMLType.Q8_0  # of predictors
    assert {tensors[f"blk.0.fc{i}.weight"].type for i in (1, 2)} == {wanted}
    assert Engine.load(open_gguf(tmp_path / "merged.gguf"), ENGINE).logits([1, 2]).shape == (2, 80)
    assert len(notes) == (says is not None)
    assert says is None or re.search(says, notes[0])


def test_a_loss_that_was_measured_needs_no_warning(made: Place, tmp_path: Path) -> None:
    notes: list[str] = []
    path = exact_sparse(**SIZES)[1].stored_as(GGMLType.Q4_0).write(tmp_path / "dense.gguf")
    told = LoadEvents(note=notes.append)
    merge(open_gguf(path), made.predictor, tmp_path / "merged.gguf", told, down=Width.SAME, measured=True)
    (note,) = notes
    assert re.search(r"^down matrices are turned round, Q4_0 to Q4_0: .* numbers move by \d\.\d %$", note)


def test_a_merged_file_holds_what_the_model_held(made: Place, tmp_path: Path) -> None:
    """Values of four bits come back from Q8_0 within its own step, a sixtieth of a block's largest."""
    path = exact_sparse(**SIZES)[1].stored_as(GGMLType.Q4_0).write(tmp_path / "dense.gguf")
    merge(open_gguf(path), made.predictor, tmp_path / "merged.gguf", LoadEvents())
    before = open_gguf(path).tensors["blk.0.ffn_down.weight"].to_float32()
    after = open_gguf(tmp_path / "merged.gguf").tensors["blk.0.ffn_down_t.weight"].to_float32()
    assert np.abs(before.T - after).max() <= np.abs(before).max() / 60


@pytest.mark.parametrize("problem", ["itself", "sparse", "another model's predictors", "no folder"])
def test_what_cannot_be_merged_is_one_line(made: Place, dense: Path, tmp_path: Path, problem: str) -> None:
    source, folder, target = open_gguf(dense), made.predictor, tmp_path / "merged.gguf"
    expected = {
        "itself": "is the model itself",
        "sparse": "has predictors already",
        "another model's predictors": "another model",
        "no folder": "cannot read the predictors",
    }[problem]
    if problem == "itself":
        target = dense
    elif problem == "sparse":
        source = open_gguf(exact_sparse(**SIZES)[0].write(tmp_path / "sparse.gguf"))
    elif problem == "no folder":
        folder = tmp_path / "nowhere"
    else:
        source = open_gguf(exact_sparse(n_ff=224, rank=9)[1].write(tmp_path / "wide.gguf"))
    with pytest.raises(PowerInferError, match=expected) as caught:
        merge(source, folder, target, LoadEvents())
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "merged.gguf").exists()


@pytest.mark.parametrize(
    "name", ["llama-relu", "bamboo", "falcon-7b-relu", "falcon-40b-relu", "opt", "qwen2", "llama-biases"]
)
def test_every_architecture_merges(name: str, tmp_path: Path) -> None:
    """A merged file computes what its dense model does with the same predictors beside it."""
    tiny = tiny_model(name)
    pairs = [tuple(matrix.astype(np.float16).astype(np.float32) for matrix in pair) for pair in random_predictors(tiny)]
    folder = tmp_path / "predictor"
    folder.mkdir()
    for layer, (fc1, fc2) in enumerate(pairs):
        torch.save({"fc1.weight": torch.tensor(fc1), "fc2.weight": torch.tensor(fc2)}, folder / f"model_{layer}.pt")
    (folder / "config.json").write_text('{"sparse_threshold": 0.25}')
    source = tiny.file.open(tmp_path)
    merge(source, folder, tmp_path / "merged.gguf", LoadEvents())
    options = replace(ENGINE, n_ctx=64)
    merged = Engine.load(open_gguf(tmp_path / "merged.gguf"), options)
    beside = Engine.load(
        source, options, predictors=load_predictors(folder, 64, [tiny.file.tensors["blk.0.ffn_up.weight"].shape[0]] * 2)
    )
    check_logits(merged.logits(PROMPT), beside.logits(PROMPT))
    assert merged.stats.predicted == beside.stats.predicted < merged.stats.total


@pytest.mark.parametrize(
    ("offer", "words"),
    [
        (Offer(), "12 s of the 30 min of --time-budget; more time would buy nothing"),
        (Offer(100, 300, 1800), "ten minutes more would spare 1.0% of the FFNs' bytes; all 3.0%, which takes 30 min"),
    ],
)
def test_what_more_time_would_buy(monkeypatch: pytest.MonkeyPatch, offer: Offer, words: str) -> None:
    monkeypatch.setattr(stages, "layer_costs", lambda *_: Costs(1.0, 1.0, dense=5000.0))
    model: Any = SimpleNamespace(model=SimpleNamespace(layers=[None, None]), config=None)
    assert words in stages._offered(LayersMade([], offer, 12.0), TrainOptions(), model)


def test_a_half_measured_quality_is_kept(
    made: Place, dense: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, work, real = model_of(dense), tmp_path / "work", quality.chunk_losses
    whole = quality_stage(model, chunks_for(model), made.predictor)
    scored: list[int] = []

    def interrupted(*given: Any, **named: Any) -> Any:
        scored.append(len(scored))
        if len(scored) in (3, 8):
            raise KeyboardInterrupt
        return real(*given, **named)

    monkeypatch.setattr(quality, "chunk_losses", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            quality_stage(model, chunks_for(model), made.predictor, work, "a key")
    found = quality_stage(model, chunks_for(model), made.predictor, work, "a key")
    assert len(scored) == 4 + 4 + 2, "but for those that were interrupted, each chunk once a model"
    assert (found.dense, found.sparse, found.loss, found.error) == (whole.dense, whole.sparse, whole.loss, whole.error)
    assert not work.exists()
    quality.KeptLosses(work / "losses-dense.npz", "another").save([np.ones(3)])
    assert quality.KeptLosses(work / "losses-dense.npz", "a key").load() == []
