"""One file of the table-driven model for all tests here."""

from pathlib import Path

import pytest

from tests.helpers.word_model import word_model


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a model that writes known words; see tests/helpers/word_model.py."""
    path: Path = tmp_path_factory.mktemp("words") / "words.gguf"
    return str(word_model().write(path))
