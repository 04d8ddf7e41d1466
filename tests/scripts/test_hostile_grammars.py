"""The hostile grammars and schemas of the soak: each is refused or answered, at a small cost, and none by accident."""

import time
from typing import Any

import pytest

from powerinfer_cli.sampling.forms import grammars_of
from powerinfer_cli.sampling.grammars.grammar import GrammarError, Grammars
from scripts.soaking.hostile_grammars import GRAMMARS, HOSTILE_GRAMMARS, SCHEMAS, TOOLS
from tests.sampling.constrained_texts import bundled

PATIENCE = 10  # seconds of this process, for what takes one at most


def cost(ask: Any) -> float:
    start, message = time.process_time(), ""
    try:
        ask()
    except GrammarError as error:
        message = str(error)
    assert "\n" not in message
    assert len(message) < 500
    return time.process_time() - start


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return grammars_of(bundled())


def test_all_are_in_the_soak() -> None:
    assert len(HOSTILE_GRAMMARS) == len(GRAMMARS) + len(SCHEMAS) + len(TOOLS)


@pytest.mark.parametrize("name", GRAMMARS)
def test_grammars(name: str, grammars: Grammars) -> None:
    assert len(GRAMMARS[name]) < 2 << 20
    assert cost(lambda: grammars.gbnf(GRAMMARS[name])) < PATIENCE


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas(name: str, grammars: Grammars) -> None:
    assert cost(lambda: grammars.json_schema(SCHEMAS[name])) < PATIENCE


@pytest.mark.parametrize("name", TOOLS)
def test_schemas_of_tools_are_never_refused(name: str, grammars: Grammars) -> None:
    assert cost(lambda: grammars.mended_schema(TOOLS[name], "here")) < PATIENCE
    text = grammars.mended_schema(TOOLS[name], "here")
    grammars.lark(f"start: %json {text}\n")
