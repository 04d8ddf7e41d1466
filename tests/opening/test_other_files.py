"""Files that are no models are named for what they are, though they hold no vocabulary either."""

from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli import open_model
from powerinfer_cli.errors import PowerInferError
from tests.helpers.model_file import ModelFile


@pytest.mark.parametrize(
    ("arch", "kind", "words"),
    [("llama", "adapter", "a LoRA adapter"), ("clip", "mmproj", "mmproj"), ("mamba", "model", "a recurrent or hybrid")],
)
def test_other_files_are_named(tmp_path: Path, arch: str, kind: str, words: str) -> None:
    path = tmp_path / "other.gguf"
    ModelFile(arch, {"general.type": kind}, {"x": np.ones(8, np.float32)}).write(path)
    with pytest.raises(PowerInferError, match=words):
        open_model(path)
