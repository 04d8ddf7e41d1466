"""A model of any stored type computes what a float32 model of its dequantised weights computes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType

from powerinfer_cli.gguf_io import GGMLType, dequantize
from tests.helpers.exact_sparse import exact_sparse
from tests.helpers.kernels.matrices import random_rows, weight_types
from tests.helpers.model_file import ModelFile
from tests.helpers.rounding import check_logits

WRITABLE = [kind for kind in weight_types() if kind in set(GGMLQuantizationType)]  # known to the gguf package too
IDS = [3, 61, 0, 17, 63, 8, 30, 30, 5]


def retyped(model: ModelFile, kind: GGMLType) -> tuple[ModelFile, ModelFile]:
    """The model with random matrices of a type, and the same in float32."""
    stored, plain = {}, {}
    for seed, (name, data) in enumerate(model.tensors.items()):
        if data.ndim == 2:
            stored[name] = random_rows(kind, *data.shape, seed=seed)
            plain[name] = dequantize(stored[name], kind)
    return replace(model.with_tensors(stored), types=dict.fromkeys(stored, kind)), model.with_tensors(plain)


def logits(model: ModelFile, folder: Path, *, resident: bool) -> np.ndarray:
    engine = model.engine(folder, reference=True, resident=resident)
    return np.concatenate([engine.logits(IDS[:6]), np.stack([engine.decode(i) for i in IDS[6:]])])


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("sparse", [True, False])
def test_stored_types(tmp_path: Path, kind: GGMLType, sparse: bool) -> None:
    models = exact_sparse(n_embd=256, n_ff=256, n_layer=1, rank=128, n_vocab=64)
    stored, plain = retyped(models[0 if sparse else 1], kind)
    kept = logits(stored, tmp_path, resident=True)
    assert np.isfinite(kept).all()
    assert kept.std() > 0.1
    check_logits(kept, logits(plain, tmp_path, resident=True))
    np.testing.assert_array_equal(logits(stored, tmp_path, resident=False), kept)


def test_vectors_may_be_of_other_types(tmp_path: Path) -> None:
    """llama.cpp keeps norms in float32; a file that does not is read all the same."""
    _, dense = exact_sparse(n_layer=1)
    rounded = dense.with_tensors({"output_norm.weight": np.full(64, 1.5, np.float32)})
    half = replace(rounded, types={"output_norm.weight": GGMLType.F16})
    np.testing.assert_array_equal(logits(half, tmp_path, resident=True), logits(rounded, tmp_path, resident=True))
