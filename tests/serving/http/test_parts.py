"""JSON in parts is the JSON that it would be at once."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerinfer_cli.serving.http.bodies import json_bytes
from powerinfer_cli.serving.http.parts import Later, answer_in_parts, each, json_list, json_parts

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def later(value: Any) -> Any:
    """Every list and every object behind the first becomes one that is written later."""
    if isinstance(value, list):
        return [Later(lambda one=one: json_parts(later(one))) for one in value]
    if isinstance(value, dict):
        return {key: Later(lambda one=one: json_parts(later(one))) for key, one in value.items()}
    return value


@given(VALUES)
def test_in_parts_or_at_once(value: Any) -> None:
    assert b"".join(json_parts(value)) == json_bytes(value)
    assert b"".join(json_parts(later(value))) == json_bytes(value)


@given(st.lists(VALUES, max_size=9), st.integers(1, 4))
def test_lists_and_objects(values: list[Any], size: int) -> None:
    assert b"".join(json_list(iter(values), size)) == json_bytes(values)
    named = {str(i): value for i, value in enumerate(values)}
    assert b"".join(json_list(named.items(), size, b"{}")) == json_bytes(named)


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(TypeError, match="set is not for JSON"):
        b"".join(json_parts({"a": {1}}))


@pytest.mark.parametrize("n", [3, 30])
def test_each(n: int) -> None:
    made: list[int] = []

    def make(i: int) -> dict[str, int]:
        made.append(i)
        return {"i": i}

    found = each(make, range(n))
    assert made == ([] if n > 8 else list(range(n)))
    assert json.loads(b"".join(json_parts(found))) == [{"i": i} for i in range(n)]


@pytest.mark.parametrize("large", [False, True])
def test_a_small_answer_has_a_length(large: bool) -> None:
    answer = asyncio.run(answer_in_parts({"a": [1]}, large=large))
    assert (answer.body, answer.headers["content-length"]) == (b'{"a":[1]}', "9")
    assert answer.headers["content-type"] == "application/json; charset=utf-8"


def test_a_large_answer_is_made_while_it_is_sent() -> None:
    made = 0

    def part(i: int) -> str:
        nonlocal made
        made += 1
        return "x" * 10_000

    async def main() -> bytes:
        answer = await answer_in_parts(each(part, range(200)), large=True)
        assert "content-length" not in answer.headers
        assert 20 < made < 40
        sent: list[bytes] = []

        async def send(message: Any) -> None:
            sent.append(message.get("body", b""))

        async def receive() -> Any:
            await asyncio.Event().wait()

        await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        return b"".join(sent)

    assert json.loads(asyncio.run(main())) == ["x" * 10_000] * 200
    assert made == 200
