from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerinfer_cli.sampling.candidates import Candidates, from_logits
from powerinfer_cli.sampling.dry import Breakers, TokenBreakers, _repeat_lengths, dry
from tests.sampling.helpers import of, probs_by_id


def token_breakers(
    breakers: Sequence[str], pieces: Sequence[bytes], encode: Callable[[bytes], Sequence[int]]
) -> TokenBreakers:
    return TokenBreakers(breakers, pieces.__getitem__, len(pieces), encode)


def penalties_of(
    recent: list[int], n_vocab: int = 10, breakers: Breakers | None = None, **options: float
) -> list[float]:
    """What DRY takes off each token's logit."""
    settings = {"multiplier": 1.0, "base": 2.0, "allowed_length": 2, **options}
    start = from_logits(np.zeros(n_vocab, np.float32))
    left = dry(start, np.array(recent, np.intp), breakers or {}, **settings)  # type: ignore[arg-type]
    assert left.ids.tolist() == start.ids.tolist()
    return (0.0 - left.logits).tolist()


def single(*tokens: int) -> Breakers:
    return {token: frozenset([()]) for token in tokens}


@pytest.mark.parametrize(
    ("recent", "multiplier", "allowed", "breakers", "expected"),
    [
        ([0, 1], 1.0, 2, {}, [0.25] * 4),
        ([0, 1, 2, 0, 1], 1.0, 2, {}, [0.296923, 0.296923, 0.109232, 0.296923]),
        ([0, 1, 3, 4, 0, 1], 1.0, 2, single(3), [0.2] * 5),
        ([0, 1, 2, 0, 1], 2.0, 2, {}, [0.241818, 0.241818, 0.032727, 0.241818, 0.241818]),
        ([0, 1, 2, 3, 4, 0, 1], 1.0, 4, {}, [0.2] * 5),
    ],
)
def test_published_vectors(
    recent: list[int], multiplier: float, allowed: int, breakers: Breakers, expected: list[float]
) -> None:
    start = of(*[1 / len(expected)] * len(expected))
    left = dry(start, np.array(recent), breakers, multiplier=multiplier, base=1.1, allowed_length=allowed)
    assert probs_by_id(left) == pytest.approx(dict(enumerate(expected)), abs=1e-6)


def test_each_token_pays_for_the_longest_repetition_it_would_continue() -> None:
    # a b c c b c y a b c with a=0 b=1 c=2 y=3. "abc" came before c, "c" before b, "bc" before y.
    assert penalties_of([0, 1, 2, 2, 1, 2, 3, 0, 1, 2], 4, allowed_length=1) == [0, 1, 4, 2]


def test_longer_repetitions_cost_more() -> None:
    # 0 1 2 three times: the last six tokens occurred before, followed by 0; 0.8 * 2**(6 - 2) = 12.8
    assert penalties_of([0, 1, 2] * 3, multiplier=0.8)[:4] == pytest.approx([12.8, 0, 0, 0])


def test_breakers_end_a_repetition() -> None:
    recent = [9, 0, 1, 2, 9, 0, 1]
    assert penalties_of(recent)[2] == 2.0  # "9 0 1" is three long
    assert penalties_of(recent, breakers=single(9))[2] == 1.0  # "0 1" is two
    assert penalties_of(recent, breakers=single(1)) == [0.0] * 10  # nothing since


def test_a_breaker_is_not_penalised_itself() -> None:
    assert penalties_of([0, 1, 9, 0, 1])[9] == 1.0
    assert penalties_of([0, 1, 9, 0, 1], breakers=single(9)) == [0.0] * 10


def test_breakers_of_several_tokens() -> None:
    breakers: Breakers = {8: frozenset([(9,), (9, 7)])}
    assert penalties_of([8, 9, 0, 8, 9])[0] == 1.0
    assert penalties_of([8, 9, 0, 8, 9], breakers=breakers) == [0.0] * 10
    # Only the head: 8 is not followed by 9.
    assert penalties_of([1, 8, 0, 1, 8], breakers=breakers)[0] == 1.0
    # Nothing follows the last 8 yet, whatever the oldest token is.
    assert penalties_of([9, 1, 8, 0, 1, 8], breakers=breakers)[0] == 1.0
    # The longest tail counts: "8 9 7" leaves "1 2", "8 9" would leave "7 1 2".
    recent = [7, 1, 2, 3, 8, 9, 7, 1, 2]
    assert penalties_of(recent, breakers=breakers)[3] == 1.0
    assert penalties_of(recent, breakers={8: frozenset([(9,)])})[3] == 2.0


def test_limits_of_the_penalty() -> None:
    assert penalties_of([0] * 10, base=1.0)[0] == 1.0
    # 1000**12 is the last power below e**88.7, float32's limit.
    assert penalties_of([0] * 40, base=1000.0)[0] == pytest.approx(1e36, rel=1e-6)
    assert penalties_of([3, 4], allowed_length=0)[:5] == [0, 0, 0, 0, 1]


def test_off() -> None:
    start = from_logits(np.zeros(3, np.float32))
    assert dry(start, np.array([0, 0, 0, 0]), {}, multiplier=0.0, base=2.0, allowed_length=2) is start
    assert dry(start, np.array([0, 0]), {}, multiplier=1.0, base=2.0, allowed_length=2) is start


def test_tokens_that_are_no_candidates_are_passed_over() -> None:
    start = Candidates(np.array([5, 0]), np.array([1, 1], np.float32))
    left = dry(start, np.array([0, 1, 2, 0, 1]), {}, multiplier=1.0, base=2.0, allowed_length=2)
    assert left.logits.tolist() == [1, 1]


def test_breakers_become_tokens() -> None:
    pieces = [b"\n", b"x\n\n", b"the", b" th", b"a the e", b"nd", b"the end.", b"t", b"het"]
    tails = {b" end": [10, 11], b"e end": [12], b"nd": [5], b"he end": [13]}
    found = token_breakers(["\n", "the end", ""], pieces, lambda text: tails[text])
    assert found == {
        0: {()},
        1: {()},
        2: {(10, 11)},
        3: {(12,)},
        4: {(5,)},
        6: {()},
        7: {(13,)},
        8: {(13,)},
    }


def test_a_piece_can_begin_a_breaker_in_two_ways() -> None:
    # "aa" ends with the breaker's first one or two letters.
    found = token_breakers(["aaab"], [b"aa"], lambda text: [len(text)])
    assert found == {0: {(3,), (2,)}}


BYTES = st.text("ab\udcff", min_size=1, max_size=4)


@given(st.lists(BYTES, max_size=6), st.lists(BYTES, max_size=3))
def test_breakers_become_tokens_as_by_the_definition(words: list[str], breakers: list[str]) -> None:
    pieces = [word.encode("utf-8", "surrogateescape") for word in words]
    expected: dict[int, set[tuple[int, ...]]] = {}
    for breaker in (text.encode("utf-8", "surrogateescape") for text in breakers):
        for token, piece in enumerate(pieces):
            if breaker in piece:
                expected.setdefault(token, set()).add(())
            else:
                for n in range(1, len(breaker)):
                    if piece.endswith(breaker[:n]):
                        expected.setdefault(token, set()).add(tuple(breaker[n:]))
    assert token_breakers(breakers, pieces, list) == expected


def test_long_breakers_are_cut() -> None:
    pieces = [b"a" * 40, b"a" * 39]
    found = token_breakers(["a" * 50], pieces, lambda text: [1] * 25 * len(text))
    assert found[0] == {()}
    assert (1,) * 20 in found[1]


def naive_penalties(recent: list[int], n_vocab: int, allowed: int) -> list[float]:
    """DRY by its definition: every earlier place whose preceding tokens are the latest ones."""
    longest: dict[int, int] = {}
    for place in range(1, len(recent)):
        length = 0
        while length < place and recent[place - 1 - length] == recent[-1 - length]:
            length += 1
        if length >= allowed:
            longest[recent[place]] = max(length, longest.get(recent[place], 0))
    return [1.5 ** (longest[token] - allowed) if token in longest else 0.0 for token in range(n_vocab)]


@given(st.lists(st.integers(0, 2), max_size=40), st.integers(0, 4))
def test_repetitions_are_found_as_by_the_definition(recent: list[int], allowed: int) -> None:
    expected = naive_penalties(recent, 3, allowed) if len(recent) > allowed else [0.0] * 3
    assert penalties_of(recent, 3, base=1.5, allowed_length=allowed) == pytest.approx(expected, rel=1e-5)


def naive_lengths(backwards: list[int], limit: int) -> list[int]:
    """How far each suffix equals the beginning, compared one by one."""
    lengths = [0] * len(backwards)
    for age in range(1, len(backwards)):
        while (
            lengths[age] < limit
            and age + lengths[age] < len(backwards)
            and backwards[age + lengths[age]] == backwards[lengths[age]]
        ):
            lengths[age] += 1
    return lengths


@given(st.lists(st.integers(0, 2), min_size=1, max_size=8), st.integers(1, 8), st.lists(st.integers(0, 2), max_size=6))
@pytest.mark.parametrize("limit", [0, 1, 3, 7, 100])
def test_lengths_of_repetitions_within_repetitions(limit: int, part: list[int], times: int, rest: list[int]) -> None:
    for history in (part * times + rest, rest + part * times):
        assert _repeat_lengths(np.array(history, np.intp), limit).tolist() == naive_lengths(history, limit)


def test_one_token_all_along_costs_no_more_than_its_length() -> None:
    recent = np.zeros(32768, np.intp)
    began = time.process_time()
    left = dry(from_logits(np.zeros(2, np.float32)), recent, {}, multiplier=1.0, base=1.0, allowed_length=2)
    assert time.process_time() - began < 1.0  # compared one by one: 4 s and more
    assert left.logits.tolist() == [-1.0, 0.0]
