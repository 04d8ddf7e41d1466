"""Memory goes back to the system when requests are over."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from powerinfer_cli.serving import tidying


def test_what_has_grown_is_tidied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    sizes = iter([100 << 20, 90 << 20, 91 << 20, 200 << 20, 120 << 20, 121 << 20, None])  # two looks where it is tidied
    monkeypatch.setattr(tidying, "EVERY_S", 0.0)
    monkeypatch.setattr(tidying, "resident_memory", lambda: next(sizes))
    monkeypatch.setattr(tidying, "return_memory", lambda: done.append("memory"))
    service: Any = SimpleNamespace(
        state="ready",
        model=SimpleNamespace(
            tokenizer=SimpleNamespace(forget_words=lambda: done.append("words")),
            grammars=SimpleNamespace(keep_few=lambda: done.append("grammars")),
        ),
    )
    asyncio.run(tidying.tidying(service))
    assert done == ["words", "grammars", "memory"] * 2


def test_nothing_is_tidied_while_the_model_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([100 << 20, None])
    monkeypatch.setattr(tidying, "EVERY_S", 0.0)
    monkeypatch.setattr(tidying, "resident_memory", lambda: next(sizes))
    service: Any = SimpleNamespace(state="loading")
    asyncio.run(tidying.tidying(service))
