import json
import math

import numpy as np
import pytest

from powerinfer_cli.serving.answers.probs import completion_logprobs, probabilities, token_text, told
from powerinfer_cli.serving.answers.timings import timings_body, usage_body
from powerinfer_cli.serving.http.parts import json_parts
from powerinfer_cli.serving.tasks import Likeliest, TextPiece, Timings, TokenChance, TokenChances, weight
from tests.serving.fake_service import timings

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


PIECES = [b"a", b"caf\xc3", b"\xa9", b'"', b"a"]


def chances(n: int, times: int) -> list[TokenChances]:
    logprobs = [-math.inf if i == 7 else -i / 8 for i in range(n)]
    top = Likeliest(range(n), logprobs, lambda token: PIECES[token % len(PIECES)])
    return [TokenChances(top[0], top)] * times


@pytest.mark.parametrize("post_sampling", [False, True])
@pytest.mark.parametrize(("n", "times"), [(5, 2), (600, 1), (1500, 1), (40, 50)])
def test_many_are_written_as_few_are(n: int, times: int, post_sampling: bool) -> None:
    some = chances(n, times)
    wanted = probabilities(some, post_sampling)
    assert json.loads(b"".join(json_parts(told(some, post_sampling)))) == wanted
    body = completion_logprobs(some, post_sampling)
    assert body is not None
    found = json.loads(b"".join(json_parts(body)))
    assert found["content"] == wanted
    texts = {token_text(one.piece): max(one.logprob, -3.4028234663852886e38) for one in some[0].top}
    assert found["top_logprobs"] == [texts] * times
    assert max(map(len, json_parts(told(some, post_sampling)))) < 64 * 1024 or n * times <= 1024


def test_the_likeliest_are_small() -> None:
    logprobs = np.arange(1000.0)
    top = Likeliest(range(1000), logprobs, lambda token: b"x")
    logprobs[:] = 0.0
    assert (len(top), top[999], len(list(top))) == (1000, TokenChance(999, b"x", 999.0), 1000)
    assert [one.id for one in top[2:4]] == [2, 3]
    assert weight(TextPiece("x", (1,), (TokenChances(top[0], top),), timings())) == 251
