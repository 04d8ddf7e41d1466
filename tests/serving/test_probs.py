import math

import pytest

from powerinfer_cli.serving.answers.probs import completion_logprobs, probabilities, token_text
from powerinfer_cli.serving.answers.timings import timings_body, usage_body
from powerinfer_cli.serving.tasks import Timings, TokenChance, TokenChances

CUT = TokenChance(5, b" caf\xc3", -0.5)
CHANCES = (
    TokenChances(CUT, (CUT, TokenChance(6, b"x", -math.inf))),
    TokenChances(TokenChance(7, b"\xa9", -1.0), (TokenChance(8, b"z", -0.25),)),
)


@pytest.mark.parametrize(
    ("piece", "text"),
    [
        (b"abc", "abc"),
        (b"", ""),
        ("é€😀".encode(), "é€😀"),
        (b"a\xc3", "a"),
        (b"a\xe2\x82", "a"),
        (b"a\xf0\x9f\x98", "a"),
        (b"\xa9", "\ufffd"),
        (b"\xff!", "\ufffd!"),
    ],
)
def test_a_character_that_is_cut_off_is_left_out(piece: bytes, text: str) -> None:
    assert token_text(piece) == text


def test_probabilities_before_sampling() -> None:
    first, second = probabilities(CHANCES, post_sampling=False)
    assert first == {
        "id": 5,
        "token": " caf",
        "bytes": [32, 99, 97, 102, 0xC3],
        "logprob": -0.5,
        "top_logprobs": [
            {"id": 5, "token": " caf", "bytes": [32, 99, 97, 102, 0xC3], "logprob": -0.5},
            {"id": 6, "token": "x", "bytes": [120], "logprob": -3.4028234663852886e38},
        ],
    }
    assert second["token"] == "\ufffd"


def test_probabilities_after_sampling() -> None:
    first, _ = probabilities(CHANCES, post_sampling=True)
    assert first["prob"] == pytest.approx(math.exp(-0.5))
    assert [other["id"] for other in first["top_probs"]] == [5]
    assert "logprob" not in first


def test_openais_four_lists() -> None:
    body = completion_logprobs(CHANCES, post_sampling=False, offset=10)
    assert body is not None
    assert body["tokens"] == [" caf", "\ufffd"]
    assert body["token_logprobs"] == [-0.5, -1.0]
    assert body["text_offset"] == [10, 14]
    assert body["top_logprobs"][1] == {"z": -0.25}
    assert body["content"] == probabilities(CHANCES, post_sampling=False)
    assert completion_logprobs((), post_sampling=False) is None


def test_timings_and_usage() -> None:
    assert timings_body(Timings(cache_n=4, prompt_n=10, prompt_ms=5.0, predicted_n=5, predicted_ms=8.0)) == {
        "cache_n": 4,
        "prompt_n": 10,
        "prompt_ms": 5.0,
        "prompt_per_token_ms": 0.5,
        "prompt_per_second": 2000.0,
        "predicted_n": 5,
        "predicted_ms": 8.0,
        "predicted_per_token_ms": 2.0,
        "predicted_per_second": 500.0,
    }
    nothing = timings_body(Timings(cache_n=4, prompt_n=0, prompt_ms=0.0, predicted_n=0, predicted_ms=0.0))
    assert nothing["prompt_per_second"] == nothing["predicted_per_second"] == nothing["predicted_per_token_ms"] == 0.0
    assert usage_body(10, 5, 4) == {
        "completion_tokens": 5,
        "prompt_tokens": 10,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
