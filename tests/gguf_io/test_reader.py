import gc
import os
import weakref
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGUFError, GGUFFile, Tensor, open_gguf
from tests.gguf_io import raw


@pytest.mark.parametrize(("magic", "sparse"), [(b"GGUF", False), (b"PWRI", True)])
@pytest.mark.parametrize("version", [2, 3])
def test_header_says_version_and_sparsity(tmp_path: Path, magic: bytes, sparse: bool, version: int) -> None:
    path = raw.write(tmp_path, raw.build(magic=magic, version=version))
    with open_gguf(path) as file:
        assert (file.sparse, file.version, file.path) == (sparse, version, path)
        assert dict(file.metadata) == {}
        assert dict(file.tensors) == {}


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    with open_gguf(str(raw.peer_model(tmp_path / "peer.gguf"))) as file:
        assert not file.sparse
        assert file.metadata["llama.block_count"] == 2
        assert file.metadata["double"] == 0.25
        assert file.metadata["small"] == -3
        assert file.metadata["tokenizer.ggml.tokens"] == ["a", "b", "ünï"]
        assert [items.tolist() for items in file.get("nested", list)] == [[1, 2], [3]]
        assert list(file.tensors) == ["a", "b"]
        np.testing.assert_array_equal(
            file.tensors["a"].to_float32(), np.arange(12, dtype=np.float32).reshape(3, 4), strict=True
        )
        assert file.tensors["b"].shape == (2, 2, 2)
        np.testing.assert_array_equal(file.tensors["b"].to_float32().ravel(), np.arange(8, dtype=np.float32))


def test_order_of_tensors_in_the_data_is_free(tmp_path: Path) -> None:
    content = raw.build(
        tensors=[raw.tensor("late", [8], 0, 32), raw.tensor("early", [4], 0, 0)],
        data=np.arange(16, dtype=np.float32).tobytes(),
    )
    with open_gguf(raw.write(tmp_path, content)) as file:
        assert list(file.tensors) == ["late", "early"]
        assert file.tensors["late"].to_float32().tolist() == [8, 9, 10, 11, 12, 13, 14, 15]
        assert file.tensors["early"].to_float32().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("alignment", [1, 8, 16, 64, 256])
def test_data_starts_at_the_alignment_that_the_file_names(tmp_path: Path, alignment: int) -> None:
    content = raw.build(
        [raw.entry("general.alignment", raw.U32, alignment)],
        [raw.tensor("odd", [3], 24, 0), raw.tensor("next", [2], 0, max(alignment, 3))],
        b"\x01\x02\x03".ljust(max(alignment, 3), b"\0") + np.array([1.5, 2.5], "<f4").tobytes(),
        alignment=alignment,
    )
    with open_gguf(raw.write(tmp_path, content)) as file:
        assert file.tensors["odd"].data.tolist() == [1, 2, 3]
        assert file.tensors["next"].to_float32().tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (raw.entry("general.alignment", raw.U32, 0), "is 0, which is not a power of two"),
        (raw.entry("general.alignment", raw.U32, 24), "is 24, which is not a power of two"),
        (raw.entry("general.alignment", raw.U64, 32), "must be of type UINT32, but it is UINT64"),
        (raw.entry("general.alignment", raw.I32, 32), "must be of type UINT32, but it is INT32"),
        (raw.entry("general.alignment", raw.STRING, raw.string("32")), "must be of type UINT32, but it is STRING"),
        (
            raw.entry("general.alignment", raw.ARRAY, raw.array(raw.U32, [32])),
            "must be of type UINT32, but it is ARRAY",
        ),
    ],
)
def test_impossible_alignment(tmp_path: Path, entry: bytes, says: str) -> None:
    with pytest.raises(GGUFError, match=says):
        open_gguf(raw.write(tmp_path, raw.build([entry])))


@pytest.fixture
def model(tmp_path: Path) -> GGUFFile:
    return open_gguf(raw.small_model(tmp_path / "model.gguf"))


def test_get_gives_the_value_of_the_wanted_kind(model: GGUFFile) -> None:
    assert model.get("llama.block_count", int) == 2
    assert model.get("llama.rope.freq_base", float) == 10000.0
    assert model.get("general.architecture", str) == "llama"
    assert model.get("flag", bool) is True
    assert model.get("tokenizer.ggml.tokens", list)[1] == "été"
    assert model.get("tokenizer.ggml.scores", np.ndarray).tolist() == [0.0, -1.5, 2.0]
    assert model.get("tokenizer.ggml.scores", list) == [0.0, -1.5, 2.0]
    assert model.get("absent", int, 7) == 7
    assert model.get("absent", str, None) is None


@pytest.mark.parametrize(
    ("key", "kind", "says"),
    [
        ("absent", int, r"model\.gguf: the metadata has no 'absent'"),
        ("llama.block_count", str, "'llama.block_count' is int, not str"),
        ("llama.block_count", float, "'llama.block_count' is int, not float"),
        ("flag", int, "'flag' is bool, not int"),
        ("general.architecture", list, "'general.architecture' is str, not list"),
        ("tokenizer.ggml.tokens", np.ndarray, "is list, not ndarray"),
    ],
)
def test_get_refuses_another_kind(model: GGUFFile, key: str, kind: type, says: str) -> None:
    with pytest.raises(GGUFError, match=says):
        model.get(key, kind)


def test_a_wrong_kind_is_an_error_even_with_a_default(model: GGUFFile) -> None:
    with pytest.raises(GGUFError, match="is int, not str"):
        model.get("llama.block_count", str, "none")


def test_metadata_and_tensors_cannot_be_changed(model: GGUFFile) -> None:
    with pytest.raises(TypeError):
        model.metadata["new"] = 1  # type: ignore[index]
    with pytest.raises(TypeError):
        del model.tensors["output.weight"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="read-only"):
        model.tensors["output.weight"].data[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        model.get("tokenizer.ggml.scores", np.ndarray)[0] = 1


def test_views_outlive_the_file(model: GGUFFile) -> None:
    tensor = model.tensors["output.weight"]
    rows = tensor.rows()
    before = tensor.to_float32()
    model.close()
    model.close()
    gc.collect()
    np.testing.assert_array_equal(tensor.to_float32(), before)
    assert rows.sum() == tensor.data.sum()
    with pytest.raises(GGUFError, match=r"model\.gguf: the tensors of a closed file"):
        _ = model.tensors
    assert model.get("llama.block_count", int) == 2


def test_closing_releases_the_map_and_the_descriptor(tmp_path: Path) -> None:
    path = raw.small_model(tmp_path / "model.gguf")
    opened = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    with open_gguf(path) as file:
        watched = weakref.ref(file.tensors["output.weight"].data.base)
        assert str(path) in Path("/proc/self/maps").read_text()
    gc.collect()
    assert watched() is None
    assert str(path) not in Path("/proc/self/maps").read_text()
    assert len(os.listdir("/proc/self/fd")) == opened  # noqa: PTH208


def test_tensor_sizes(model: GGUFFile) -> None:
    tensor = model.tensors["blk.0.ffn_up.weight"]
    assert (tensor.shape, tensor.n_elements, tensor.row_bytes, tensor.nbytes) == ((2, 32), 64, 18, 36)
    assert tensor.rows().shape == (2, 18)
    assert tensor.to_float32().shape == (2, 32)
    empty = model.tensors["blk.0.gpu_bucket"]
    assert (empty.shape, empty.n_elements, empty.nbytes, empty.rows().shape) == ((0,), 0, 0, (1, 0))


def test_a_type_without_weights_names_file_and_tensor(model: GGUFFile) -> None:
    with pytest.raises(GGUFError, match=r"model\.gguf: the tensor 'blk\.0\.gpu_bucket': numbers of type I32"):
        model.tensors["blk.0.gpu_bucket"].to_float32()


def test_float32_is_a_copy_that_may_be_changed(model: GGUFFile) -> None:
    numbers = model.tensors["blk.0.ffn_norm.weight"].to_float32()
    numbers[0] = 5
    assert model.tensors["blk.0.ffn_norm.weight"].to_float32()[0] == -1


def test_tensor_is_not_compared_by_its_numbers(model: GGUFFile) -> None:
    tensor = model.tensors["output.weight"]
    twin = Tensor(tensor.name, tensor.type, tensor.shape, tensor.data)
    assert tensor == tensor  # noqa: PLR0124
    assert tensor != twin
