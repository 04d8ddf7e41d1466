from pathlib import Path

import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, open_gguf
from tests.gguf_io import raw


def refuse(folder: Path, content: bytes, says: str) -> None:
    with pytest.raises(GGUFError, match=says) as caught:
        open_gguf(raw.write(folder, content))
    assert str(folder / "model.gguf") in str(caught.value)
    assert "at byte" in str(caught.value)


@pytest.mark.parametrize("kind", GGMLType)
def test_every_type_has_its_size(tmp_path: Path, kind: GGMLType) -> None:
    block_size, block_bytes = BLOCK[kind]
    content = raw.build(tensors=[raw.tensor("t", [2 * block_size, 3], kind)], data=bytes(6 * block_bytes))
    with open_gguf(raw.write(tmp_path, content)) as file:
        tensor = file.tensors["t"]
        assert (tensor.type, tensor.shape) == (kind, (3, 2 * block_size))
        assert (tensor.nbytes, tensor.row_bytes) == (6 * block_bytes, 2 * block_bytes)
        assert tensor.rows().shape == (3, 2 * block_bytes)
    refuse(
        tmp_path,
        content[:-1],
        f"ends at byte {len(content)}, but the file has only {len(content) - 1} bytes: cut short",
    )


@pytest.mark.parametrize("kind", [kind for kind in GGMLType if BLOCK[kind][0] > 1])
def test_rows_must_be_whole_blocks(tmp_path: Path, kind: GGMLType) -> None:
    row = BLOCK[kind][0] + 1
    content = raw.build(tensors=[raw.tensor("t", [row, 2], kind)], data=bytes(4096))
    refuse(tmp_path, content, f"'t' has rows of {row}, but {kind.name} comes in blocks of {BLOCK[kind][0]}")


@pytest.mark.parametrize("number", [4, 5, 31, 32, 33, 36, 37, 38])
def test_removed_types(tmp_path: Path, number: int) -> None:
    refuse(
        tmp_path, raw.build(tensors=[raw.tensor("t", [32], number)]), "which ggml has removed: convert the model anew"
    )


@pytest.mark.parametrize("number", [43, 255, 2**31, 2**32 - 1])
def test_unknown_types(tmp_path: Path, number: int) -> None:
    refuse(tmp_path, raw.build(tensors=[raw.tensor("t", [32], number)]), f"'t' has the type {number}, which is none of")


@pytest.mark.parametrize(
    ("number", "kind", "size"), [(16, GGMLType.I8, 1), (17, GGMLType.I16, 2), (18, GGMLType.I32, 4)]
)
def test_index_files_number_integer_types_as_in_2023(tmp_path: Path, number: int, kind: GGMLType, size: int) -> None:
    arch = raw.entry("general.architecture", raw.STRING, raw.string("generic.gpu_index"))
    tensors = [raw.tensor("blk.0.gpu_idx", [7], number), raw.tensor("blk.0.gpu_bucket", [5], 26, 32)]
    content = raw.build([arch], tensors, bytes(range(64)), magic=b"PWRI")
    with open_gguf(raw.write(tmp_path, content)) as file:
        assert file.tensors["blk.0.gpu_idx"].type is kind
        assert file.tensors["blk.0.gpu_idx"].data.tolist() == list(range(7 * size))
        assert file.tensors["blk.0.gpu_bucket"].type is GGMLType.I32
    refuse(tmp_path, content.replace(b"PWRI", b"GGUF"), "has rows of 7, but IQ")


@pytest.mark.parametrize("n_dims", [0, 5, 2**31, 2**32 - 1])
def test_number_of_dimensions(tmp_path: Path, n_dims: int) -> None:
    content = raw.build(tensors=[raw.tensor("t", [1] * 5, n_dims=n_dims)], data=bytes(64))
    refuse(tmp_path, content, f"'t' has {n_dims} dimensions, but 1 to 4 are possible")


@pytest.mark.parametrize(
    "dims",
    [[2**64 - 32], [2**63], [2**32, 2**32], [2**16] * 4, [0, 2**63, 2**63], [2**62, 1, 1], [2**61, 1, 0, 2**40]],
)
def test_dimensions_that_overflow(tmp_path: Path, dims: list[int]) -> None:
    content = raw.build(tensors=[raw.tensor("t", dims)], data=bytes(64))
    refuse(tmp_path, content, "'t' has the shape .*, which is more than any file can hold")


@pytest.mark.parametrize("dims", [[2**40], [2**20, 2**20], [17]])
def test_dimensions_that_leave_the_file(tmp_path: Path, dims: list[int]) -> None:
    refuse(
        tmp_path,
        raw.build(tensors=[raw.tensor("t", dims)], data=bytes(64)),
        "'t' ends at byte .*, but the file has only 1(28|60) bytes",
    )


@pytest.mark.parametrize(
    ("dims", "offset"),
    [(dims, offset) for dims in ([1], [32, 0]) for offset in (96, 2**32, 2**63, 2**64 - 32)] + [([1], 64)],
)
def test_offset_outside_the_file(tmp_path: Path, dims: list[int], offset: int) -> None:
    content = raw.build(tensors=[raw.tensor("t", dims, offset=offset)], data=bytes(63))
    refuse(tmp_path, content, "'t' ends at byte .*, but the file has only")


@pytest.mark.parametrize("offset", [1, 31, 33, 2**64 - 1])
def test_offset_not_aligned(tmp_path: Path, offset: int) -> None:
    content = raw.build(tensors=[raw.tensor("t", [1], offset=offset)], data=bytes(64))
    refuse(tmp_path, content, f"'t' is at offset {offset}, which is no multiple of the alignment 32")


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 32), (32, 0)])
def test_overlap(tmp_path: Path, first: int, second: int) -> None:
    content = raw.build(
        tensors=[raw.tensor("a", [16], offset=first), raw.tensor("b", [16], offset=second)], data=bytes(128)
    )
    refuse(tmp_path, content, "the tensor '[ab]' overlaps the tensor '[ab]'")


def test_overlap_behind_an_empty_tensor(tmp_path: Path) -> None:
    tensors = [raw.tensor("a", [16]), raw.tensor("none", [0], offset=32), raw.tensor("b", [8], offset=32)]
    refuse(tmp_path, raw.build(tensors=tensors, data=bytes(128)), "overlaps the tensor")


def test_empty_tensors_take_no_room(tmp_path: Path) -> None:
    tensors = [raw.tensor("a", [0]), raw.tensor("b", [4]), raw.tensor("c", [0, 5], offset=32)]
    with open_gguf(raw.write(tmp_path, raw.build(tensors=tensors, data=bytes(16)))) as file:
        assert [tensor.shape for tensor in file.tensors.values()] == [(0,), (4,), (5, 0)]
        assert [tensor.nbytes for tensor in file.tensors.values()] == [0, 16, 0]
        assert file.tensors["c"].to_float32().shape == (5, 0)


def test_names(tmp_path: Path) -> None:
    twice = raw.build(tensors=[raw.tensor("t", [1]), raw.tensor("t", [1], offset=32)], data=bytes(64))
    refuse(tmp_path, twice, "the tensor 't' is there twice")
    refuse(tmp_path, raw.build(tensors=[raw.tensor("t" * 64, [1])]), "tensor 0 is 64 bytes long, but at most 63")
    refuse(tmp_path, raw.build(tensors=[raw.tensor(b"\xfe", [1])]), "the name of tensor 0 is not UTF-8")
    escaped = r"the tensor '\\x1b\]0;x\\x07' is there twice"
    twice = raw.build(tensors=[raw.tensor("\x1b]0;x\x07", [1])] * 2, data=bytes(64))
    refuse(tmp_path, twice, escaped)


@pytest.mark.parametrize("count", [2, 2**32, 2**63, raw.HUGE])
def test_more_tensors_claimed_than_fit(tmp_path: Path, count: int) -> None:
    content = raw.build(tensors=[raw.tensor("t", [1])], n_tensors=count)
    refuse(tmp_path, content, f"claims {count} tensors, but (the file ends 33 bytes further on|at most 262144 are)")


def test_alignment_that_leaves_the_file(tmp_path: Path) -> None:
    content = raw.build([raw.entry("general.alignment", raw.U32, 2**31)], [raw.tensor("t", [1])], bytes(64))
    refuse(tmp_path, content, "'t' ends at byte 2147483652, but the file has only")
