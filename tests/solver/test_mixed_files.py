"""Predictors for some layers, with a model as one file; and back to a dense one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.model import load_predictors
from powerinfer_cli.runtime import Engine, EngineOptions, LoadEvents
from solver.dense import write_dense
from solver.merge import merge
from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.predictor_files import save_predictors
from tests.helpers.rounding import check_logits
from tests.helpers.tiny_models import PROMPT, tiny_model

OPTIONS = EngineOptions(n_ctx=64, n_threads=1, type_k="f32", type_v="f32")


@pytest.mark.parametrize("name", ["llama-relu", "llama", "opt"])
def test_merged_and_back(tmp_path: Path, name: str) -> None:
    tiny = tiny_model(name)
    source = open_gguf(tiny.file.write(tmp_path / "dense.gguf"))
    folder = save_predictors(tmp_path / "p", [None, random_predictors(tiny)[1]], dtype=torch.float16)
    merge(source, folder, tmp_path / "merged.gguf", LoadEvents())
    merged = open_gguf(tmp_path / "merged.gguf")
    assert merged.sparse
    assert merged.get("powerinfer.dense_layers", list) == [0]
    assert "blk.0.fc1.weight" not in merged.tensors
    assert "blk.0.ffn_down.weight" in merged.tensors
    predictors = load_predictors(folder, 64, [len(tiny.file.tensors["blk.0.ffn_up.weight"])] * 2)
    beside = Engine.load(source, OPTIONS, predictors=predictors).logits(PROMPT)
    found = Engine.load(merged, OPTIONS).logits(PROMPT)
    assert np.abs(beside - tiny.reference).max() > 0.1
    check_logits(found, beside)
    write_dense(merged, tmp_path / "back.gguf")
    check_logits(Engine.load(open_gguf(tmp_path / "back.gguf"), OPTIONS).logits(PROMPT), tiny.reference)


@pytest.mark.parametrize("name", ["llama-relu", "llama"])
def test_no_layer_has_a_predictor(tmp_path: Path, name: str) -> None:
    source = open_gguf(tiny_model(name).file.write(tmp_path / "dense.gguf"))
    folder = save_predictors(tmp_path / "p", [None, None])
    with pytest.raises(PowerInferError, match="no layer has a predictor: there is nothing to merge"):
        merge(source, folder, tmp_path / "merged.gguf", LoadEvents())
