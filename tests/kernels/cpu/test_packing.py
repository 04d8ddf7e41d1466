"""Tensors of a file as rows for kernels: repacked, left in the file, converted; and what that costs in memory."""

import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import numpy.typing as npt
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, Tensor, dequantize, open_gguf
from powerinfer_cli.kernels.cpu import packing
from powerinfer_cli.kernels.cpu.packing import bundles, pack, pack_side_by_side
from powerinfer_cli.kernels.cpu.rows import COLUMNS, ROWS, UNPACK_ROW, Bundled, WeightRows, row_address, unpack_row
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.formats.convert import conversion, convert
from powerinfer_cli.kernels.jit import kernel
from powerinfer_cli.kernels.jit.program import Operation, assemble
from powerinfer_cli.kernels.jit.team import FIRST, OPERATION, Team, take
from powerinfer_cli.kernels.simd import i64
from tests.helpers.kernels.matrices import random_rows, stored, weight_types
from tests.helpers.kernels.teams import team_of

CONVERTED = [kind for kind in weight_types() if kind not in FORMATS]
KINDS = [GGMLType.Q4_0, GGMLType.Q5_1, GGMLType.Q8_0, GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.MXFP4, GGMLType.F16]


@kernel(OPERATION, "test_unpack_rows")
def unpack_rows(address, worker):
    op = i64(address)
    rows = i64(op[FIRST])
    n = rows[COLUMNS]
    while True:
        i = take(op)
        if i >= rows[ROWS]:
            return
        q, scales, mins = op[FIRST + 1] + i * 4 * n, op[FIRST + 2] + i * 4 * n, op[FIRST + 3] + i * 4 * n
        unpack_row(rows[UNPACK_ROW], row_address(rows, i, worker), n, 0, n, q, scales, mins)


def numbers(rows: WeightRows, team: Team) -> npt.NDArray[np.float32]:
    """All rows in float32, by the format's own unpack kernel."""
    f, n = rows.format, rows.n_cols
    q, scales, mins = (np.zeros((rows.n_rows, n), np.float32) for _ in range(3))
    team.run(assemble([Operation(unpack_rows, (rows, q, scales, mins))]).table)
    if f.is_float:
        return q
    found = q.view(np.int8).reshape(rows.n_rows, -1)[:, :n] * scales[:, : n // f.group].repeat(f.group, axis=1)
    return found + mins[:, : n // f.group].repeat(f.group, axis=1)


def written(path: Path, kind: GGMLType, n_rows: int, n: int) -> Tensor:
    """A tensor in a file on the disk."""
    raw = random_rows(kind, n_rows, n).view(np.uint8).reshape(n_rows, -1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("first", np.ones(100, np.float32))
    writer.add_tensor("weights", raw, raw_dtype=gguf.GGMLQuantizationType(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_gguf(path).tensors["weights"]


@pytest.fixture(params=[1, 3])
def team(request: pytest.FixtureRequest) -> Team:
    return team_of(request.param)


@pytest.mark.parametrize("repack", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_values_stay(kind: GGMLType, repack: bool, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SLICE_BYTES", 3000)  # several slices, the last one shorter
    tensor = written(tmp_path / "file.gguf", kind, 37, 768)
    expected = dequantize(tensor.rows(), kind)
    rows = pack(tensor, team, repack=repack)
    assert (rows.n_rows, rows.n_cols, rows.format) == (37, 768, FORMATS[kind])
    np.testing.assert_allclose(numbers(rows, team), expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(tensor.to_float32(), expected)  # dropped pages come back


def test_floats_and_rows_as_in_the_file_are_no_copies(tmp_path: Path) -> None:
    team = Team(1)
    floats = written(tmp_path / "floats.gguf", GGMLType.F32, 3, 65)
    assert np.shares_memory(pack(floats, team).data, floats.data)
    blocks = written(tmp_path / "blocks.gguf", GGMLType.Q4_0, 3, 64)
    assert np.shares_memory(pack(blocks, team, repack=False).data, blocks.data)
    assert not np.shares_memory(pack(blocks, team).data, blocks.data)


@pytest.mark.rungs
def test_part_of_a_tensor(tmp_path: Path, team: Team) -> None:
    """As a fused matrix is taken apart: rows of a tensor as one of its own."""
    whole = written(tmp_path / "file.gguf", GGMLType.Q5_K, 20, 512)
    part = Tensor("part", whole.type, (7, 512), whole.data[5 * whole.row_bytes : 12 * whole.row_bytes])
    np.testing.assert_allclose(numbers(pack(part, team), team), whole.to_float32()[5:12], rtol=1e-6, atol=1e-7)


def test_leading_dimensions_are_one(team: Team) -> None:
    flat = stored(random_rows(GGMLType.Q4_0, 12, 64), GGMLType.Q4_0)
    cube = Tensor("cube", flat.type, (3, 4, 64), flat.data)
    np.testing.assert_array_equal(numbers(pack(cube, team), team), numbers(pack(flat, team), team))


def test_every_type_of_weights_is_served() -> None:
    assert {conversion(kind) for kind in CONVERTED} <= set(FORMATS)


@pytest.mark.rungs
@pytest.mark.parametrize("kind", CONVERTED)
def test_conversion(kind: GGMLType, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SLICE_NUMBERS", 1024)
    tensor = stored(random_rows(kind, 5, 512), kind)
    expected, notes = tensor.to_float32(), []
    rows = pack(tensor, team, on_note=notes.append)
    assert notes == [f"{kind.name} converted to {conversion(kind).name}"]
    found = numbers(rows, team)
    if conversion(kind) is GGMLType.Q8_0:
        largest = np.abs(expected).reshape(5, -1, 32).max(axis=-1).repeat(32, axis=1)
        assert (np.abs(found - expected) <= largest * (0.5 / 127 + 2.0**-10)).all()
    else:
        np.testing.assert_array_equal(found, expected)


def test_evenly_spaced_levels_survive_extreme_scales() -> None:
    for kind, at in ((GGMLType.TQ1_0, 52), (GGMLType.TQ2_0, 64), (GGMLType.Q1_0, 0), (GGMLType.Q2_0, 0)):
        blocks = random_rows(kind, 8, 256).reshape(-1, BLOCK[kind][1]).copy()
        scales = np.array([65504, -65504, 2**-24, 0.0], np.float16)
        blocks[:, at : at + 2] = np.resize(scales, len(blocks)).view(np.uint8).reshape(-1, 2)
        rows = blocks.reshape(8, -1)
        np.testing.assert_array_equal(dequantize(convert(rows, kind), conversion(kind)), dequantize(rows, kind))


def test_float64_becomes_float32(team: Team) -> None:
    x = np.random.default_rng(0).standard_normal((3, 7))
    tensor = Tensor("x", GGMLType.F64, (3, 7), x.reshape(-1).view(np.uint8))
    np.testing.assert_array_equal(numbers(pack(tensor, team), team), x.astype(np.float32))


@pytest.mark.rungs
def test_rows_side_by_side(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SLICE_BYTES", 3000)
    monkeypatch.setattr(packing, "SLICE_NUMBERS", 1500)
    kinds = [GGMLType.Q4_0, GGMLType.Q6_K, GGMLType.IQ3_S]
    tensors = [written(tmp_path / kind.name, kind, 37, 512) for kind in kinds]
    doubles = np.random.default_rng(0).standard_normal((37, 65))
    tensors.append(Tensor("x", GGMLType.F64, (37, 65), doubles.reshape(-1).view(np.uint8)))
    expected = [*(tensor.to_float32() for tensor in tensors[:-1]), doubles.astype(np.float32)]
    seen: list[tuple[int, int]] = []
    packed = pack_side_by_side(tensors, team, on_progress=lambda done, total: seen.append((done, total)))
    place = packed[0].data.ctypes.data
    for rows, numbers_there, tensor in zip(packed, expected, tensors, strict=True):
        assert rows.data.ctypes.data == place
        place += rows.format.row_bytes(rows.n_cols)
        exact = tensor.type is not GGMLType.IQ3_S  # which becomes Q8_0
        alone = numbers_there if exact else numbers(pack(tensor, team), team)
        np.testing.assert_allclose(numbers(rows, team), alone, rtol=1e-6, atol=1e-7)
    assert {rows.stride for rows in packed} == {place - packed[0].data.ctypes.data}
    total = sum(tensor.nbytes for tensor in tensors)
    assert seen == sorted(seen)
    assert {every for _, every in seen} == {total}
    assert seen[-1] == (total, total)
    assert len(seen) > 8


@pytest.mark.rungs
def test_rows_at_other_places(team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SLICE_BYTES", 3000)
    monkeypatch.setattr(packing, "SLICE_NUMBERS", 1500)
    tensors = [written(tmp_path / kind.name, kind, 37, 512) for kind in (GGMLType.Q4_0, GGMLType.Q6_K)]
    tensors.append(
        Tensor("x", GGMLType.F64, (37, 65), np.random.default_rng(0).standard_normal((37, 65)).view(np.uint8))
    )
    places = np.random.default_rng(1).permutation(37).astype(np.int32)
    moved, as_they_are = pack_side_by_side(tensors, team, places=places), pack_side_by_side(tensors, team)
    for rows, others in zip(moved, as_they_are, strict=True):
        np.testing.assert_array_equal(numbers(rows, team)[places], numbers(others, team))


def test_rows_that_stay_in_the_file_have_none_beside_them(team: Team, tmp_path: Path) -> None:
    blocks = written(tmp_path / "blocks.gguf", GGMLType.Q4_0, 5, 64)
    floats = written(tmp_path / "floats.gguf", GGMLType.F16, 5, 64)
    for tensors, repack in (([blocks, floats], True), ([blocks, blocks], False)):
        with pytest.raises(ValueError, match=r"^rows that stay in the file have no other places$"):
            pack_side_by_side(tensors, team, places=np.arange(5, dtype=np.int32)[::-1].copy(), repack=repack)
    apart = pack_side_by_side([blocks, floats], team)
    assert np.shares_memory(apart[1].data, floats.data)
    in_file = pack_side_by_side([blocks, blocks], team, repack=False)
    assert all(np.shares_memory(rows.data, blocks.data) for rows in in_file)
    for rows, tensor in zip([*apart, *in_file], [blocks, floats, blocks, blocks], strict=True):
        assert rows.stride in (tensor.row_bytes, rows.format.row_bytes(64))
        np.testing.assert_allclose(numbers(rows, team), tensor.to_float32(), rtol=1e-6, atol=1e-7)


def test_what_stores_no_weights_is_refused() -> None:
    tensor = Tensor("counts", GGMLType.I32, (2, 4), np.zeros(32, np.uint8))
    with pytest.raises(GGUFError, match="the tensor 'counts': numbers of type I32 are no weights"):
        pack(tensor, Team(1))


@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.F16, GGMLType.IQ3_S])
def test_progress(kind: GGMLType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SLICE_BYTES", 1000)
    monkeypatch.setattr(packing, "SLICE_NUMBERS", 1000)
    tensor, seen = stored(random_rows(kind, 10, 256), kind), []
    pack(tensor, Team(2), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (tensor.nbytes, tensor.nbytes)
    assert {total for _, total in seen} == {tensor.nbytes}
    assert kind is GGMLType.F16 or len(seen) > 2


MEMORY = """
import sys
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.kernels.cpu.packing import bundles, pack, pack_side_by_side
from powerinfer_cli.kernels.jit.team import Team

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024

tensor, team, peak = open_gguf(sys.argv[1]).tensors["weights"], Team(2), 0
pack(type(tensor)("", tensor.type, (1, tensor.shape[1]), tensor.data[: tensor.row_bytes]), team)  # compiles
before = resident()
def look(done, total):
    global peak
    peak = max(peak, resident() - before)
rows = pack(tensor, team, on_progress=look)
print(peak / tensor.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here")
def test_memory_stays_below_a_quarter_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.gguf"
    n_bytes = written(path, GGMLType.Q4_K, 1 << 16, 2048).nbytes
    assert n_bytes > 70 << 20
    command = [sys.executable, "-c", MEMORY, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
    assert 1 <= float(done.stdout) < 1.25 + packing.SLICE_BYTES / n_bytes


@pytest.mark.parametrize("kind", CONVERTED, ids=lambda kind: kind.name)
def test_converted_rows_are_bundled_as_what_they_become(kind: GGMLType) -> None:
    target, n = conversion(kind), max(BLOCK[kind][0], BLOCK[conversion(kind)][0])
    whole = FORMATS[target].whole
    assert bundles(kind) == (whole is not None)
    if whole is None:
        return
    raw = random_rows(kind, 21, n).view(np.uint8).reshape(21, -1)
    found, wanted = (
        pack(Tensor("w", of, (21, n), rows.reshape(-1)), team_of(2), bundled=Bundled.WHOLE)
        for of, rows in ((kind, raw), (target, convert(raw, kind)))
    )
    size = 2 * whole.bundle_bytes(n)
    assert found.format is FORMATS[target]
    np.testing.assert_array_equal(found.data[:size], wanted.data[:size])


def test_integers_are_not_bundled() -> None:
    assert not bundles(GGMLType.I32)
