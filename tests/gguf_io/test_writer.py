import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.gguf_io import GGMLType, GGUFError, Strings, open_gguf, write_gguf

WEIGHTS = np.linspace(-2, 2, 3 * 64, dtype=np.float32).reshape(3, 64)

VALUES: dict[str, tuple[Any, gguf.GGUFValueType]] = {
    "bool": (True, gguf.GGUFValueType.BOOL),
    "int": (5, gguf.GGUFValueType.UINT32),
    "int.top": (2**32 - 1, gguf.GGUFValueType.UINT32),
    "int.long": (2**32, gguf.GGUFValueType.UINT64),
    "int.longest": (2**64 - 1, gguf.GGUFValueType.UINT64),
    "int.minus": (-1, gguf.GGUFValueType.INT32),
    "int.minus.long": (-(2**31) - 1, gguf.GGUFValueType.INT64),
    "float": (0.5, gguf.GGUFValueType.FLOAT32),
    "float.inf": (float("inf"), gguf.GGUFValueType.FLOAT32),
    "str": ("été \U0001f600", gguf.GGUFValueType.STRING),
    "str.empty": ("", gguf.GGUFValueType.STRING),
    "np.str": (np.str_("text"), gguf.GGUFValueType.STRING),
    "np.bool": (np.bool_(True), gguf.GGUFValueType.BOOL),
    "np.uint8": (np.uint8(200), gguf.GGUFValueType.UINT8),
    "np.int8": (np.int8(-100), gguf.GGUFValueType.INT8),
    "np.uint16": (np.uint16(60000), gguf.GGUFValueType.UINT16),
    "np.int16": (np.int16(-30000), gguf.GGUFValueType.INT16),
    "np.uint32": (np.uint32(5), gguf.GGUFValueType.UINT32),
    "np.int32": (np.int32(5), gguf.GGUFValueType.INT32),
    "np.uint64": (np.uint64(5), gguf.GGUFValueType.UINT64),
    "np.int64": (np.int64(5), gguf.GGUFValueType.INT64),
    "np.float32": (np.float32(0.1), gguf.GGUFValueType.FLOAT32),
    "np.float64": (np.float64(0.1), gguf.GGUFValueType.FLOAT64),
}
ARRAYS: dict[str, tuple[Any, gguf.GGUFValueType]] = {
    "strings": (["a", "", "été"], gguf.GGUFValueType.STRING),
    "ints": ([1, -2, 3], gguf.GGUFValueType.INT32),
    "ints.long": ([1, 2**40], gguf.GGUFValueType.INT64),
    "floats": ([0.5, -1.5], gguf.GGUFValueType.FLOAT32),
    "bools": ([True, False], gguf.GGUFValueType.BOOL),
    **{
        f"array.{dtype}": (np.array([0, 1, 1], dtype), gguf.GGUFValueType[name])
        for dtype, name in {
            "bool": "BOOL",
            "uint8": "UINT8",
            "int8": "INT8",
            "uint16": "UINT16",
            "int16": "INT16",
            "uint32": "UINT32",
            "int32": "INT32",
            "uint64": "UINT64",
            "int64": "INT64",
            "float32": "FLOAT32",
            "float64": "FLOAT64",
        }.items()
    },
}


def write(path: Path, *, sparse: bool = False, **parts: Any) -> Path:
    write_gguf(path, arch="llama", metadata=parts.get("metadata", {}), tensors=parts.get("tensors", []), sparse=sparse)
    return path


def test_metadata_is_read_back_by_both_readers(tmp_path: Path) -> None:
    metadata = {key: value for key, (value, _) in (VALUES | ARRAYS).items()}
    path = write(tmp_path / "m.gguf", metadata=metadata)
    with open_gguf(path) as file:
        assert list(file.metadata) == ["general.architecture", *metadata]
        for key, value in metadata.items():
            found = file.metadata[key]
            if isinstance(found, np.ndarray):
                np.testing.assert_array_equal(found, np.asarray(value, found.dtype), strict=True)
            else:
                assert found == value
    fields = gguf.GGUFReader(path).fields
    for key, (_, kind) in VALUES.items():
        assert fields[key].types == [kind]
    for key, (_, kind) in ARRAYS.items():
        assert fields[key].types == [gguf.GGUFValueType.ARRAY, kind]
    assert fields["general.architecture"].contents() == "llama"


def test_tensors_are_read_back_by_both_readers(tmp_path: Path) -> None:
    kinds = [GGMLType.F32, GGMLType.F16, GGMLType.BF16, GGMLType.Q4_0, GGMLType.Q8_0, GGMLType.Q5_1]
    tensors = [(kind.name, WEIGHTS, kind) for kind in kinds]
    path = write(tmp_path / "m.gguf", tensors=tensors)
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with open_gguf(path) as file:
        assert list(file.tensors) == [kind.name for kind in kinds]
        for kind in kinds:
            ours = file.tensors[kind.name]
            assert (ours.type, ours.shape) == (kind, WEIGHTS.shape)
            assert ours.data.tobytes() == theirs[kind.name].data.tobytes()
            assert np.abs(ours.to_float32() - WEIGHTS).max() < 0.3


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [(24, np.int8), (25, np.int16), (26, np.int32), (27, np.int64), (28, np.float64), (1, np.float16), (0, np.float64)],
)
def test_plain_arrays(tmp_path: Path, kind: int, dtype: type) -> None:
    numbers = np.arange(-6, 6).astype(dtype).reshape(3, 4)
    path = write(tmp_path / "m.gguf", tensors=[("t", numbers, GGMLType(kind))])
    with open_gguf(path) as file:
        tensor = file.tensors["t"]
        assert tensor.shape == (3, 4)
        stored = tensor.rows().view(np.float32 if kind == 0 else dtype)
        np.testing.assert_array_equal(stored, numbers)


def test_bytes_of_a_type_go_in_as_they_are(tmp_path: Path) -> None:
    stored = np.random.default_rng(1).integers(0, 256, (2, 3, 2 * 210), np.uint8)
    path = write(tmp_path / "m.gguf", tensors=[("t", stored, GGMLType.Q6_K), ("after", WEIGHTS, GGMLType.F32)])
    with open_gguf(path) as file:
        assert file.tensors["t"].shape == (2, 3, 512)
        assert file.tensors["t"].data.tobytes() == stored.tobytes()
        np.testing.assert_array_equal(file.tensors["after"].to_float32(), WEIGHTS)


def test_transposed_and_empty_arrays(tmp_path: Path) -> None:
    tensors = [("t", WEIGHTS.T, GGMLType.F32), ("none", np.empty((0, 32), np.float32), GGMLType.Q4_0)]
    with open_gguf(write(tmp_path / "m.gguf", tensors=tensors)) as file:
        np.testing.assert_array_equal(file.tensors["t"].to_float32(), WEIGHTS.T)
        assert file.tensors["none"].shape == (0, 32)


def test_sparse_differs_in_the_magic_only(tmp_path: Path) -> None:
    tensors = [("t", WEIGHTS, GGMLType.F32)]
    dense = write(tmp_path / "d.gguf", tensors=tensors).read_bytes()
    sparse = write(tmp_path / "s.gguf", tensors=tensors, sparse=True).read_bytes()
    assert (dense[:4], sparse[:4]) == (b"GGUF", b"PWRI")
    assert dense[4:] == sparse[4:]


@pytest.mark.parametrize("alignment", [8, np.uint32(64), 4096])
def test_alignment(tmp_path: Path, alignment: int) -> None:
    tensors = [(name, WEIGHTS[0, :3], GGMLType.F32) for name in "ab"]
    path = write(tmp_path / "m.gguf", metadata={"general.alignment": alignment}, tensors=tensors)
    with open_gguf(path) as file:
        assert file.metadata["general.alignment"] == alignment
        np.testing.assert_array_equal(file.tensors["b"].to_float32(), WEIGHTS[0, :3])
    assert [tensor.data_offset % alignment for tensor in gguf.GGUFReader(path).tensors] == [0, 0]


def test_the_architecture_may_be_said_twice_but_not_contradicted(tmp_path: Path) -> None:
    with open_gguf(write(tmp_path / "m.gguf", metadata={"general.architecture": "llama"})) as file:
        assert dict(file.metadata) == {"general.architecture": "llama"}
    with pytest.raises(GGUFError, match=r"general\.architecture is 'opt', but the architecture is 'llama'"):
        write(tmp_path / "m.gguf", metadata={"general.architecture": "opt"})


def failing() -> Iterator[tuple[str, npt.NDArray[Any], GGMLType]]:
    yield "good", WEIGHTS, GGMLType.F32
    raise OSError(28, "No space left on device")


BAD_PARTS: list[tuple[dict[str, Any], str]] = [
    ({"metadata": {"": 1}}, "the metadata key '' must have 1 to 65535 bytes"),
    ({"metadata": {"k": 2**64}}, "'k' does not fit into 64 bits"),
    ({"metadata": {"k": -(2**63) - 1}}, "'k' does not fit into 64 bits"),
    ({"metadata": {"k": [2**63]}}, "'k' does not fit into 64 bits"),
    ({"metadata": {"k": 1e39}}, "'k' does not fit into a float32"),
    ({"metadata": {"k": [1e39]}}, "'k' does not fit into a float32"),
    ({"metadata": {"k": []}}, "the metadata array 'k' is empty"),
    ({"metadata": {"k": np.empty(0, np.int32)}}, "the metadata array 'k' is empty"),
    ({"metadata": {"k": np.zeros((2, 2), np.int32)}}, "the metadata array 'k' has 2 dimensions"),
    ({"metadata": {"k": np.zeros(2, np.float16)}}, "'k' is of NumPy's type float16"),
    ({"metadata": {"k": [1, "a"]}}, "the items of the metadata array 'k' must be all str"),
    ({"metadata": {"k": None}}, "'k' is NoneType, which GGUF does not know"),
    ({"metadata": {"k": "\ud800"}}, "'k' cannot be written as UTF-8"),
    ({"metadata": {"general.alignment": 12}}, "alignment"),
    ({"metadata": {"general.alignment": "32"}}, "general.alignment must be an integer"),
    ({"tensors": [("t", WEIGHTS, GGMLType.F32)] * 2}, "the tensor name 't' is there twice"),
    ({"tensors": [("t" * 64, WEIGHTS, GGMLType.F32)]}, "longer than 63 bytes"),
    ({"tensors": [("t", np.float32(1).reshape(()), GGMLType.F32)]}, "the tensor 't' has 0 dimensions"),
    ({"tensors": [("t", np.zeros((1,) * 5, np.float32), GGMLType.F32)]}, "the tensor 't' has 5 dimensions"),
    ({"tensors": [("t", WEIGHTS[:, :33], GGMLType.Q4_0)]}, "the tensor 't': .* no whole blocks of 32"),
    ({"tensors": [("t", WEIGHTS, GGMLType.IQ1_S)]}, "the tensor 't': .* IQ1_S"),
    ({"tensors": [("t", WEIGHTS * np.float32(np.inf), GGMLType.Q4_0)]}, "the tensor 't': .* not finite"),
    ({"tensors": [("t", np.zeros(19, np.uint8), GGMLType.Q4_0)]}, "the tensor 't': rows of 19 bytes"),
    ({"tensors": [("t", np.zeros(4, np.int64), GGMLType.I32)]}, "an array of int64 cannot be stored as I32"),
    ({"tensors": [("t", np.zeros(4, np.int64), GGMLType.F32)]}, "an array of int64 cannot be stored as F32"),
    ({"tensors": failing()}, "cannot be written: No space left on device"),
]


@pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")
@pytest.mark.parametrize(("parts", "says"), BAD_PARTS, ids=[says[:30] for _, says in BAD_PARTS])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path, parts: dict[str, Any], says: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")
    with pytest.raises(GGUFError, match=f"m.gguf: .*{says}"):
        write(path, **parts)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_late_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(GGUFError, match=r"m\.gguf: cannot be written: Input/output error"):
        write(path, tensors=[("t", WEIGHTS, GGMLType.F32)])
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]
    assert path.read_bytes() == b"old"


def test_an_interruption_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "m.gguf", tensors=[("t", WEIGHTS, GGMLType.F32)])
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "absent" / "m.gguf", tmp_path / "file" / "m.gguf", tmp_path, Path("nul\0.gguf"), Path()):
        with pytest.raises(GGUFError, match="cannot be written"):
            write(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_written_file_has_the_usual_permissions_and_a_long_name_is_fine(tmp_path: Path) -> None:
    path = write(tmp_path / ("é" * 120 + ".gguf"))
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
    lambda key: not key.startswith("general.")
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = (
    st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(width=32, allow_nan=False)
    | TEXTS
    | st.lists(TEXTS, min_size=1)
)


@settings(max_examples=60, deadline=None)
@given(metadata=st.dictionaries(KEYS, PLAIN, max_size=6), sparse=st.booleans())
def test_whatever_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, metadata: dict[str, Any], sparse: bool
) -> None:
    path = write(tmp_path_factory.mktemp("w") / "m.gguf", metadata=metadata, sparse=sparse)
    with open_gguf(path) as file:
        assert file.sparse == sparse
        assert dict(file.metadata) == {"general.architecture": "llama", **metadata}
        kinds = {key: Strings if _of_strings(value) else type(value) for key, value in metadata.items()}
        assert all(type(file.metadata[key]) is kind for key, kind in kinds.items())


def _of_strings(value: object) -> bool:
    return isinstance(value, list) and isinstance(value[0], str)
