"""The record of what was made how, and the directories that it speaks of."""

import json
import pickletools
import zipfile
from pathlib import Path

import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model import load_predictors
from solver.predictor import PredictorReport, TrainedPredictor
from solver.predictor.files import publish, write_layer
from solver.state import read_state

MADE = {"model": "a", "text": "b", "options": {"recall": 0.95, "rank": None}}


def test_what_was_made_is_known_again(tmp_path: Path) -> None:
    state = read_state(tmp_path / "new").with_stage("one", MADE, {"tokens": 3})
    for known in (state, read_state(tmp_path / "new")):
        assert known.fits("one", MADE)
        assert known.found("one") == {"tokens": 3}
        assert not known.fits("two", MADE)
        assert known.stale("one", MADE) is None
        assert known.stale("two", MADE) is None
        assert known.found("two") == {}


def test_it_says_in_what_a_stage_differs(tmp_path: Path) -> None:
    state = read_state(tmp_path).with_stage("one", MADE, {})
    assert state.stale("one", MADE | {"text": "c"}) == "text"
    assert state.stale("one", MADE | {"text": "c", "options": {}}) == "text, options"
    assert state.stale("one", {"model": "a"}) == "the way it is made"
    assert not state.fits("one", MADE | {"options": {"recall": 0.9, "rank": None}})


def test_stages_do_not_disturb_each_other(tmp_path: Path) -> None:
    read_state(tmp_path).with_stage("one", MADE, {})
    read_state(tmp_path).with_stage("two", {"model": "z"}, {})
    state = read_state(tmp_path)
    assert state.fits("one", MADE)
    assert state.fits("two", {"model": "z"})


@pytest.mark.parametrize(
    "content",
    ["", "[", "[]", "null", '{"version": 2, "stages": {}}', '{"version": 1, "stages": {"one": 3}}', "[" * 100_000],
)
def test_a_damaged_record_counts_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "solver.json").write_text(content)
    state = read_state(tmp_path)
    assert not state.stages
    assert state.with_stage("one", MADE, {}).fits("one", MADE)
    assert json.loads((tmp_path / "solver.json").read_text())["version"] == 1


def trained(rank: int, value: float = 1.0) -> TrainedPredictor:
    report = PredictorReport(1.0, 1.0, 0.5, 0.5, rank)
    return TrainedPredictor(torch.full((rank, 4), value), torch.full((6, rank), value), report)


def test_a_directory_is_what_the_engine_takes(tmp_path: Path) -> None:
    for layer in range(12):
        write_layer(tmp_path, layer, trained(layer + 1))
    publish(tmp_path, tmp_path / "out", 12, {"sparse_threshold": 0.5})
    predictors = load_predictors(tmp_path / "out", 4, [6] * 12)
    assert [layer and layer.fc1.shape for layer in predictors.layers] == [(rank, 4) for rank in range(1, 13)]
    assert predictors.threshold == 0.5


def test_layers_that_run_dense_are_named(tmp_path: Path) -> None:
    for layer in range(3):
        write_layer(tmp_path, layer, trained(2))
    publish(tmp_path, tmp_path / "out", 3, {})
    (tmp_path / "model_1.pt").unlink()
    publish(tmp_path, tmp_path / "out", 3, {"sparse_threshold": 0.5}, dense_layers=[1])
    predictors = load_predictors(tmp_path / "out", 4, [6] * 3)
    assert predictors.dense_layers == (1,)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings == {"sparse_threshold": 0.5, "dense_layers": [1]}


def test_layers_of_a_deeper_model_go(tmp_path: Path) -> None:
    for layer in range(4):
        write_layer(tmp_path, layer, trained(2))
    publish(tmp_path, tmp_path / "out", 4, {})
    publish(tmp_path, tmp_path / "out", 2, {})
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model_0.pt", "model_1.pt"]


def test_numbers_that_are_none_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(PowerInferError, match="the predictor of layer 3 is not finite"):
        write_layer(tmp_path, 3, trained(2, float("nan")))
    assert not list(tmp_path.iterdir())


def test_a_missing_layer_leaves_the_old_directory(tmp_path: Path) -> None:
    write_layer(tmp_path, 0, trained(2))
    publish(tmp_path, tmp_path / "out", 1, {"old": True})
    with pytest.raises(PowerInferError, match="cannot be written: No such file"):
        publish(tmp_path, tmp_path / "out", 2, {"new": True})
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"old": True}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["config.json", "model_0.pt"]


def test_the_originals_unpickler_knows_all_that_a_layers_file_names(tmp_path: Path) -> None:
    """convert.py unpickles with a short list of its own, and wants one pickle in the archive."""
    write_layer(tmp_path, 0, trained(3))
    with zipfile.ZipFile(tmp_path / "model_0.pt") as archive:
        pickles = [name for name in archive.namelist() if name.endswith(".pkl")]
        assert len(pickles) == 1
        raw = archive.read(pickles[0])
    named = {value for op, value, _ in pickletools.genops(raw) if op.name in ("GLOBAL", "STACK_GLOBAL")}
    known = {"torch._utils _rebuild_tensor_v2", "torch FloatStorage", "collections OrderedDict"}
    assert named <= known
    assert "torch._utils _rebuild_tensor_v2" in named
