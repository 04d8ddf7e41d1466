"""Known models' sizes, in files of holes."""

from dataclasses import replace
from pathlib import Path

import pytest

from powerinfer_cli.model import load_model
from powerinfer_cli.opening import open_model_file
from scripts.synthetic import shapes


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen3-30b-a3b", 29.9),
        ("gpt-oss-20b", 19.8),
        ("glm-4.5-air", 105.6),
        ("llama-3.3-70b", 68.45),
        ("gpt-oss-120b", 115.7),
        ("qwen3-235b-a22b", 233.9),
        ("llama-3.1-405b", 401.65),
    ],
)
def test_sizes_of_known_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, billions: float) -> None:
    """Parameters but for embeddings and head. Nothing of it lies on the disk."""
    shape, file_type = shapes.SHAPES[name]
    monkeypatch.setitem(shapes.SHAPES, name, (replace(shape, vocab=320), file_type))
    path = tmp_path / "m.gguf"
    shapes.write_shape(path, name)
    load_model(open_model_file(path))
    assert path.stat().st_size > 5e9 > 1000 * 512 * path.stat().st_blocks
    whole = sum(tensor.n_elements for tensor in open_model_file(path).tensors.values())
    assert whole / 1e9 == pytest.approx(billions, abs=0.15)
