"""The CPU backend's KV cache: its size, and dropping positions from its middle."""

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.gguf_io import open_gguf
from powerinfer_cli.kernels.cache import CacheType
from powerinfer_cli.model import RopeStyle, load_model
from powerinfer_cli.runtime.context.cache_size import kv_bytes
from powerinfer_cli.runtime.context.pages import Extent
from powerinfer_cli.runtime.cpu.cache import PackedCache
from powerinfer_cli.system.memory import peak_memory
from tests.helpers.tiny_models import tiny_model

Layers: TypeAlias = list[Any]

FREQUENCIES = 50.0 ** (-np.arange(16) / 16)
TOLERANCE = {"f32": 1e-5, "f16": 4e-3, "q8_0": 4e-2}


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Layers:
    path: Path = tmp_path_factory.mktemp("llama") / "tiny.gguf"
    model = load_model(open_gguf(tiny_model("llama").file.write(path)))
    return [changed(model.layers[0], n_head=4, n_head_kv=2, head_dim=64)] * 3


def numbered(layers: Layers) -> dict[int, Any]:
    return dict(enumerate(layers))


def changed(layer: Any, **changes: Any) -> Any:
    return replace(layer, attention=replace(layer.attention, **changes))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def filled(layers: Layers, n: int, type_k: str, type_v: str) -> PackedCache:
    cache = PackedCache(numbered(layers), Extent(n), type_k, type_v)
    for i, layer in enumerate(cache.layers):
        layer.write_keys(np.arange(n), normal(n, 2, 64, seed=i))
        values = normal(2, n, 64, seed=10 + i)
        if layer.type_v is CacheType.Q8_0:
            layer.v_scales[:] = 0.03
            values = np.rint(values / 0.03).clip(-127, 127)
        layer.v[:, :n] = values
    return cache


@pytest.mark.parametrize("types", [("f32", "f32"), ("f16", "f16"), ("q8_0", "f16"), ("f16", "q8_0"), ("q8_0", "q8_0")])
def test_bytes(layers: Layers, types: tuple[str, str]) -> None:
    assert PackedCache(numbered(layers), Extent(128), *types).n_bytes == kv_bytes(layers, Extent(128), *types)
    assert kv_bytes(layers, Extent(1), "f16", "f16") == 128 * 3 * 2 * 64 * 2 * 2
    assert kv_bytes(layers, Extent(1), "q8_0", "f32") == 128 * 3 * 2 * (64 + 2 * 2 + 64 * 4)


@pytest.mark.parametrize("kind", CacheType)
def test_what_is_written_is_read(layers: Layers, kind: CacheType) -> None:
    layer = PackedCache(numbered(layers), Extent(50), kind, kind).layers[1]
    k = normal(21, 2, 64)
    layer.write_keys(np.arange(13, 34), k)
    np.testing.assert_allclose(layer.read(np.arange(13, 34))[0], k, rtol=0, atol=TOLERANCE[kind] / 2)
    assert not layer.read(np.arange(13))[0].any()
    assert not layer.read(np.arange(34, 50))[0].any()


@pytest.mark.parametrize("kind", CacheType)
def test_what_is_stored_can_be_put_elsewhere(layers: Layers, kind: CacheType) -> None:
    layer, other = (
        filled(layers, 50, kind, kind).layers[1],
        PackedCache(numbered(layers), Extent(50), kind, kind).layers[1],
    )
    cells, elsewhere = np.arange(10, 40), np.arange(30)[::-1]
    other.store(elsewhere, layer.stored(cells))
    for read, wanted in zip(other.read(elsewhere), layer.read(cells), strict=True):
        np.testing.assert_array_equal(read, wanted)
    with pytest.raises(ValueError, match="instead of"):
        other.check(elsewhere[1:], layer.stored(cells))


@pytest.mark.parametrize("kind", CacheType)
@pytest.mark.parametrize("style", RopeStyle)
@pytest.mark.parametrize(("n_keep", "n_discard"), [(0, 5), (17, 16), (3, 1), (20, 30), (4, 0)])
def test_shift(layers: Layers, kind: CacheType, style: RopeStyle, n_keep: int, n_discard: int) -> None:
    rope = replace(layers[0].attention.rope, style=style)
    layers, n = [changed(layer, rope=rope) for layer in layers], 50
    cache = filled(layers, n, kind, kind)
    before = [layer.read(np.arange(n)) for layer in cache.layers]
    moves = np.arange(n_keep + n_discard, n), np.arange(n_keep, n - n_discard)
    cache.shift(lambda window: moves, n_discard, {rope: FREQUENCIES})
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
def test_heads_that_do_not_divide(layers: Layers, type_k: str, type_v: str, flag: str) -> None:
    with pytest.raises(PowerInferError, match=f"{flag} q8_0 needs heads of a multiple of 32, not 80"):
        PackedCache(numbered([changed(layer, head_dim=80) for layer in layers]), Extent(50), type_k, type_v)


def test_more_than_there_is(layers: Layers) -> None:
    with pytest.raises(PowerInferError, match=r"choose a smaller one \(-c, n_ctx\)"):
        PackedCache(numbered(layers), Extent(1 << 48))


def test_memory_is_not_touched_before_it_is_used(layers: Layers) -> None:
    before = peak_memory()
    cache = PackedCache(numbered(layers), Extent(1 << 22))
    cache.layers[2].write_keys(np.array([(1 << 22) - 1]), normal(1, 2, 64))
    assert cache.n_bytes > 6e9
    assert peak_memory() - before < 50e6
