"""JSON from outside: what is no JSON number is refused, though Python's json takes it."""

import pytest

from powerinfer_cli.json_text import read_json


@pytest.mark.parametrize("text", ["NaN", "[Infinity]", '{"a": -Infinity}', "1e400", '{"a": [-1e999]}', "", "{", "'a'"])
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_json(text)


def test_what_is_json_is_read() -> None:
    assert read_json(b'{"a": [1.5, -2e3, 9223372036854775807, null], "b": "NaN"}') == {
        "a": [1.5, -2000.0, 9223372036854775807, None],
        "b": "NaN",
    }
    assert read_json("1e-400") == 0.0
    assert read_json('"a\nb"', strict=False) == "a\nb"
