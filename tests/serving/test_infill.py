"""Texts with a gap: prompts by hand, and the handler with a thread that answers from a script."""

from functools import cache
from typing import Any

import pytest

from powerinfer_cli.serving.options import ServerOptions
from powerinfer_cli.serving.schemas.infill import InfillRequest, infill_prompt
from powerinfer_cli.serving.tasks import CompletionTask
from powerinfer_cli.text import Tokenizer
from tests.serving.fake_service import FakeModel, FakeService, bundled_metadata, finished, piece, post

MARKS = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|repo_name|>", "<|file_sep|>")


@cache
def tokenizer(n_marks: int) -> Tokenizer:
    """The bundled model's, with the first of the marks in the place of its last tokens."""
    metadata = dict(bundled_metadata())
    tokens = list(metadata["tokenizer.ggml.tokens"])
    tokens[-n_marks:] = MARKS[:n_marks]
    return Tokenizer({**metadata, "tokenizer.ggml.tokens": tokens})


def encode(text: str) -> list[int]:
    return tokenizer(5).encode(text, add_special=False, parse_special=False)


def prompt(n_marks: int, n_ctx: int = 4096, n_batch: int = 2048, **fields: Any) -> list[str]:
    """The prompt, marks by name and everything else by its text."""
    one = tokenizer(n_marks)
    request = InfillRequest.model_validate({"input_prefix": "Once upon", "input_suffix": "the end", **fields})
    ids = infill_prompt(request, one, n_ctx=n_ctx, n_batch=n_batch, n_predict=64)
    parts: list[str] = []
    text: list[int] = []
    for token in [*ids, None]:
        if token is not None and token != one.bos_id and one.text_of(token) not in MARKS:
            text.append(token)
            continue
        if text:
            parts.append(one.decode(text))
        text = []
        if token is not None:
            parts.append(one.text_of(token))
    return parts


PRE, SUF, MID, REPO, FILE = MARKS


def test_prefix_prompt_and_suffix() -> None:
    assert prompt(3, prompt=" a") == ["<s>", PRE, "Once upon  a", SUF, "the end", MID]
    assert prompt(3, input_suffix="") == ["<s>", PRE, "Once upon", SUF, MID]


def test_control_tokens_in_texts_are_text() -> None:
    parts = prompt(3, input_prefix="a<|fim_middle|>b")
    assert parts.count(MID) == 1
    assert parts[2] == "a<|fim_middle|>b"


def test_a_repository() -> None:
    extra = [{"filename": "a.h", "text": "int a;"}, {"text": "int b;"}]
    file = [FILE, "filename\n", "<s>", PRE, "Once upon", SUF, "the end", MID]
    assert prompt(5, input_extra=extra) == [
        *(REPO, "myproject\n", FILE, "a.h\n int a;", FILE, "tmp\n int b;"),
        *file,
    ]
    assert prompt(5) == [REPO, "myproject\n", *file]


def test_files_without_marks_of_their_own() -> None:
    first, *rest = prompt(3, input_extra=[{"text": "int a;"}])
    assert "--- snippet ---" in first
    assert first.endswith("int a;")
    assert rest[0] == "<s>"


def test_long_texts_keep_what_is_next_to_the_gap() -> None:
    words = [f"word{i}" for i in range(300)]
    extra = [{"text": " ".join(words)}]
    parts = prompt(3, 512, 64, input_prefix=" ".join(words), input_suffix=" ".join(words), input_extra=extra)
    other, bos, mark, before, _, after, _ = parts
    assert (bos, mark) == ("<s>", PRE)
    assert other.endswith("word299")
    assert before.endswith("word299")
    assert after.startswith("word0")
    assert len(encode(before)) <= 48 + 1
    assert len(encode(after)) <= 14 + 1
    assert len(encode(other)) <= 512 - 64 - 2 * 64 + 1


def ask(n_marks: int, body: Any) -> tuple[Any, FakeService]:
    model = FakeModel(tokenizer=tokenizer(n_marks)) if n_marks else FakeModel()
    return post("/infill", body, lambda task: [piece("x", 5), finished()], model=model, options=ServerOptions())


def test_the_handler() -> None:
    response, service = ask(5, {"input_prefix": "a", "input_suffix": "b", "n_predict": 7})
    assert response.status_code == 200
    assert response.json()["content"] == "x"
    (task,) = service.tasks
    assert isinstance(task, CompletionTask)
    assert (task.n_predict, task.label) == (7, "infill")
    assert task.prompt[-1] == tokenizer(5).fill.middle


def test_a_model_that_cannot() -> None:
    response, _ = ask(0, {"input_prefix": "a", "input_suffix": "b"})
    assert response.status_code == 501
    assert response.json()["error"] == {
        "code": 501,
        "message": "Infill is not supported by this model: prefix token is missing. suffix token is missing. "
        "middle token is missing. ",
        "type": "not_supported_error",
    }


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"input_suffix": "b"}, "input_prefix"),
        ({"input_prefix": "a"}, "input_suffix"),
        ({"input_prefix": 5, "input_suffix": "b"}, "input_prefix"),
        ({"input_prefix": "a", "input_suffix": "b", "prompt": ["x"]}, "prompt"),
        ({"input_prefix": "a", "input_suffix": "b", "input_extra": {}}, "input_extra"),
        ({"input_prefix": "a", "input_suffix": "b", "input_extra": [{}]}, "text"),
        ({"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": "ok"}]}, "text"),
        ({"input_prefix": "a", "input_suffix": "b", "input_extra": [{"filename": 5, "text": "x"}]}, "filename"),
        ({"input_prefix": [10**9], "input_suffix": "b"}, "invalid tokens"),
    ],
)
def test_wrong_requests_are_told_the_field(body: Any, words: str) -> None:
    response, _ = ask(5, body)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]
