from pathlib import Path
from typing import Any

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGUFError, open_gguf
from tests.gguf_io import raw

SCALARS = [
    (raw.U8, 255, int),
    (raw.I8, -128, int),
    (raw.U16, 65535, int),
    (raw.I16, -32768, int),
    (raw.U32, 2**32 - 1, int),
    (raw.I32, -(2**31), int),
    (raw.F32, 0.5, float),
    (raw.BOOL, True, bool),
    (raw.BOOL, False, bool),
    (raw.U64, 2**64 - 1, int),
    (raw.I64, -(2**63), int),
    (raw.F64, 1e300, float),
]


def read(folder: Path, *entries: bytes, **options: Any) -> dict[str, Any]:
    with open_gguf(raw.write(folder, raw.build(entries, **options))) as file:
        return dict(file.metadata)


@pytest.mark.parametrize(("kind", "value", "python"), SCALARS)
def test_scalars(tmp_path: Path, kind: int, value: Any, python: type) -> None:
    read_back = read(tmp_path, raw.entry("key", kind, value), raw.entry("after", raw.U8, 1))["key"]
    assert type(read_back) is python
    assert read_back == value


@pytest.mark.parametrize("text", ["", "plain", "été \u2581 \U0001f600", "a\0b"])
def test_string(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, raw.entry("key", raw.STRING, raw.string(text)), raw.entry("b", raw.U8, 1)) == {
        "key": text,
        "b": 1,
    }


@pytest.mark.parametrize(("kind", "value", "_python"), SCALARS)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_arrays_of_numbers(tmp_path: Path, kind: int, value: Any, _python: type, count: int) -> None:
    items = read(tmp_path, raw.entry("key", raw.ARRAY, raw.array(kind, [value] * count)))["key"]
    assert items.dtype.itemsize == raw.struct.calcsize(raw.PACKING[kind])
    assert items.dtype.kind == ("b" if kind == raw.BOOL else raw.np.dtype(raw.PACKING[kind]).kind)
    np.testing.assert_array_equal(items, np.full(count, value, items.dtype), strict=True)


def test_array_of_strings(tmp_path: Path) -> None:
    packed = raw.array(raw.STRING, [raw.string(text) for text in ("a", "", "\u2581été")])
    assert read(tmp_path, raw.entry("key", raw.ARRAY, packed))["key"] == ["a", "", "\u2581été"]
    assert read(tmp_path, raw.entry("key", raw.ARRAY, raw.array(raw.STRING, [])))["key"] == []


def nested(depth: int) -> bytes:
    inner = raw.array(raw.U8, [7])
    for _ in range(depth - 1):
        inner = raw.array(raw.ARRAY, [inner])
    return inner


def test_arrays_within_arrays(tmp_path: Path) -> None:
    pair = raw.array(raw.ARRAY, [raw.array(raw.U8, [1, 2]), raw.array(raw.STRING, [raw.string("x")])])
    first, second = read(tmp_path, raw.entry("key", raw.ARRAY, pair))["key"]
    assert first.tolist() == [1, 2]
    assert second == ["x"]
    assert read(tmp_path, raw.entry("key", raw.ARRAY, nested(4)))["key"][0][0][0].tolist() == [7]


@pytest.mark.parametrize("depth", [5, 1000, 100_000])
def test_arrays_too_deep(tmp_path: Path, depth: int) -> None:
    inner = (raw.u32(raw.ARRAY) + raw.u64(1)) * (depth - 1) + raw.array(raw.U8, [7])
    with pytest.raises(GGUFError, match="'key' has arrays within arrays more than 4 deep"):
        read(tmp_path, raw.entry("key", raw.ARRAY, inner))


@pytest.mark.parametrize("kind", [raw.U8, raw.F64, raw.BOOL, raw.STRING, raw.ARRAY])
@pytest.mark.parametrize("count", [2, 2**31, 2**32, 2**61, 2**63, 2**64 - 1])
def test_array_claims_more_than_the_file_has(tmp_path: Path, kind: int, count: int) -> None:
    with pytest.raises(
        GGUFError,
        match=f"claims {count} (numbers|strings|arrays) in the metadata value 'key', but (the file|at most)",
    ):
        read(tmp_path, raw.entry("key", raw.ARRAY, raw.array(kind, [], count) + b"\1"))


@pytest.mark.parametrize("length", [6, 2**31, 2**63, 2**64 - 9, 2**64 - 1])
def test_string_claims_more_than_the_file_has(tmp_path: Path, length: int) -> None:
    with pytest.raises(GGUFError, match=f"value 'key' needs {length} bytes, but the file ends 5 bytes further on"):
        read(tmp_path, raw.entry("key", raw.STRING, raw.u64(length) + b"12345"))
    with pytest.raises(
        GGUFError,
        match=f"string 1 of the metadata value 'key' is {length} bytes long, but the file ends 5 bytes further on",
    ):
        read(
            tmp_path,
            raw.entry("key", raw.ARRAY, raw.array(raw.STRING, [raw.string("a"), raw.u64(length) + b"12345"])),
        )


def test_strings_that_end_with_the_file(tmp_path: Path) -> None:
    packed = raw.array(raw.STRING, [raw.string("a" * 20)], count=3)
    with pytest.raises(GGUFError, match="the file ends before string 1 of the metadata value 'key': cut short"):
        read(tmp_path, raw.entry("key", raw.ARRAY, packed))


@pytest.mark.parametrize("bad", [b"\xff", b"ab\xc3", b"\xed\xa0\x80", b"\xc0\x80"])
def test_not_utf8(tmp_path: Path, bad: bytes) -> None:
    with pytest.raises(GGUFError, match="the metadata value 'key' is not UTF-8"):
        read(tmp_path, raw.entry("key", raw.STRING, raw.string(bad)))
    with pytest.raises(GGUFError, match="string 1 of the metadata value 'key' is not UTF-8"):
        read(tmp_path, raw.entry("key", raw.ARRAY, raw.array(raw.STRING, [raw.string("a"), raw.string(bad)])))
    with pytest.raises(GGUFError, match="the key of metadata entry 0 is not UTF-8"):
        read(tmp_path, raw.entry(bad, raw.U8, 1))


def test_not_utf8_names_the_byte(tmp_path: Path) -> None:
    content = raw.build([raw.entry("key", raw.STRING, raw.string(b"ok\xff"))])
    with pytest.raises(GGUFError, match=rf"\(at byte {content.index(0xFF)}\)"):
        open_gguf(raw.write(tmp_path, content))


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([raw.entry("a", raw.U8, 1), raw.entry("a", raw.U8, 1)], "the metadata key 'a' is there twice"),
        ([raw.entry("", raw.U32, 1)], "metadata entry 0 has an empty key"),
        ([raw.entry("a" * 65536, raw.U8, 1)], "is 65536 bytes long, but at most 65535 are allowed"),
        ([raw.string("a") + raw.u32(13) + bytes(8)], "'a' has the type 13, which GGUF does not know"),
        ([raw.entry("a", raw.ARRAY, raw.u32(99) + raw.u64(0))], "'a' has the type 99, which GGUF does not know"),
        ([raw.string("a") + raw.u32(raw.BOOL) + b"\2"], "'a' is a bool, but its byte is 2"),
        ([raw.entry("a", raw.ARRAY, raw.u32(raw.BOOL) + raw.u64(2) + b"\1\3")], "'a' is an array of bools, but a byte"),
    ],
)
def test_bad_entries(tmp_path: Path, entries: list[bytes], says: str) -> None:
    with pytest.raises(GGUFError, match=says):
        read(tmp_path, *entries)


@pytest.mark.parametrize("count", [2, 2**32, 2**63, raw.HUGE])
def test_more_entries_claimed_than_fit(tmp_path: Path, count: int) -> None:
    with pytest.raises(
        GGUFError, match=f"claims {count} metadata entries, but (the file ends 14 bytes further on|at most 65536 are)"
    ):
        read(tmp_path, raw.entry("a", raw.U8, 1), n_entries=count)


def test_hostile_names_are_escaped_and_cut(tmp_path: Path) -> None:
    key = "\x1b[2J\n\u202e" + "x" * 60_000
    with pytest.raises(GGUFError) as caught:
        read(tmp_path, raw.entry(key, raw.U8, 1), raw.entry(key, raw.U8, 1))
    message = str(caught.value)
    assert message.isprintable()
    assert r"'\x1b[2J\n\u202exx" in message
    assert len(message) < 300 + len(str(tmp_path))
