"""Who gets an engine that drafts."""

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from powerinfer_cli.commands.shared.flags.drafts import DraftFlags
from powerinfer_cli.drafting import DraftingEngine
from powerinfer_cli.drafting.pace import worth_trying
from powerinfer_cli.errors import PowerInferError, UsageError
from powerinfer_cli.gguf_io import GGUFFile, open_gguf
from powerinfer_cli.opening import bundled_model, open_model
from powerinfer_cli.opening.drafts import differing_vocabularies
from powerinfer_cli.runtime.cpu.buffers import Buffers, make_buffers
from tests.helpers.tiny_models import tiny_model

N_EMBD = 64  # of the tiny model


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


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"tokenizer.ggml.pre": "qwen2"}, None),  # which the other does not tell
        ({"tokenizer.ggml.model": "gpt2"}, "tokenizer.ggml.model is 'gpt2', not 'llama'"),
        ({"tokenizer.ggml.tokens": ["a", "b"]}, "it has 2 tokens, not 3"),
        ({"tokenizer.ggml.tokens": ["a", "c", "b"]}, "token 1 is 'c', not 'b'"),
    ],
)
def test_a_draft_model_of_another_vocabulary(changes: dict[str, object], said: str | None) -> None:
    known = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a", "b", "c"]}
    large, small = (cast(GGUFFile, SimpleNamespace(metadata=one)) for one in (known, known | changes))
    assert differing_vocabularies(large, small) == said


def test_a_draft_model_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names it, though the model itself is there by then."""
    file = tiny_model("llama-relu").file
    words = {key: value for key, value in open_gguf(bundled_model()).metadata.items() if key.startswith("tokenizer.")}
    n = len(words["tokenizer.ggml.tokens"])
    ends = {name: np.resize(file.tensors[name], (n, N_EMBD)) for name in ("token_embd.weight", "output.weight")}
    small = replace(file, metadata=file.metadata | words).with_tensors(ends).write(tmp_path / "small.gguf")

    def buffers(n_embd: int, *rest: Any) -> Buffers:
        if n_embd == N_EMBD:
            raise MemoryError
        return make_buffers(n_embd, *rest)

    monkeypatch.setattr("powerinfer_cli.runtime.cpu.side.make_buffers", buffers)
    with pytest.raises(PowerInferError, match=r"^the draft model .*small\.gguf: no memory for the model") as error:
        open_model(bundled_model(), n_ctx=64, model_draft=small)
    assert "\n" not in str(error.value)


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
