"""A disk that is full at some of the files that solving writes: one line, nothing half-written, work goes on later."""

import errno
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.runtime import EngineOptions, LoadEvents
from solver.predictor import PredictorOptions, Quality, RankOptions, TrainOptions
from solver.profile import ActiveRule
from solver.sparsify import SparsifyWishes, sparsify
from solver.stages import Place, SolverModel, profile_stage, text_chunks
from tests.helpers.tiny_models import N_VOCAB, tiny_model

IDS = [int(i) for i in np.random.default_rng(4).integers(0, N_VOCAB, 4 * 128)]
OPTIONS = TrainOptions(PredictorOptions(), RankOptions(rank=32))


def solved(model: Path, out: Path) -> Quality:
    solving = SolverModel(open_gguf(model), EngineOptions(n_threads=1, reference=True), LoadEvents())
    chunks, place = text_chunks(solving, IDS, None), Place(out)
    profile_stage(solving, chunks, place, ActiveRule())
    return sparsify(solving, chunks, place, SparsifyWishes(), OPTIONS).quality


class _Said(Exception):
    """In one line."""


def said(model: Path, out: Path) -> Quality:
    try:
        return solved(model, out)
    except PowerInferError as error:
        if "No space left on device" not in str(error) or "\n" in str(error):
            raise
        raise _Said from error


def test_a_disk_that_is_full_at_any_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run fails at the first file that none before has failed at, and goes on where the one before stopped."""
    model = tiny_model("llama-relu").file.write(tmp_path / "model.gguf")
    out, real = tmp_path / "out", Path.replace
    failed: list[str] = []
    while True:

        def full(path: Path, target: Path) -> Path:
            if target.name not in failed:
                failed.append(target.name)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(path, target)

        monkeypatch.setattr(Path, "replace", full)
        found = None
        with suppress(_Said):
            found = said(model, out)
        assert not list(out.rglob("*.tmp"))
        if found is not None:
            break
        assert len(failed) < 40
    monkeypatch.setattr(Path, "replace", real)
    whole = solved(model, tmp_path / "whole")
    assert found == whole
    assert {"activation.npz", "firing.npz", "model_0.pt", "losses-sparse.npz"} <= set(failed), failed
    assert not (out / ".solver-work").exists()
