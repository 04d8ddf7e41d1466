"""Blocks with scales that were searched for: nearer to the numbers than rounding, decoded by the `gguf` package."""

import gguf
import numpy as np
import pytest

from powerinfer_cli.gguf_io import BLOCK, GGMLType, GGUFError, dequantize, quantize
from powerinfer_cli.gguf_io.encoders import SEARCHED, encode

# The error of normally distributed numbers, by their own size: llama.cpp's (ggml_quantize_chunk without importance),
# 512 rows of 1536. Ours is 0.87 to 0.98 of it.
LLAMA_CPP = {
    GGMLType.Q4_0: 0.0859,
    GGMLType.Q4_1: 0.0782,
    GGMLType.Q5_0: 0.0427,
    GGMLType.Q5_1: 0.0379,
    GGMLType.Q8_0: 0.00535,
    GGMLType.Q2_K: 0.297,
    GGMLType.Q3_K: 0.151,
    GGMLType.Q4_K: 0.0713,
    GGMLType.Q5_K: 0.0361,
    GGMLType.Q6_K: 0.0177,
    GGMLType.IQ4_NL: 0.0761,
    GGMLType.IQ4_XS: 0.0767,
    GGMLType.IQ3_S: 0.1374,
    GGMLType.IQ3_XXS: 0.1819,
    GGMLType.IQ2_S: 0.2493,
    GGMLType.IQ2_XS: 0.2998,
    GGMLType.IQ2_XXS: 0.344,
    GGMLType.IQ1_M: 0.452,
    GGMLType.IQ1_S: 0.4864,
}
# Of these, entries of a table have no zeros, and a run of numbers has no minimum of its own.
BY_TABLE = {kind for kind in SEARCHED if kind.name.startswith(("IQ1", "IQ2", "IQ3"))}
by_grid = pytest.mark.parametrize("kind", sorted(SEARCHED - BY_TABLE), ids=lambda kind: kind.name)
every_type = pytest.mark.parametrize("kind", sorted(SEARCHED), ids=lambda kind: kind.name)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def decoded(stored: np.ndarray, kind: GGMLType) -> np.ndarray:
    """By the authority; ours says the same."""
    found = gguf.quants.dequantize(stored, gguf.GGMLQuantizationType(kind))
    np.testing.assert_array_equal(dequantize(stored, kind), found)
    return found


def error(x: np.ndarray, stored: np.ndarray, kind: GGMLType) -> float:
    return float(np.sqrt(((decoded(stored, kind) - x) ** 2).mean() / (x**2).mean()))


@every_type
def test_nearer_than_llama_cpp(kind: GGMLType) -> None:
    x = normal(40, 1536) * 0.05
    stored = encode(x, kind)
    assert stored.dtype == np.uint8
    assert stored.shape == (40, 1536 // BLOCK[kind][0] * BLOCK[kind][1])
    assert error(x, stored, kind) < LLAMA_CPP[kind]


@pytest.mark.parametrize("kind", [GGMLType.Q4_0, GGMLType.Q4_1, GGMLType.Q5_0, GGMLType.Q5_1, GGMLType.Q8_0])
@pytest.mark.parametrize("draw", ["uniform", "heavy", "shifted"])
def test_nearer_than_rounding(kind: GGMLType, draw: str) -> None:
    rng = np.random.default_rng(1)
    x = {
        "uniform": rng.uniform(-1, 1, (16, 512)),
        "heavy": rng.standard_t(3, (16, 512)),
        "shifted": rng.standard_normal((16, 512)) + 3,
    }[draw].astype(np.float32)
    assert error(x, encode(x, kind), kind) < error(x, quantize(x, kind), kind)


@every_type
def test_what_is_stored_already_stays(kind: GGMLType) -> None:
    """Numbers that a block can hold exactly cost nothing or little."""
    once = decoded(encode(normal(4, 512), kind), kind)
    assert error(once, encode(once, kind), kind) < (0.2 if BLOCK[kind][0] == 32 else 0.5) * LLAMA_CPP[kind]


@by_grid
@pytest.mark.parametrize("size", [1e-3, 1.0, 2e4])
def test_groups_that_are_all_the_same(kind: GGMLType, size: float) -> None:
    """Constant, but for some zeros; of either sign; one number alone."""
    x = np.zeros((6, 256), np.float32)
    x[1], x[2] = size, -size
    x[3, ::2], x[4, ::3] = size, -size
    x[5, 100] = size
    found = decoded(encode(x, kind), kind)
    assert (found[0] == 0).all()
    np.testing.assert_allclose(found, x, atol=size * (0.04 if BLOCK[kind][0] == 32 else 0.1))


@every_type
def test_tiny_numbers_become_zeros(kind: GGMLType) -> None:
    for size in (1e-42, 1e-30, 1e-12):
        np.testing.assert_allclose(decoded(encode(normal(2, 256) * np.float32(size), kind), kind), 0, atol=1e-7)


@every_type
def test_small_numbers_are_as_near(kind: GGMLType) -> None:
    """Scales of super-blocks come near the least that float16 holds."""
    x = normal(8, 512) * np.float32(1e-3)
    assert error(x, encode(x, kind), kind) < 1.3 * LLAMA_CPP[kind]


@pytest.mark.parametrize("kind", sorted(BY_TABLE), ids=lambda kind: kind.name)
@pytest.mark.parametrize("size", [1e-3, 1.0, 2e4])
def test_entries_of_a_table_hold_signs_and_nothing(kind: GGMLType, size: float) -> None:
    """A constant of either sign, and zeros."""
    x = np.zeros((3, 256), np.float32)
    x[1], x[2] = size, -size
    found = decoded(encode(x, kind), kind)
    assert (found[0] == 0).all()
    # Not every table has an entry of numbers that are all the same.
    assert np.abs(found[1:].mean(1) - [size, -size]).max() < 0.15 * size
    if kind not in (GGMLType.IQ1_S, GGMLType.IQ1_M):
        np.testing.assert_array_equal(np.sign(found[1:]), np.sign(x[1:]))


@every_type
def test_wide_rows_and_outliers_are_finite(kind: GGMLType) -> None:
    x = normal(3, 512)
    x[0, 7], x[1, 300], x[2, ::32] = 65504, -65504, 1e4
    found = decoded(encode(x, kind), kind)
    assert np.isfinite(found).all()
    assert error(x, encode(x, kind), kind) < (3 if kind in BY_TABLE else 2) * LLAMA_CPP[kind]


@every_type
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 70000.0])
def test_numbers_that_cannot_be_stored(kind: GGMLType, bad: float) -> None:
    x = normal(3, 512)
    x[2, 500] = bad
    with pytest.raises(GGUFError, match=f"not finite cannot be stored as {kind.name}"):
        encode(x, kind)


@every_type
def test_rows_are_whole_blocks_and_may_be_none(kind: GGMLType) -> None:
    with pytest.raises(GGUFError, match=f"rows of 48 cannot be {kind.name}: they are no whole blocks of"):
        encode(np.ones((2, 48), np.float32), kind)
    assert encode(np.ones((0, 512), np.float32), kind).shape == (0, 512 // BLOCK[kind][0] * BLOCK[kind][1])
    assert encode(np.ones((3, 0), np.float32), kind).shape == (3, 0)


@every_type
def test_important_columns_are_nearer(kind: GGMLType) -> None:
    x, importance = normal(32, 512), np.ones(512, np.float32)
    importance[::4] = 100
    plain, weighted = (decoded(encode(x, kind, one), kind) - x for one in (None, importance))
    assert (weighted[:, ::4] ** 2).mean() < 0.9 * (plain[:, ::4] ** 2).mean()
    assert (importance * weighted**2).mean() < (importance * plain**2).mean()


def test_importance_of_any_size() -> None:
    """Only its ratios count; a column that does not matter is still stored, where there is room."""
    x, kind = normal(4, 256), GGMLType.Q4_K
    importance = np.random.default_rng(3).uniform(0.1, 10, 256).astype(np.float32)
    for size in (1e-30, 1e30):
        np.testing.assert_array_equal(encode(x, kind, importance * np.float32(size)), encode(x, kind, importance))
    importance[:64] = 0
    assert error(x, encode(x, kind, importance), kind) < 0.2
    np.testing.assert_array_equal(encode(x, kind, np.zeros(256, np.float32)), encode(x, kind))


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (np.ones(255), r"shape \(255,\) for 256 columns"),
        (np.full(256, np.nan), "finite, from 0 on"),
        (np.full(256, -1.0), "finite, from 0 on"),
    ],
)
def test_importance_that_is_none(bad: np.ndarray, problem: str) -> None:
    with pytest.raises(GGUFError, match=problem):
        encode(np.ones((2, 256), np.float32), GGMLType.Q4_K, bad)


@pytest.mark.parametrize("kind", [GGMLType.Q5_1, GGMLType.Q6_K, GGMLType.IQ3_S])
def test_threads_and_layout_of_memory_change_nothing(kind: GGMLType) -> None:
    x = normal(512, 300)
    wanted = encode(np.ascontiguousarray(x.T), kind)
    np.testing.assert_array_equal(encode(x.T, kind, threads=3), wanted)
    np.testing.assert_array_equal(encode(np.ascontiguousarray(x.T)[17:18], kind), wanted[17:18])


@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.F16, GGMLType.BF16])
def test_other_types_are_rounded(kind: GGMLType) -> None:
    np.testing.assert_array_equal(encode(normal(2, 64), kind), quantize(normal(2, 64), kind))
    with pytest.raises(GGUFError, match="cannot be quantised to I8"):
        encode(normal(2, 256), GGMLType.I8)
