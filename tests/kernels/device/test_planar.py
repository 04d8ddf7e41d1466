"""Planes hold what GGUF rows hold, for every type, and take the bytes that budgets count."""

import numpy as np
import pytest
import torch

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError
from powerinfer_cli.gguf_io import dequantize as authority
from powerinfer_cli.kernels.device import PlanarRows, planar_bytes, planar_type, to_planar
from powerinfer_cli.kernels.device import unpack as unpack_module
from powerinfer_cli.kernels.device.planar import LAYOUTS
from powerinfer_cli.kernels.device.reference import dequantize
from powerinfer_cli.kernels.formats import FORMATS
from powerinfer_cli.kernels.formats.convert import convert
from tests.helpers.kernels.matrices import random_rows, weight_types
from tests.helpers.kernels.weight_rows import gguf_rows

CONVERTED = sorted(set(weight_types()) - set(LAYOUTS))


def bytes_of(rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows.view(np.uint8).reshape(len(rows), -1).copy())


def same_numbers(rows: PlanarRows, expected: np.ndarray) -> None:
    """Equal but for the rounding of a product and a sum in float32."""
    found = dequantize(rows).numpy()
    assert found.dtype == np.float32
    with np.errstate(invalid="ignore", over="ignore"):
        np.testing.assert_allclose(found, expected, rtol=3e-7, atol=3e-7 * np.abs(expected).max(initial=0))


def test_the_cpus_types_have_planes() -> None:
    assert set(LAYOUTS) == set(FORMATS)
    assert len(CONVERTED) > 8


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_numbers_of_every_type(kind: GGMLType, extreme: bool) -> None:
    n_cols = 3 * BLOCK[kind][0] if BLOCK[kind][0] > 1 else 37
    raw = gguf_rows(kind, 5, n_cols, seed=7, extreme=extreme)
    rows = to_planar(bytes_of(raw), kind, n_cols)
    assert (rows.kind, rows.n_rows, rows.n_cols) == (kind, 5, n_cols)
    same_numbers(rows, authority(raw.view(np.uint8).reshape(5, -1), kind))


@pytest.mark.parametrize("kind", CONVERTED)
def test_other_types_are_converted_as_on_the_cpu(kind: GGMLType) -> None:
    n_cols = 2 * max(256, BLOCK[kind][0])
    if kind is GGMLType.F64:
        raw = np.random.default_rng(0).standard_normal((3, n_cols)).view(np.uint8)
    else:
        raw = random_rows(kind, 3, n_cols).view(np.uint8).reshape(3, -1)
    rows = to_planar(bytes_of(raw), kind, n_cols)
    assert rows.kind is planar_type(kind)
    same_numbers(rows, authority(convert(raw, kind), rows.kind))
    assert rows.nbytes == planar_bytes(kind, 3, n_cols)


@pytest.mark.parametrize("n_rows", [0, 1, 6])
@pytest.mark.parametrize("kind", LAYOUTS)
def test_bytes_are_those_of_the_tensors(kind: GGMLType, n_rows: int) -> None:
    n_cols = 2 * BLOCK[kind][0]
    rows = to_planar(bytes_of(gguf_rows(kind, max(n_rows, 1), n_cols))[:n_rows], kind, n_cols)
    assert rows.nbytes == planar_bytes(kind, n_rows, n_cols)
    assert dequantize(rows).shape == (n_rows, n_cols)


def test_bytes_by_hand() -> None:
    assert planar_bytes(GGMLType.Q4_0, 10, 64) == 10 * (32 + 2 * 2)
    assert planar_bytes(GGMLType.Q5_1, 10, 64) == 10 * (64 + 2 * 2 * 2)
    assert planar_bytes(GGMLType.Q2_K, 10, 256) == 10 * (128 + 16 + 16 + 4)
    assert planar_bytes(GGMLType.IQ4_XS, 10, 512) == 10 * (256 + 16 + 4) + 64
    assert planar_bytes(GGMLType.BF16, 10, 7) == 140


def test_pieces_of_a_tensor_are_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (GGMLType.Q4_K, GGMLType.IQ2_XXS, GGMLType.F64):
        raw = bytes_of(random_rows(kind, 7, 256) if kind is not GGMLType.F64 else np.ones((7, 256)))
        monkeypatch.setattr(unpack_module, "CHUNK_BYTES", 1 << 20)
        whole = dequantize(to_planar(raw, kind, 256))
        monkeypatch.setattr(unpack_module, "CHUNK_BYTES", 3 * raw.shape[1])
        assert torch.equal(dequantize(to_planar(raw, kind, 256)), whole)


@pytest.mark.parametrize("kind", LAYOUTS)
def test_a_slice_shares_its_rows(kind: GGMLType) -> None:
    n_cols = BLOCK[kind][0] * 2
    rows = to_planar(bytes_of(gguf_rows(kind, 9, n_cols)), kind, n_cols)
    part = rows.slice(2, 5)
    assert part.n_rows == 3
    assert part.quants.data_ptr() == rows.quants.data_ptr() + 2 * rows.quants.nbytes // 9
    assert torch.equal(dequantize(part), dequantize(rows)[2:5])


def test_floats_at_odd_addresses() -> None:
    data = torch.zeros(4 * 6 * 2 + 1, dtype=torch.uint8)[1:]
    data.copy_(torch.from_numpy(np.arange(24, dtype=np.float16).view(np.uint8).copy()))
    rows = to_planar(data.view(4, 12), GGMLType.F16, 6)
    assert torch.equal(dequantize(rows), torch.arange(24.0).view(4, 6))


def test_rows_that_are_no_whole_blocks() -> None:
    with pytest.raises(GGUFError, match="no whole Q4_K blocks of 256"):
        to_planar(torch.zeros(2, 144, dtype=torch.uint8), GGMLType.Q4_K, 255)
    with pytest.raises(GGUFError, match="are no weights"):
        planar_bytes(GGMLType.I32, 1, 32)
