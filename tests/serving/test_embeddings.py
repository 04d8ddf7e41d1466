"""Vectors of texts: pooling and handlers, with a thread that answers from a script."""

import base64
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.runtime.pooling import Pool
from powerinfer_cli.serving.answers.embeddings import finished, normalised
from powerinfer_cli.serving.errors import context_exceeded
from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.tasks import EmbeddingTask, Failed, Task, Vectors
from tests.serving.fake_service import FakeModel, post

ROWS = np.array([[3.0, 4.0], [0.0, 2.0], [6.0, -8.0]], dtype=np.float32)


def script(task: Task) -> list[Any]:
    """A row for each token: its id, and its place."""
    assert isinstance(task, EmbeddingTask)
    rows = np.array([[token, place] for place, token in enumerate(task.prompt)], dtype=np.float32)
    return [Vectors(pooled(rows, task.pooling))]


def pooled(rows: np.ndarray, pooling: str, cuts: list[int] | None = None) -> np.ndarray:
    pool = Pool(pooling)
    for part in np.split(rows, cuts or []):
        pool.add(part)
    return pool.result


def ask(path: str, body: Any, pooling: str | None = "last", **changes: Any) -> Any:
    options = ServerOptions(embedding=True, pooling=pooling)
    response, _ = post(path, body, script, **{"options": options, **changes})
    return response


@pytest.mark.parametrize(("pooling", "expected"), [("mean", [3, -2 / 3]), ("cls", [3, 4]), ("last", [6, -8])])
def test_pooling(pooling: str, expected: list[float]) -> None:
    for cuts in ([], [1], [2], [1, 2]):
        rows = pooled(ROWS, pooling, cuts)
        assert finished(rows, pooling, -1) == pytest.approx(np.array([expected]))
        assert np.linalg.norm(finished(rows, pooling, 2)) == pytest.approx(1)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 99), max_size=5))
def test_a_mean_does_not_depend_on_where_a_text_was_cut(seed: int, cuts: list[int]) -> None:
    rows = np.random.default_rng(seed).standard_normal((100, 7), np.float32)
    whole = rows.mean(axis=0, dtype=np.float64)
    np.testing.assert_array_equal(pooled(rows, "mean", sorted(set(cuts)))[0], whole)


def test_without_pooling_rows_stay_as_they_are() -> None:
    np.testing.assert_array_equal(finished(pooled(ROWS, "none", [1]), "none", 2), ROWS)


def test_rows_without_end_are_refused() -> None:
    config = SimpleNamespace(n_embd=1 << 20, writes=True, pooling=None)
    error = ask("/embedding", {"content": [[5, 6]] * 9}, pooling="none", model=FakeModel(config=config))
    assert (error.status_code, "18874368 numbers" in error.text) == (400, True)
    assert ask("/embedding", {"content": [[5, 6]] * 8}, pooling="none", model=FakeModel(config=config)).is_success
    assert ask("/embedding", {"content": [[5, 6]] * 9}, pooling="mean", model=FakeModel(config=config)).is_success


def test_many_rows_are_written_as_few_are() -> None:
    prompts = [[5 + i, *range(6, 2800)] for i in range(20)]
    model = FakeModel(n_ctx_slot=4096)
    answer = ask("/embedding", {"content": prompts}, pooling="none", model=model)
    assert "content-length" not in answer.headers
    assert [one["index"] for one in answer.json()] == list(range(20))
    assert [one["embedding"][-1] for one in answer.json()] == [[2799.0, 2794.0]] * 20
    assert "content-length" in ask("/embedding", {"content": prompts[:1]}, pooling="mean", model=model).headers


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (-1, [3, -4]),
        (0, [3 / 4 * 32760, -32760]),
        (1, [3 / 7, -4 / 7]),
        (2, [0.6, -0.8]),
        (3, [3 / 91 ** (1 / 3), -4 / 91 ** (1 / 3)]),
        (2**31 - 1, [0.75, -1]),
    ],
)
def test_norms(kind: int, expected: list[float]) -> None:
    assert normalised(np.array([3.0, -4.0]), kind) == pytest.approx(np.array(expected))
    assert not normalised(np.zeros(2), kind).any()


def test_openais_form() -> None:
    body = ask("/v1/embeddings", {"input": ["Once", [5, 6, 7]], "model": "m"}).json()
    assert (body["object"], body["model"]) == ("list", "m")
    assert body["usage"] == {"prompt_tokens": 5, "total_tokens": 5}
    first, second = body["data"]
    assert (first["object"], first["index"], second["index"]) == ("embedding", 0, 1)
    assert second["embedding"] == pytest.approx([7 / math.hypot(7, 2), 2 / math.hypot(7, 2)])


def test_base64_holds_the_same_numbers() -> None:
    plain = ask("/v1/embeddings", {"input": "Once"}).json()["data"][0]["embedding"]
    encoded = ask("/v1/embeddings", {"input": "Once", "encoding_format": "base64"}).json()["data"][0]
    assert encoded["encoding_format"] == "base64"
    assert np.frombuffer(base64.b64decode(encoded["embedding"]), dtype="<f4").tolist() == plain


@pytest.mark.parametrize("path", ["/embedding", "/embeddings"])
def test_llama_servers_own_form(path: str) -> None:
    body = ask(path, {"content": [5, 6], "embd_normalize": -1}).json()
    assert body == [{"index": 0, "embedding": [[6.0, 1.0]]}]
    assert ask(path, {"input": ["x", [5, 6]]}, pooling="none").json()[1]["embedding"] == [[5.0, 0.0], [6.0, 1.0]]


def test_content_is_answered_in_llama_servers_form_everywhere() -> None:
    assert isinstance(ask("/v1/embeddings", {"content": "x"}).json(), list)


@pytest.mark.parametrize(
    "given",
    [
        "string",
        "",
        [12, 34, 56],
        [12, 34, "string", 56],
        [
            "a",
            [12],
            {"prompt_string": "b"},
            {"content": [{"type": "text", "text": "c"}, {"type": "text", "text": "d"}]},
        ],
        {"prompt_string": "string"},
        {"content": [{"type": "text", "text": "string"}]},
    ],
)
def test_texts_in_every_form(given: Any) -> None:
    several = isinstance(given, list) and not any(isinstance(one, int) for one in given)
    response = ask("/v1/embeddings", {"input": given})
    assert response.status_code == 200
    assert len(response.json()["data"]) == (len(given) if several else 1)


def test_parts_are_one_text() -> None:
    parts = {"content": [{"type": "text", "text": "hello "}, {"type": "text", "text": "world"}]}
    first, second = ask("/v1/embeddings", {"input": ["hello world", parts]}).json()["data"]
    assert first["embedding"] == second["embedding"]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": None},
        {"input": []},
        {"input": [[]]},
        {"input": {"content": "string"}},
        {"input": {"content": [{"type": "unknown"}]}},
        {"input": {"content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]}},
        {"input": "x", "encoding_format": "hex"},
        {"input": "x", "embd_normalize": -2},
        {"input": [-1]},
        {"input": "word " * 2000},
    ],
)
def test_what_has_no_vectors(body: Any) -> None:
    response = ask("/v1/embeddings", body)
    assert response.status_code == 400
    assert response.json()["error"]["message"]


def test_too_long_a_text_says_so() -> None:
    error = ask("/v1/embeddings", {"input": "word " * 2000}).json()["error"]
    assert "too large" in error["message"]
    assert error["type"] == "exceed_context_size_error"
    assert error["n_prompt_tokens"] > error["n_ctx"] == 512


def test_a_server_that_was_not_started_for_it() -> None:
    response = ask("/v1/embeddings", {"input": "x"}, options=ServerOptions())
    assert response.status_code == 501
    assert response.json()["error"] == {
        "code": 501,
        "message": "This server does not support embeddings. Start it with `--embeddings`",
        "type": "not_supported_error",
    }


def test_pooling_is_the_servers_or_the_models_or_none() -> None:
    response = ask("/v1/embeddings", {"input": "x"}, pooling=None)
    assert (response.status_code, "Pooling type 'none'" in response.text) == (400, True)
    model = FakeModel(config=SimpleNamespace(n_embd=2, writes=True, pooling="cls"))
    assert ask("/v1/embeddings", {"input": [5, 6], "embd_normalize": -1}, None, model=model).json()["data"][0][
        "embedding"
    ] == [5.0, 0.0]


def test_a_failure_is_answered_with_its_status() -> None:
    options = ServerOptions(embedding=True, pooling="last")
    failed = [Failed(context_exceeded(9, 8))]
    assert post("/v1/embeddings", {"input": "x"}, lambda task: failed, options=options)[0].status_code == 400
