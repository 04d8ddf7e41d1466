"""Rope, the KV cache and attention against their plain twins, the parts of the cache that are not filled poisoned."""

from typing import Any

import numpy as np
import pytest

from powerinfer_cli.kernels.cache import PAGE, CacheType, KeysValues, Shape
from powerinfer_cli.kernels.cpu.attention.operation import attention
from powerinfer_cli.kernels.cpu.attention.rope import rope
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.formats import padded
from powerinfer_cli.model.blocks import Temperature
from tests.helpers.kernels.kernel_runs import poisoned_vectors, rows_of, run, state_of, states_of
from tests.helpers.rounding import Interval
from tests.helpers.rounding import attention as wanted

SINKS = np.array([0.0, -3.0, 2.0, 30.0, -40.0, 1.0], np.float32)
LOSS = {CacheType.F32: 0.0, CacheType.F16: 2e-3, CacheType.Q8_0: 3e-2}  # of what is stored


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def poisoned(shape: Shape, type_k: CacheType, type_v: CacheType) -> KeysValues:
    """A cache full of NaN; behind head_dim values are zeros, as they are in a new cache."""
    cache = KeysValues.make(shape, type_k, type_v)
    for part in (cache.k, cache.v, cache.k_scales, cache.v_scales):
        part[:] = np.nan if part.dtype != np.int8 else 99
    cache.v[..., shape.head_dim :] = 0
    return cache


def fill(cache: KeysValues, k: np.ndarray, v: np.ndarray, begin: int = 0) -> None:
    """k, v [S, n_head_kv, head_dim] at positions from `begin` on."""
    n, shape = len(k), cache.shape
    q = np.zeros((n, padded(shape.n_head * shape.head_dim)), np.float32)
    keys, values = (rows_of(x.reshape(n, -1), np.nan) for x in (k, v))
    run(rope(state_of(n, begin), q, keys, values, cache, None, None))


def attend(
    cache: KeysValues,
    q: np.ndarray,
    n_past: int,
    threads: int = 2,
    window: int | None = None,
    cap: float | None = None,
    alibi: float | None = None,
    temperature: Temperature | None = None,
    sinks: np.ndarray | None = None,
    chunk: int | None = None,
) -> np.ndarray:
    """q [T, n_head, head_dim] -> [T, n_head * head_dim]"""
    n = len(q)
    queries = rows_of(q.reshape(n, -1), np.nan)
    out: Vectors = poisoned_vectors(n, q[0].size, records=False)
    limits = {
        "scale": q.shape[-1] ** -0.5,
        "window": window,
        "softcap": cap,
        "alibi": alibi,
        "sinks": sinks,
        "chunk": chunk,
    }
    if temperature is not None:
        limits["temperatures"] = temperature.at(np.arange(n_past, n_past + n))
    run(attention(state_of(n, n_past), queries, cache, out, threads, **limits), threads=threads)
    assert not out.floats[:, out.n :].any()
    return out.floats[:, : out.n].copy()


def shape_of(n_head: int, n_head_kv: int, head_dim: int, positions: int) -> Shape:
    return Shape(n_head, n_head_kv, head_dim, -(-positions // PAGE) * PAGE)


@pytest.mark.parametrize(("n_token", "n_past"), [(1, 0), (1, 200), (2, 127), (5, 0), (37, 100), (130, 1)])
@pytest.mark.parametrize(("n_head", "n_head_kv", "head_dim"), [(8, 1, 64), (3, 3, 10), (6, 2, 80), (14, 2, 32)])
def test_attention(n_token: int, n_past: int, n_head: int, n_head_kv: int, head_dim: int) -> None:
    n = n_past + n_token
    q, k, v = normal(n_token, n_head, head_dim), normal(n, n_head_kv, head_dim, seed=1), normal(n, n_head_kv, head_dim)
    cache = poisoned(shape_of(n_head, n_head_kv, head_dim, n), CacheType.F32, CacheType.F32)
    fill(cache, k, v)
    wanted(q, k, v).check(attend(cache, q, n_past))


@pytest.mark.rungs
@pytest.mark.parametrize(("n_token", "n_past"), [(1, 0), (1, 300), (5, 126), (150, 0), (40, 290)])
@pytest.mark.parametrize(("window", "cap"), [(1, None), (7, None), (128, None), (129, 2.0), (None, 0.5), (1000, 30.0)])
def test_windows_and_caps(n_token: int, n_past: int, window: int | None, cap: float | None) -> None:
    """What lies behind the window is not looked at, in whichever page it is."""
    n = n_past + n_token
    q, k, v = normal(n_token, 6, 48), normal(n, 2, 48, seed=1), normal(n, 2, 48, seed=2)
    cache = poisoned(shape_of(6, 2, 48, n), CacheType.F32, CacheType.F32)
    fill(cache, k, v)
    out = attend(cache, q, n_past, window=window, cap=cap)
    wanted(q, k, v, window=window, cap=cap or 0.0).check(out)
    alone = [attend(cache, q[t : t + 1], n_past + t, window=window, cap=cap) for t in range(n_token)]
    np.testing.assert_array_equal(np.concatenate(alone), out)


@pytest.mark.rungs
@pytest.mark.parametrize(("n_token", "n_past"), [(1, 300), (5, 126), (40, 290)])
@pytest.mark.parametrize(("n_head", "n_head_kv"), [(6, 2), (5, 5)])
@pytest.mark.parametrize(
    "bends",
    [
        {"alibi": 8.0},
        {"alibi": 16.0, "window": 30, "cap": 2.0},
        {"temperature": Temperature(0.5, 16)},
        {"temperature": Temperature(2.0, 100), "alibi": 4.0},
        {"sinks": SINKS},
        {"chunk": 16},
        {"chunk": 150, "temperature": Temperature(0.5, 16, 1), "sinks": SINKS},
        {"sinks": SINKS, "window": 30, "cap": 2.0},
    ],
)
def test_scores_by_position(n_token: int, n_past: int, n_head: int, n_head_kv: int, bends: dict[str, Any]) -> None:
    """They fall with distance, or grow with the query's own position; or a head has one more, without a value."""
    if "sinks" in bends:
        bends = bends | {"sinks": SINKS[:n_head]}
    n = n_past + n_token
    q, k, v = normal(n_token, n_head, 24), normal(n, n_head_kv, 24, seed=1), normal(n, n_head_kv, 24, seed=2)
    cache = poisoned(shape_of(n_head, n_head_kv, 24, n), CacheType.F32, CacheType.F32)
    fill(cache, k, v)
    out = attend(cache, q, n_past, **bends)
    wanted(q, k, v, **bends).check(out)
    alone = [attend(cache, q[t : t + 1], n_past + t, **bends) for t in range(n_token)]
    np.testing.assert_array_equal(np.concatenate(alone), out)


@pytest.mark.rungs
@pytest.mark.parametrize("type_k", CacheType)
@pytest.mark.parametrize("type_v", CacheType)
@pytest.mark.parametrize(("n_token", "head_dim"), [(1, 96), (9, 64)])
def test_types(type_k: CacheType, type_v: CacheType, n_token: int, head_dim: int) -> None:
    n_past = 77
    q, k, v = normal(n_token, 6, head_dim), normal(n_past + n_token, 2, head_dim, seed=1), normal(86, 2, head_dim)
    v = v[: len(k)]
    cache = poisoned(shape_of(6, 2, head_dim, len(k)), type_k, type_v)
    fill(cache, k, v)
    out = attend(cache, q, n_past)
    exact = wanted(q, k, v)
    Interval(exact.value, exact.radius + max(LOSS[type_k], LOSS[type_v])).check(out)
    # What the cache gives back is what was attended to.
    read_k, read_v = cache.read(np.arange(len(k)))
    wanted(q, read_k, read_v).check(out)


@pytest.mark.rungs
@pytest.mark.parametrize(("kind", "n_head", "n_head_kv"), [("f16", 8, 2), ("q8_0", 5, 5), ("f32", 7, 1)])
def test_threads_batches_and_tiles_change_no_bit(kind: str, n_head: int, n_head_kv: int) -> None:
    n, head_dim = 150, 32
    q, k, v = normal(n, n_head, head_dim), normal(n, n_head_kv, head_dim, seed=1), normal(n, n_head_kv, head_dim)
    cache = poisoned(shape_of(n_head, n_head_kv, head_dim, n), CacheType(kind), CacheType(kind))
    fill(cache, k, v)
    whole = attend(cache, q, 0, threads=1)
    for threads in (2, 3, 16):
        np.testing.assert_array_equal(attend(cache, q, 0, threads), whole)
    parts, at = [], 0
    for size in (1, 2, 3, 1, 90, 50, 3):
        parts.append(attend(cache, q[at : at + size], at, threads=3))
        at += size
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("kind", CacheType)
@pytest.mark.parametrize("window", [1, 30, 128, 200])
def test_what_lies_behind_a_window_may_be_anything(kind: CacheType, window: int) -> None:
    """Numbers, or none: no bit depends on it, nor on where tiles begin."""
    n, n_past, shape = 8, 413, shape_of(6, 2, 64, 421)
    q, k, v = normal(n, 6, 64), normal(n_past + n, 2, 64, seed=1), normal(n_past + n, 2, 64, seed=2)
    full, cut = poisoned(shape, kind, kind), poisoned(shape, kind, kind)
    fill(full, k, v)
    first = n_past + 1 - window
    fill(cut, k[first:], v[first:], begin=first)
    found = attend(cut, q, n_past, window=window)
    np.testing.assert_array_equal(found, attend(full, q, n_past, window=window))
    alone = [attend(full, q[t : t + 1], n_past + t, window=window) for t in range(n)]
    np.testing.assert_array_equal(np.concatenate(alone), found)


def test_the_future_is_not_seen() -> None:
    q, k, v = normal(40, 4, 16), normal(40, 2, 16, seed=1), normal(40, 2, 16, seed=2)
    cache = poisoned(shape_of(4, 2, 16, 40), CacheType.F32, CacheType.F32)
    fill(cache, k, v)
    before = attend(cache, q, 0)
    fill(cache, k[20:] * 50, v[20:] * 1e6, 20)
    np.testing.assert_array_equal(attend(cache, q, 0)[:20], before[:20])


@pytest.mark.rungs
def test_scores_far_apart() -> None:
    """The maximum comes first, last, or in the middle, and dwarfs the rest."""
    q = normal(1, 1, 16)
    for place in (0, 130, 299):
        k, v = normal(300, 1, 16, seed=1) * 30, normal(300, 1, 16, seed=2)
        k[place] = q[0] * 100
        cache = poisoned(shape_of(1, 1, 16, 300), CacheType.F32, CacheType.F32)
        fill(cache, k, v)
        np.testing.assert_allclose(attend(cache, q, 299)[0], v[place, 0], rtol=0, atol=1e-6)


def test_sequences_in_scattered_pages() -> None:
    """Each sequence's tokens are what they are alone, in pages that lie anywhere."""
    # (tokens, tokens before, pages)
    parts = [(1, 200, [3, 0]), (40, 100, [5, 1]), (1, 0, [6]), (3, 127, [2, 4])]
    shape = shape_of(6, 2, 32, 7 * PAGE)
    n_token, queries, alone = sum(count for count, _, _ in parts), [], []
    shared = poisoned(shape, CacheType.F16, CacheType.F16)
    rows, segments = [], []
    for seed, (count, past, pages) in enumerate(parts):
        n = past + count
        q, k, v = normal(count, 6, 32, seed=seed), normal(n, 2, 32, seed=10 + seed), normal(n, 2, 32, seed=20 + seed)
        own = poisoned(shape_of(6, 2, 32, n), CacheType.F16, CacheType.F16)
        fill(own, k, v)
        alone.append(attend(own, q, past))
        queries.append(q.reshape(count, -1))
        rows.append((k, v))
        segments.append((n, 0, pages))
    keys, values = (np.concatenate([pair[i] for pair in rows]) for i in (0, 1))
    total = len(keys)
    q_of_all = np.zeros((total, padded(6 * 32)), np.float32)
    run(
        rope(
            states_of(segments), q_of_all, *(rows_of(x.reshape(total, -1)) for x in (keys, values)), shared, None, None
        ),
        threads=3,
    )
    out = poisoned_vectors(n_token, 6 * 32, records=False)
    stacked = rows_of(np.concatenate(queries), np.nan)
    run(attention(states_of(parts), stacked, shared, out, 3, scale=32**-0.5), threads=3)
    np.testing.assert_array_equal(out.floats[:, : out.n], np.concatenate(alone))


def test_a_long_context() -> None:
    n = 33000
    q, k, v = normal(2, 2, 16), normal(n, 1, 16, seed=1), normal(n, 1, 16, seed=2)
    cache = poisoned(shape_of(2, 1, 16, n), CacheType.F32, CacheType.F32)
    fill(cache, k, v)
    wanted(q, k, v).check(attend(cache, q, n - 2))
