"""Who gets an engine that drafts."""

import logging

import pytest

from powerinfer_cli.drafting import DraftingEngine
from powerinfer_cli.drafting.pace import worth_trying
from powerinfer_cli.opening import bundled_model, open_model


def test_a_draft_model_that_cannot_pay_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is it loaded: a model of the same size takes as long to read a text as it could ever spare."""
    file = bundled_model()
    with caplog.at_level(logging.WARNING, "powerinfer_cli"), open_model(file, n_ctx=64, model_draft=file) as model:
        assert not isinstance(model.engine, DraftingEngine)
    assert "reads 100% of the bytes" in caplog.text
    assert [worth_trying(cost) for cost in (0.0, 0.3, 0.6, 1.0)] == [True, True, False, False]
