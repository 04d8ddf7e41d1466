"""One file of the table-driven model for all tests here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.word_model import word_model


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The path of a model that writes known words; see tests/helpers/word_model.py."""
    path: Path = tmp_path_factory.mktemp("words") / "words.gguf"
    return str(word_model().write(path))


@pytest.fixture
def movable() -> Iterator[None]:
    """Afterwards this thread may run where it could before: an engine may have pinned it."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)
