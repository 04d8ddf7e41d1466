from typing import Any

import pytest

from powerinfer_cli.serving.errors import APIError
from powerinfer_cli.serving.prompts import detokenize, is_costly, tokenize_prompts
from tests.serving.fake_service import bundled_tokenizer

TOKENIZER = bundled_tokenizer()
ONCE = tuple(TOKENIZER.encode("Once upon"))
BARE = ONCE[1:]  # without BOS


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Once upon", [ONCE]),
        ("", [ONCE[:1]]),
        (list(ONCE), [ONCE]),
        ([5, 6], [(5, 6)]),
        ([5, "Once upon"], [(5, *BARE)]),
        (["Once upon", 5], None),
        (["Once upon", [5, 6], {"prompt_string": "Once upon"}], [ONCE, (5, 6), ONCE]),
        ([["Once upon", 7], "Once upon"], [(*ONCE, 7), ONCE]),
        ({"prompt_string": ["Once upon", 9]}, [(*ONCE, 9)]),
        ({"prompt_string": "Once upon", "multimodal_data": None}, [ONCE]),
        ([[]], [()]),
    ],
)
def test_prompts_in_every_form(value: Any, expected: list[tuple[int, ...]] | None) -> None:
    if expected is None:  # mixed, beginning with text: one prompt, with BOS
        expected = [(*ONCE, 5)]
    assert tokenize_prompts(value, TOKENIZER) == expected


def test_bos_comes_only_where_it_is_asked_for() -> None:
    assert tokenize_prompts("Once upon", TOKENIZER, add_special=False) == [BARE]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], '"prompt" must not be empty'),
        (None, '"prompt" elements must be'),
        (5, '"prompt" elements must be'),
        (True, '"prompt" elements must be'),
        ({}, '"prompt" elements must be'),
        ({"text": "x"}, '"prompt" elements must be'),
        ([True, False], '"prompt" elements must be'),
        ([1, None], '"prompt" elements must be'),
        ([1, 2.5], '"prompt" elements must be'),
        ([1, True], '"prompt" elements must be'),
        ([[[1]]], '"prompt" elements must be'),
        ([["x", ["y"]]], '"prompt" elements must be'),
        ([-1], "invalid tokens"),
        ([1, TOKENIZER.vocab_size], "invalid tokens"),
        ([[1, 2], [2**70]], "invalid tokens"),
        ({"prompt_string": "x", "multimodal_data": ["aGk="]}, "multimodal"),
        (["x"] * 5, "at most 4 prompts, got 5: .*--queue"),
    ],
)
def test_what_is_no_prompt(value: Any, words: str) -> None:
    with pytest.raises(APIError, match=words) as caught:
        tokenize_prompts(value, TOKENIZER, most=4)
    assert caught.value.status == 400


def test_a_prompt_is_told_with_its_control_tokens() -> None:
    assert detokenize(ONCE, TOKENIZER) == "<s> Once upon"


@pytest.mark.parametrize(
    ("value", "costly"),
    [("x" * 100, False), ("x" * 5000, True), (["x" * 3000, {"prompt_string": "x" * 3000}], True), ([1] * 9000, True)],
)
def test_long_prompts_are_known_before_they_are_read(value: Any, costly: bool) -> None:
    assert is_costly(value) is costly
