import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGUFError, open_gguf
from tests.gguf_io import raw


def part(
    no: int, count: int, names: Sequence[str], *, total: int = 4, extra: Sequence[bytes] = (), magic: bytes = b"GGUF"
) -> bytes:
    """A part as gguf-split writes it; every tensor holds the code of its name's first letter."""
    entries = [
        *extra,
        raw.entry("split.no", raw.U16, no),
        raw.entry("split.count", raw.U16, count),
        raw.entry("split.tensors.count", raw.I32, total),
    ]
    tensors = [raw.tensor(name, [8], 0, 32 * i) for i, name in enumerate(names)]
    data = np.repeat(np.array([ord(name[0]) for name in names], "<f4"), 8).tobytes()
    return raw.build(entries, tensors, data, magic=magic)


def write_parts(folder: Path, *parts: bytes, stem: str = "m") -> list[Path]:
    return [raw.write(folder, p, f"{stem}-{i + 1:05d}-of-{len(parts):05d}.gguf") for i, p in enumerate(parts)]


ARCH = raw.entry("general.architecture", raw.STRING, raw.string("llama"))


@pytest.mark.parametrize("given", [0, 1, 2])
@pytest.mark.parametrize("stem", ["m", "my-model-00001-of-00009"])
def test_any_part_opens_all(tmp_path: Path, given: int, stem: str) -> None:
    paths = write_parts(tmp_path, part(0, 3, ["a", "b"], extra=[ARCH]), part(1, 3, ["c"]), part(2, 3, ["d"]), stem=stem)
    with open_gguf(paths[given]) as file:
        assert file.path == paths[0]
        assert file.metadata["general.architecture"] == "llama"
        assert list(file.tensors) == ["a", "b", "c", "d"]
        assert {name: tensor.to_float32()[0] for name, tensor in file.tensors.items()} == {
            "a": 97,
            "b": 98,
            "c": 99,
            "d": 100,
        }
        assert file.tensors["c"].path == paths[1]
        views = [tensor.data for tensor in file.tensors.values()]
    assert [view.view("<f4")[7] for view in views] == [97, 98, 99, 100]


def test_parts_that_the_gguf_package_splits(tmp_path: Path) -> None:
    writer = raw.gguf.GGUFWriter(tmp_path / "m.gguf", "llama", split_max_tensors=2)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.full(32, i, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(tmp_path / "m-00001-of-00003.gguf") as file:
        assert [tensor.to_float32()[0] for tensor in file.tensors.values()] == [0, 1, 2, 3, 4]


def test_sparse_parts(tmp_path: Path) -> None:
    first, second = part(0, 2, ["a", "b"], magic=b"PWRI"), part(1, 2, ["c", "d"], magic=b"PWRI")
    with open_gguf(write_parts(tmp_path, first, second)[0]) as file:
        assert file.sparse
        assert len(file.tensors) == 4


def test_one_part_of_one_needs_no_special_name(tmp_path: Path) -> None:
    with open_gguf(raw.write(tmp_path, part(0, 1, ["a"], total=1))) as file:
        assert list(file.tensors) == ["a"]


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_part_is_named(tmp_path: Path, missing: int) -> None:
    paths = write_parts(tmp_path, part(0, 3, ["a", "b"]), part(1, 3, ["c"]), part(2, 3, ["d"]))
    paths[missing].unlink()
    with pytest.raises(GGUFError, match=f"m-{missing + 1:05d}-of-00003.gguf: this part of the split file is missing"):
        open_gguf(paths[missing - 1])


@pytest.mark.parametrize("name", ["renamed.gguf", "m-00001-of-00003.gguf", "m-00002-of-00002.gguf", "m-1-of-2.gguf"])
def test_a_renamed_part_says_the_name_that_it_needs(tmp_path: Path, name: str) -> None:
    paths = write_parts(tmp_path, part(0, 2, ["a", "b"]), part(1, 2, ["c", "d"]))
    shutil.move(paths[0], tmp_path / name)
    with pytest.raises(GGUFError, match=f"{name}: this is part 1 of 2 .* must end in -00001-of-00002.gguf"):
        open_gguf(tmp_path / name)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (part(0, 2, ["c", "d"]), "00002-of-00002.gguf: split.no is 0, but the other parts make it 1"),
        (part(1, 3, ["c", "d"]), "00002-of-00002.gguf: split.count is 3, but the other parts make it 2"),
        (
            part(1, 2, ["c", "d"], total=5),
            "00002-of-00002.gguf: split.tensors.count is 5, but the other parts make it 4",
        ),
        (part(1, 2, ["c"]), "00001-of-00002.gguf: split.tensors.count is 4, but the parts hold 3 tensors"),
        (part(1, 2, ["c", "a"]), "00002-of-00002.gguf: the tensor 'a' is in m-00001-of-00002.gguf too"),
        (part(1, 2, ["c", "d"], magic=b"PWRI"), "00002-of-00002.gguf: its magic differs from that of the first part"),
        (raw.build(), "00002-of-00002.gguf: a split file needs an integer split.no"),
        (part(1, 2, ["c", "d"])[:-1], "00002-of-00002.gguf: the tensor 'd' ends at byte .* cut short"),
        (b"", "00002-of-00002.gguf: the file is empty"),
    ],
)
def test_parts_that_do_not_fit(tmp_path: Path, second: bytes, says: str) -> None:
    with pytest.raises(GGUFError, match=says):
        open_gguf(write_parts(tmp_path, part(0, 2, ["a", "b"]), second)[0])


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([raw.entry("split.count", raw.STRING, raw.string("2"))], "a split file needs an integer split.count"),
        ([raw.entry("split.count", raw.BOOL, 1)], "a split file needs an integer split.count"),
        ([raw.entry("split.count", raw.U64, 2**64 - 1)], "a split file needs an integer split.no"),
        (
            [raw.entry("split.count", raw.U64, 2**64 - 1), raw.entry("split.no", raw.U8, 0)],
            "this is part 1 of 18446744073709551615",
        ),
        (
            [raw.entry("split.count", raw.U16, 2), raw.entry("split.no", raw.U16, 2)],
            "split.no is 2, but split.count is 2",
        ),
        ([raw.entry("split.count", raw.U16, 2), raw.entry("split.no", raw.I16, -1)], "split.no is -1, but"),
    ],
)
def test_nonsense_about_parts(tmp_path: Path, entries: list[bytes], says: str) -> None:
    with pytest.raises(GGUFError, match=says):
        open_gguf(raw.write(tmp_path, raw.build(entries)))


@pytest.mark.parametrize("name", ["m.gguf", "m-00001-of-00002.gguf"])
@pytest.mark.parametrize("names", [["a", "b"], []])
def test_parts_joined_end_to_end(tmp_path: Path, name: str, names: list[str]) -> None:
    paths = write_parts(tmp_path, part(0, 2, names, total=len(names) + 1, extra=[ARCH]), part(1, 2, ["c"]))
    joined = tmp_path / "joined" / name
    joined.parent.mkdir()
    joined.write_bytes(b"".join(path.read_bytes() for path in paths))
    with pytest.raises(GGUFError, match=r"parts cannot be joined.*llama-gguf-split --merge") as caught:
        open_gguf(joined)
    assert str(joined) in str(caught.value)
    assert f"(at byte {paths[0].stat().st_size})" in str(caught.value)
