"""Several models, and several quantisations of one, in one folder."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType, open_gguf
from powerinfer_cli.opening.companions import find_companions
from powerinfer_cli.placement import are_kin, find_statistics, kin_numbers, solved_folder
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from solver.owner import Owner, owner_of, results_folder
from solver.profile import ActiveRule
from solver.stages import Place, SolverModel, profile_stage, text_chunks
from solver.state import read_state
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.model_file import ModelFile

IDS = [int(i) for i in np.random.default_rng(4).integers(0, 80, 2 * 256)]


def profiled(file: ModelFile, path: Path, notes: list[str]) -> SolverModel:
    """The model with statistics where `results_folder` wants them."""
    model = SolverModel(open_gguf(file.write(path)), EngineOptions(n_threads=1), LoadEvents(note=notes.append))
    profile_stage(model, text_chunks(model, IDS, None), Place(results_folder(model.gguf)), ActiveRule())
    return model


def retrained(file: ModelFile) -> ModelFile:
    """With other weights."""
    return file.with_tensors({name: data[::-1] for name, data in file.tensors.items() if "ffn_up" in name})


@pytest.fixture(scope="module")
def file() -> ModelFile:
    return exact_sparse(n_ff=192, rank=9)[1]


def test_two_models_keep_apart(file: ModelFile, tmp_path: Path) -> None:
    notes: list[str] = []
    other = retrained(file)
    one, two = (profiled(made, tmp_path / f"{name}.gguf", notes) for made, name in ((file, "one"), (other, "two")))
    assert not notes
    assert find_statistics(one.gguf.path) == tmp_path / "activation"
    assert find_statistics(two.gguf.path) == tmp_path / "two.solved" / "activation"
    assert results_folder(one.gguf) == tmp_path
    state = read_state(tmp_path)
    assert owner_of(state, "activation", one.gguf) is Owner.SAME
    assert owner_of(state, "activation", two.gguf) is Owner.OTHER
    assert owner_of(state, "predictor", two.gguf) is Owner.UNKNOWN


def test_another_models_statistics_are_not_used(file: ModelFile, tmp_path: Path) -> None:
    notes: list[str] = []
    profiled(file, tmp_path / "one.gguf", notes)
    sparse = retrained(exact_sparse(n_ff=192, rank=9)[0])
    gguf = open_gguf(sparse.write(tmp_path / "two.gguf"))
    model = SolverModel(gguf, EngineOptions(n_threads=1), LoadEvents())
    assert find_companions(gguf, model, None, notes.append).statistics is None
    assert notes == [f"activation statistics are not used: {tmp_path / 'activation'} is of another model"]


def test_another_quantisation_is_accepted_and_said(file: ModelFile, tmp_path: Path) -> None:
    notes: list[str] = []
    first = profiled(file, tmp_path / "model.f32.gguf", notes)
    again = profiled(file.stored_as(GGMLType.Q8_0), tmp_path / "model.q8_0.gguf", notes)
    assert again.fingerprint != first.fingerprint
    assert are_kin(kin_numbers(again.gguf), kin_numbers(first.gguf))
    folder = tmp_path / "activation"
    assert notes == [f"{folder}: activation statistics kept (512 tokens; of another quantisation of this model)"]
    assert results_folder(again.gguf) == solved_folder(again.gguf.path), "what is made of it is its own"
    with_predictors = open_gguf(exact_sparse(n_ff=192, rank=9)[0].write(tmp_path / "sparse.gguf"))
    assert are_kin(kin_numbers(with_predictors), kin_numbers(first.gguf))
    assert not are_kin(kin_numbers(open_gguf(retrained(file).write(tmp_path / "x.gguf"))), kin_numbers(first.gguf))
    assert not are_kin([], [])
    assert not are_kin([0.0], [0.0])
