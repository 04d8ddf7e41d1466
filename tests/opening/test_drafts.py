"""Who gets an engine that drafts."""

import logging
from pathlib import Path

import pytest

from powerinfer_cli.commands.shared.flags.drafts import DraftFlags
from powerinfer_cli.drafting import DraftingEngine
from powerinfer_cli.drafting.pace import worth_trying
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.opening import bundled_model, open_model
from tests.helpers.tiny_models import tiny_model


def test_a_draft_model_that_cannot_pay_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is it loaded: a model of the same size takes as long to read a text as it could ever spare."""
    file = bundled_model()
    with caplog.at_level(logging.WARNING, "powerinfer_cli"), open_model(file, n_ctx=64, model_draft=file) as model:
        assert not isinstance(model.engine, DraftingEngine)
    assert "reads 100% of the bytes" in caplog.text
    assert [worth_trying(cost) for cost in (0.0, 0.3, 0.6, 1.0)] == [True, True, False, False]


def test_a_draft_model_without_a_vocabulary(tmp_path: Path) -> None:
    small = tiny_model("llama-relu").file.write(tmp_path / "small.gguf")
    with pytest.raises(
        PowerInferError, match=r"the draft model .*small\.gguf cannot draft for .*: it has no vocabulary$"
    ):
        open_model(bundled_model(), n_ctx=64, model_draft=small)


def test_a_draft_model_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is fetched, with the token that the model is fetched with; but not where flags make no sense."""
    asked: list[tuple[str, object]] = []

    def fetch(repo: str, watch: object, *, token: str | None) -> Path:
        asked.append((repo, token))
        return Path("here.gguf")

    monkeypatch.setattr("powerinfer_cli.hub.fetch_model", fetch)
    assert DraftFlags(hf_draft="owner/name:Q4_0").options("secret").model == Path("here.gguf")
    assert asked == [("owner/name:Q4_0", "secret")]
    for flags in (
        DraftFlags(hf_draft="o/n", draft_max=1, draft_min=2),
        DraftFlags(hf_draft="o/n", model_draft=Path("a")),
    ):
        with pytest.raises(UsageError, match=r"^--draft-min 2 is more than|^-md and -hfd exclude each other"):
            flags.options()
    assert len(asked) == 1
