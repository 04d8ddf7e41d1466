"""Q4_0 to Q8_0 are what ggml writes, to the bit, on every CPU."""

import hashlib

import numpy as np
import pytest

from powerinfer_cli.gguf_io import GGMLType, GGUFError, quantize
from powerinfer_cli.kernels.cpu.encoding import LEGACY, encode_rows

pytestmark = pytest.mark.rungs

COLUMNS = 544  # 17 blocks: one more than are fitted at a time
STEPS = np.arange(COLUMNS, dtype=np.uint64)
IMPORTANCE = ((STEPS * np.uint64(2654435761) >> np.uint64(7)) % np.uint64(1000)).astype(np.float32) / np.float32(512)

# Of what `ggml_quantize_chunk` (llama-cpp-python 0.3.36) makes of these numbers, without importance and with it.
GGML = {
    GGMLType.Q4_0: ("b09de9ac2015e656", "18cf870440e700da"),
    GGMLType.Q4_1: ("acd495635f067100", "a31325892263032a"),
    GGMLType.Q5_0: ("e86b940f1af9b29e", "9df04dddbfea0328"),
    GGMLType.Q5_1: ("f257963b775a43e2", "80e9eae8aaa555dd"),
    GGMLType.Q8_0: ("75675a1cf6049d0f", "75675a1cf6049d0f"),
}


def numbers() -> np.ndarray:
    """[24, 544], made of whole numbers, so that they are the same everywhere; zeros, constants, ties, tiny ones too."""
    steps = np.arange(24 * COLUMNS, dtype=np.uint64)
    mixed = (steps * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)) >> np.uint64(40)
    x = (mixed.astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(24, COLUMNS)
    x = x * x * x * np.exp2(np.arange(24) % 5 - 3).astype(np.float32)[:, None]
    x[0], x[1], x[2], x[3] = 0, 0.5, -0.25, np.abs(x[3])
    x[4], x[5, ::2], x[5, 1::2] = -np.abs(x[4]), 1, -1
    x[6] *= np.float32(2.0**-60)
    x[7], x[8] = np.rint(x[7] * 40), x[8].astype(np.float16)
    x[9, ::7] *= 30
    x[10], x[11], x[12, 1::2], x[12, ::2] = -0.0, np.abs(x[11]), 0, -0.0
    x[11, 3::5], x[13, ::3] = -0.0, 0
    return x


@pytest.mark.parametrize("kind", LEGACY, ids=lambda kind: kind.name)
def test_bits_are_ggmls(kind: GGMLType) -> None:
    x, found = numbers(), []
    for importance in (None, IMPORTANCE):
        made = encode_rows(x.view(np.uint8), GGMLType.F32, kind, importance)
        found.append(hashlib.sha256(made.tobytes()).hexdigest()[:16])
    assert tuple(found) == GGML[kind]


@pytest.mark.parametrize("kind", LEGACY, ids=lambda kind: kind.name)
@pytest.mark.parametrize("source", [GGMLType.F16, GGMLType.BF16, GGMLType.F32], ids=lambda kind: kind.name)
def test_bits_are_those_of_the_gguf_package(kind: GGMLType, source: GGMLType) -> None:
    stored = quantize(np.random.default_rng(0).standard_normal((7, 96)).astype(np.float32), source)
    plain = {GGMLType.F32: np.float32, GGMLType.F16: np.float16}.get(source)
    x = stored.view(plain) if plain else (stored.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(encode_rows(stored, source, kind), quantize(x.astype(np.float32), kind))


@pytest.mark.parametrize("wrong", [np.inf, np.nan, 1e6])
@pytest.mark.parametrize("source", [GGMLType.F16, GGMLType.BF16, GGMLType.F32], ids=lambda kind: kind.name)
def test_numbers_that_a_scale_cannot_hold(source: GGMLType, wrong: float) -> None:
    x = np.ones((2, 32), np.float32)
    x[1, 5] = wrong
    with np.errstate(over="ignore"):
        stored = x.astype(np.float16).view(np.uint8) if source is GGMLType.F16 else quantize(x, source)
    with pytest.raises(GGUFError, match="not finite cannot be stored as Q4_0"):
        encode_rows(stored, source, GGMLType.Q4_0)


def test_a_minimum_that_is_found_beyond_float16() -> None:
    x = (np.random.default_rng(0).standard_normal((1, 32)) * 6e4).clip(-65504, 65504).astype(np.float32)
    with pytest.raises(GGUFError, match="near 65504 cannot be stored as Q5_1"):
        encode_rows(x.view(np.uint8), GGMLType.F32, GGMLType.Q5_1, np.ones(32, np.float32))
