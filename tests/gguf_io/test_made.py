"""Tensors made of others: the right bytes, made when they are asked for, and named when they cannot be."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.gguf_io import (
    BLOCK,
    GGMLType,
    GGUFError,
    MadeTensor,
    Tensor,
    dequantize,
    retyped,
    transposed,
)
from powerinfer_cli.gguf_io import made as made_file
from powerinfer_cli.gguf_io.encoders import encode
from tests.helpers.kernels.matrices import random_rows

FLOATS = [GGMLType.F32, GGMLType.F16, GGMLType.BF16]


def tensor(kind: GGMLType, n_rows: int, n_cols: int, seed: int = 0) -> Tensor:
    raw = random_rows(kind, n_rows, n_cols, seed).view(np.uint8).reshape(-1)
    return Tensor("blk.0.ffn_down.weight", kind, (n_rows, n_cols), raw, Path("model.gguf"))


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (70, 33), (5, 2000)])
def test_floats_move_and_stay_what_they_are(
    kind: GGMLType, shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made_file, "AT_ONCE", 100)
    given = tensor(kind, *shape)
    turned = transposed(given, "turned", kind)
    assert (turned.shape, turned.type, turned.nbytes) == (shape[::-1], kind, given.nbytes)
    size = BLOCK[kind][1]
    want = given.rows().reshape(*shape, size).swapaxes(0, 1)
    np.testing.assert_array_equal(turned.rows().reshape(*shape[::-1], size), want)


@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.Q6_K, GGMLType.IQ2_XXS, GGMLType.F16])
def test_blocks_are_quantised_anew(kind: GGMLType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made_file, "AT_ONCE", 20_000)  # 1 block of 256 at a time, or 9 of 32
    given = tensor(kind, 64, 1280)
    turned = transposed(given, "turned", GGMLType.Q8_0)
    values = given.to_float32().T
    assert turned.shape == (1280, 64)
    np.testing.assert_array_equal(turned.rows(), encode(np.ascontiguousarray(values), GGMLType.Q8_0))
    blocks = values.reshape(1280, 2, 32)
    error = np.abs(turned.to_float32().reshape(blocks.shape) - blocks)
    assert (error <= np.abs(blocks).max(-1, keepdims=True) / 127 * 1.1 + 1e-7).all()


@pytest.mark.parametrize("kind", [*FLOATS, GGMLType.Q8_0])
def test_another_type(kind: GGMLType) -> None:
    given = tensor(GGMLType.F32, 3, 64)
    made = retyped(given, kind)
    np.testing.assert_array_equal(made.rows(), encode(given.to_float32(), kind))
    assert not np.shares_memory(made.data, given.data)
    assert made.to_float32().shape == (3, 64)


def test_nothing_is_made_before_it_is_asked_for() -> None:
    count = 0

    def make() -> np.ndarray:
        nonlocal count
        count += 1
        return np.arange(16, dtype=np.uint8)

    made = MadeTensor("some", GGMLType.F32, (2, 2), make)
    assert (made.nbytes, made.n_elements, made.row_bytes, made.n_rows) == (16, 4, 8, 2)
    made.drop_pages(0, 16)
    assert "some" in repr(made)
    assert count == 0
    kept = made.kept()
    assert kept.kept() is kept
    kept.rows(), kept.to_float32(), kept.data
    assert count == 1
    np.testing.assert_array_equal(made.data, kept.data)
    assert count == 2


def test_the_files_pages_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data"
    path.write_bytes(np.ones(4096, np.float32).tobytes())
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    given = Tensor("down", GGMLType.F32, (64, 64), np.frombuffer(mapped, np.uint8))
    dropped: list[tuple[int, int]] = []
    monkeypatch.setattr(Tensor, "drop_pages", lambda self, begin, end: dropped.append((begin, end)))
    assert transposed(given, "turned", GGMLType.F32).to_float32().sum() == 4096
    assert dropped == [(0, 4 * 4096)]


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.Q8_0])
def test_numbers_that_the_type_cannot_hold(kind: GGMLType) -> None:
    numbers = np.zeros((64, 32), np.float32)
    numbers[63, 31] = np.inf
    given = Tensor("blk.7.ffn_down.weight", GGMLType.F32, (64, 32), numbers.view(np.uint8).reshape(-1), Path("m.gguf"))
    for made in (transposed(given, given.name, kind), retyped(given, kind)):
        with pytest.raises(GGUFError, match=r"m\.gguf: the tensor 'blk\.7\.ffn_down\.weight': numbers .* not finite"):
            _ = made.data
    assert np.isinf(dequantize(transposed(given, "x", GGMLType.F32).rows(), GGMLType.F32)[31, 63])
