"""One file a case for the whole session: transformers builds, the tests of every file below read."""

from pathlib import Path

import pytest

from powerinfer_cli.gguf_io import GGUFFile, open_gguf
from tests.helpers.tiny_models import CASES, TinyModel, tiny_model


@pytest.fixture(scope="session", params=CASES)
def tiny(request: pytest.FixtureRequest) -> TinyModel:
    return tiny_model(request.param)


@pytest.fixture(scope="session")
def gguf(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> GGUFFile:
    path: Path = tmp_path_factory.mktemp(tiny.name) / "tiny.gguf"
    return open_gguf(tiny.file.write(path))
