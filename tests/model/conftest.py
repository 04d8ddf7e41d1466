"""Small models to be spoilt."""

import pytest

from tests.helpers.kernels.sparse_reference import random_predictors
from tests.helpers.model_file import ModelFile
from tests.helpers.tiny_models import tiny_model


@pytest.fixture(scope="session")
def llama() -> ModelFile:
    return tiny_model("llama").file


@pytest.fixture(scope="session")
def sparse_llama() -> ModelFile:
    tiny = tiny_model("llama-relu")
    return tiny.file.with_metadata(hidden_activation=None).sparsified(random_predictors(tiny))


@pytest.fixture(scope="session")
def opt() -> ModelFile:
    return tiny_model("opt").file
