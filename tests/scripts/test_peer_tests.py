"""llama.cpp's own tests with another program: the wrapper that they start, the stand-in, two runs side by side."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.hub.local import stored_models
from scripts.peer_suite.results import compared, read_outcomes
from scripts.peer_suite.stand_in import ROUTED, SHARPNESS, write_cache, write_stand_in
from scripts.peer_suite.wrapper import local_arguments, write_wrapper
from scripts.peer_tests import ROOT

JUNIT = """<testsuites><testsuite>
<testcase classname="unit.test_a" name="test_one" />
<testcase classname="unit.test_a" name="test_two[1]"><failure message="m">x
E   assert 1 == {value}
E    +  where 1 at 0x7f12
</failure></testcase>
<testcase classname="unit.test_a" name="test_three"><error message="first&#10;second" /></testcase>
<testcase classname="unit.test_a" name="test_four"><skipped /></testcase>
</testsuite></testsuites>"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--hf-repo", "a/b", "--hf-file", "c.gguf", "--port", "1"], ["--port", "1", "--model", "M"]),
        (["--offline", "-hf", "a/b"], ["--model", "M"]),
        (["--model", "own.gguf", "--hf-repo", "a/b"], ["--model", "own.gguf"]),
        (["--port", "1"], ["--port", "1"]),
    ],
)
def test_models_on_the_hub_become_the_stand_in(given: list[str], expected: list[str]) -> None:
    assert local_arguments(given, "M") == expected


def test_a_router_is_told_that_it_is_one() -> None:
    assert local_arguments(["--port", "1"], "M", "D") == ["--port", "1", "--models-dir", "D"]
    assert local_arguments(["-hf", "a/b"], "M", "D") == ["--model", "M"]
    assert local_arguments(["-hf", "a/b", "--reranking"], "M", "D", "R") == ["--reranking", "--model", "R"]
    assert local_arguments(["-hf", "a/b"], "M", "D", "R") == ["--model", "M"]


def test_the_hubs_cache_holds_the_stand_in_by_the_names_that_tests_ask_for(tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    write_cache(tmp_path / "hub", model)
    assert [one.name for one in stored_models([], tmp_path / "hub", print)] == sorted(ROUTED)


def test_the_wrapper_becomes_the_program(tmp_path: Path) -> None:
    wrapper = tmp_path / "server"
    write_wrapper(wrapper, ["/bin/echo", "first"], Path("/stand-in"), sys.executable, ROOT)
    done = subprocess.run([str(wrapper), "-hf", "a/b", "--jinja"], capture_output=True, text=True, check=True)
    assert done.stdout == "first --jinja --model /stand-in\n"


def test_the_stand_in_is_a_dense_llama_that_does_the_same(tmp_path: Path) -> None:
    write_stand_in(tmp_path / "model.gguf")
    model = open_gguf(tmp_path / "model.gguf")
    assert not model.sparse
    assert "tokenizer.chat_template" not in model.metadata
    assert "tokenizer.ggml.fim_pre_token_id" in model.metadata
    assert not [name for name in model.metadata["tokenizer.ggml.tokens"] if name.startswith("<|")]
    assert not [name for name in model.tensors if ".fc1." in name or ".fc2." in name or "down_t" in name]
    values = np.linspace(-1, 1, 101)
    silu = SHARPNESS * values / (1 + np.exp(-SHARPNESS * values)) / SHARPNESS
    np.testing.assert_allclose(silu, np.maximum(values, 0), atol=0.005)


def test_two_runs_side_by_side(tmp_path: Path) -> None:
    files = [tmp_path / "ours.xml", tmp_path / "theirs.xml"]
    for file, value in zip(files, ("2", "3"), strict=True):
        file.write_text(JUNIT.replace("{value}", value))
    ours, theirs = map(read_outcomes, files)
    assert ours["test_a::test_two[1]"].reason == "assert 1 == 2 / +  where 1 at 0x..."
    report = compared(ours, theirs)
    assert "ours: 1 passed, 2 failed, 1 skipped" in report
    assert "## Failed by us alone (0)" in report
    assert "## Failed by both, differently (1)\n- `test_a::test_two[1]`" in report
    assert "## Failed alike (1)\n- `test_a::test_three`: first second" in report
    assert "## Failed by us alone (2)" in compared(ours, {})
