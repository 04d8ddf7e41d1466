"""The CPU backend's KV cache: its size, and dropping positions from its middle."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.kernels.cache import CacheType
from powerinfer_cli.model import ModelConfig, RopeStyle
from powerinfer_cli.runtime.cache_size import kv_bytes
from powerinfer_cli.runtime.cpu.cache import PackedCache
from powerinfer_cli.runtime.memory import peak_memory
from tests.helpers.tiny_models import tiny_model

FREQUENCIES = 50.0 ** (-np.arange(16) / 16)
TOLERANCE = {"f32": 1e-5, "f16": 4e-3, "q8_0": 4e-2}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    path: Path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    tiny = ModelConfig.from_gguf(open_gguf(tiny_model("llama").file.write(path)))
    return dataclasses.replace(tiny, n_layer=3, n_head=4, n_head_kv=2, head_dim=64)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def filled(config: ModelConfig, n: int, type_k: str, type_v: str) -> PackedCache:
    cache = PackedCache(config, n, type_k, type_v)
    for i, layer in enumerate(cache.layers):
        layer.write_keys(np.arange(n), normal(n, 2, 64, seed=i))
        values = normal(2, n, 64, seed=10 + i)
        if layer.type_v is CacheType.Q8_0:
            layer.v_scales[:] = 0.03
            values = np.rint(values / 0.03).clip(-127, 127)
        layer.v[:, :n] = values
    return cache


@pytest.mark.parametrize("types", [("f32", "f32"), ("f16", "f16"), ("q8_0", "f16"), ("f16", "q8_0"), ("q8_0", "q8_0")])
def test_bytes(config: ModelConfig, types: tuple[str, str]) -> None:
    assert PackedCache(config, 128, *types).n_bytes == kv_bytes(config, 128, *types)
    assert kv_bytes(config, 1, "f16", "f16") == 3 * 2 * 64 * 2 * 2
    assert kv_bytes(config, 1, "q8_0", "f32") == 3 * 2 * (64 + 2 * 2 + 64 * 4)


@pytest.mark.parametrize("kind", CacheType)
def test_what_is_written_is_read(config: ModelConfig, kind: CacheType) -> None:
    layer = PackedCache(config, 50, kind, kind).layers[1]
    k = normal(21, 2, 64)
    layer.write_keys(np.arange(13, 34), k)
    np.testing.assert_allclose(layer.read(np.arange(13, 34))[0], k, rtol=0, atol=TOLERANCE[kind] / 2)
    assert not layer.read(np.arange(13))[0].any()
    assert not layer.read(np.arange(34, 50))[0].any()


@pytest.mark.parametrize("kind", CacheType)
def test_what_is_stored_can_be_put_elsewhere(config: ModelConfig, kind: CacheType) -> None:
    layer, other = filled(config, 50, kind, kind).layers[1], PackedCache(config, 50, kind, kind).layers[1]
    cells, elsewhere = np.arange(10, 40), np.arange(30)[::-1]
    other.store(elsewhere, layer.stored(cells))
    for read, wanted in zip(other.read(elsewhere), layer.read(cells), strict=True):
        np.testing.assert_array_equal(read, wanted)
    with pytest.raises(ValueError, match="instead of"):
        other.check(elsewhere[1:], layer.stored(cells))


@pytest.mark.parametrize("kind", CacheType)
@pytest.mark.parametrize("style", RopeStyle)
@pytest.mark.parametrize(("n_keep", "n_discard"), [(0, 5), (17, 16), (3, 1), (20, 30), (4, 0)])
def test_shift(config: ModelConfig, kind: CacheType, style: RopeStyle, n_keep: int, n_discard: int) -> None:
    assert config.rope is not None
    config = dataclasses.replace(config, rope=dataclasses.replace(config.rope, style=style))
    n = 50
    cache = filled(config, n, kind, kind)
    before = [layer.read(np.arange(n)) for layer in cache.layers]
    cache.shift(np.arange(n_keep + n_discard, n), np.arange(n_keep, n - n_discard), n_discard, FREQUENCIES)
    left = n - n_discard
    for layer, (k, v) in zip(cache.layers, before, strict=True):
        moved_k, moved_v = layer.read(np.arange(left))
        np.testing.assert_array_equal(moved_v, np.delete(v, np.s_[n_keep : n_keep + n_discard], 0))
        np.testing.assert_array_equal(moved_k[:n_keep], k[:n_keep])
        turned = turned_back(k[n_keep + n_discard :], n_discard, style)
        np.testing.assert_allclose(moved_k[n_keep:], turned, rtol=0, atol=TOLERANCE[kind])


def turned_back(keys: np.ndarray, by: int, style: RopeStyle) -> np.ndarray:
    """The first 32 of each head's dimensions turned back by that many positions, as complex numbers."""
    turn = np.exp(-1j * by * FREQUENCIES)
    head = keys[..., :32].astype(np.float64)
    a, b = (head[..., ::2], head[..., 1::2]) if style is RopeStyle.INTERLEAVED else np.split(head, 2, -1)
    z = (a + 1j * b) * turn
    if style is RopeStyle.INTERLEAVED:
        turned = np.stack([z.real, z.imag], -1).reshape(head.shape)
    else:
        turned = np.concatenate([z.real, z.imag], -1)
    return np.concatenate([turned, keys[..., 32:]], -1)


@pytest.mark.parametrize(("type_k", "type_v", "flag"), [("q8_0", "f16", "-ctk"), ("f16", "q8_0", "-ctv")])
def test_heads_that_do_not_divide(config: ModelConfig, type_k: str, type_v: str, flag: str) -> None:
    with pytest.raises(PowerInferError, match=f"{flag} q8_0 needs heads of a multiple of 32, not 80"):
        PackedCache(dataclasses.replace(config, head_dim=80), 50, type_k, type_v)


def test_more_than_there_is(config: ModelConfig) -> None:
    with pytest.raises(PowerInferError, match="choose a smaller -c"):
        PackedCache(config, 1 << 48)


def test_memory_is_not_touched_before_it_is_used(config: ModelConfig) -> None:
    before = peak_memory()
    cache = PackedCache(config, 1 << 22)
    cache.layers[2].write_keys(np.array([(1 << 22) - 1]), normal(1, 2, 64))
    assert cache.n_bytes > 6e9
    assert peak_memory() - before < 50e6
