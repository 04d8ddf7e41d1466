"""Rotation by position, norms of heads, and what is stored, against their plain twins."""

import numpy as np
import pytest
import torch

from powerinfer_cli.kernels import reference
from powerinfer_cli.kernels.cache import PAGE, CacheType, KeysValues, Shape
from powerinfer_cli.kernels.cpu.attention.rope import Angles, rope
from powerinfer_cli.kernels.jit.program import Operation
from powerinfer_cli.model import NormKind, RopeStyle
from powerinfer_cli.model.blocks import HeadNorms, Norm
from tests.helpers.kernels.kernel_runs import on_any_team, rows_of, run, state_of

EPS = 1e-6


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def cache_of(n_head: int, n_head_kv: int, head_dim: int, kind: CacheType = CacheType.F32) -> KeysValues:
    cache = KeysValues.make(Shape(n_head, n_head_kv, head_dim, 2 * PAGE), kind, kind)
    for part in (cache.k, cache.v, cache.k_scales, cache.v_scales):
        part[:] = 99
    return cache


def angles_of(n_rot: int, n_tokens: int, n_past: int, magnitude: float = 1.0) -> Angles:
    angles = Angles(n_tokens, 100.0 ** (-np.arange(0, n_rot, 2) / n_rot), magnitude)
    angles.cos[:], angles.sin[:] = np.nan, np.nan
    angles.fill(np.arange(n_past, n_past + n_tokens))
    return angles


@pytest.mark.rungs
@pytest.mark.parametrize("style", RopeStyle)
@pytest.mark.parametrize(("head_dim", "n_rot"), [(64, 64), (80, 20), (10, 6), (96, 96)])
@pytest.mark.parametrize(("n_token", "n_past"), [(1, 0), (1, 63), (5, 14), (50, 30)])
@pytest.mark.parametrize("normed", ["", "rms", "rms own", "layer own", "rms after values", "layer after"])
def test_rope(style: RopeStyle, head_dim: int, n_rot: int, n_token: int, n_past: int, normed: str) -> None:
    q, k, v = normal(n_token, 6, head_dim), normal(n_token, 2, head_dim, seed=1), normal(n_token, 2, head_dim, seed=2)
    kind = NormKind.LAYER if "layer" in normed else NormKind.RMS
    heads_of = (6, 2) if "own" in normed else (1, 1)  # weights: of each head its own, or one for all
    weights = [normal(n * head_dim, seed=3 + n) for n in heads_of]
    when = {"after_rope": "after" in normed, "values": "values" in normed}
    norms = HeadNorms(*(Norm(kind, EPS, w, None) for w in weights), **when) if normed else None
    angles = angles_of(n_rot, n_token, n_past, magnitude=1.25)
    made = []

    def make() -> tuple[Operation, list[np.ndarray]]:
        rows = [rows_of(x.reshape(n_token, -1), np.nan) for x in (q, k, v)]
        cache = cache_of(6, 2, head_dim)
        made[:] = [rows[0], cache]
        operation = rope(state_of(n_token, n_past), *rows, cache, angles, style, norms)
        return operation, [rows[0], cache.k, cache.v]

    on_any_team(make)
    turned, cache = made
    cos, sin = torch.from_numpy(angles.cos), torch.from_numpy(angles.sin)
    heads = []
    for x, weight in zip((torch.from_numpy(q), torch.from_numpy(k)), weights, strict=True):
        turn = reference.rotate(x, cos, sin, style) if "after" in normed else x
        if normed:
            turn = reference.layer_norm(turn, torch.ones(head_dim), None, EPS) if "layer" in normed else turn
            ones = torch.ones(head_dim)
            turn = turn if "layer" in normed else reference.rms_norm(turn, ones, EPS)
            turn = turn * torch.from_numpy(weight).view(-1, head_dim)
        heads.append(turn if "after" in normed else reference.rotate(turn, cos, sin, style))
    wanted_q, wanted_k = (x.numpy() for x in heads)
    np.testing.assert_allclose(turned[:, : 6 * head_dim].reshape(q.shape), wanted_q, rtol=1e-5, atol=3e-6)
    stored_k, stored_v = cache.read(np.arange(2 * PAGE))
    np.testing.assert_allclose(stored_k[n_past : n_past + n_token], wanted_k, rtol=1e-5, atol=3e-6)
    wanted_v = v / np.sqrt((v**2).mean(-1, keepdims=True) + EPS) if "values" in normed else v
    np.testing.assert_allclose(stored_v[n_past : n_past + n_token], wanted_v, rtol=1e-5 if "values" in normed else 0)
    for stored in (stored_k, stored_v):  # other positions are as they were
        assert (stored[:n_past] == 99).all()
        assert (stored[n_past + n_token :] == 99).all()


def test_queries_alone() -> None:
    """They are turned as beside keys, and the cache stays as it is."""
    q, norm = normal(5, 40), Norm(NormKind.RMS, EPS, normal(10, seed=3), None)
    found = []
    for keys in (rows_of(normal(5, 20, seed=1)), None):
        cache, rows = cache_of(4, 2, 10), rows_of(q, np.nan)
        angles = angles_of(10, 5, 14), RopeStyle.NEOX
        run(rope(state_of(5, 14), rows, keys, keys, cache, *angles, HeadNorms(norm, norm)), threads=2)
        found.append(rows)
    np.testing.assert_array_equal(*found)
    assert all((part == 99).all() for part in (cache.k, cache.v))


def test_nothing_is_turned_without_angles() -> None:
    q, k, v = normal(3, 40), normal(3, 20, seed=1), normal(3, 20, seed=2)
    cache, rows = cache_of(4, 2, 10), rows_of(q, np.nan)
    run(rope(state_of(3), rows, rows_of(k), rows_of(v), cache, None, None), threads=2)
    np.testing.assert_array_equal(rows[:, :40], q)
    np.testing.assert_array_equal(cache.read(np.arange(3))[0].reshape(3, -1), k)


@pytest.mark.rungs
@pytest.mark.parametrize(("kind", "most"), [(CacheType.F16, 2**-11), (CacheType.Q8_0, 0.502 / 127)])
def test_what_storing_loses(kind: CacheType, most: float) -> None:
    """Half a step of float16, or of q8_0: of the largest among 32 dimensions."""
    k, v = normal(20, 2, 64, seed=1), normal(20, 2, 64, seed=2)
    k[7, 1, 32:] = 0
    cache = cache_of(2, 2, 64, kind)
    run(
        rope(
            state_of(20, 9),
            rows_of(k.reshape(20, -1)),
            *(rows_of(x.reshape(20, -1)) for x in (k, v)),
            cache,
            None,
            None,
        )
    )
    for stored, x in zip(cache.read(np.arange(29)), (k, v), strict=True):
        groups = x.reshape(20, 2, 2, 32)
        scale = np.abs(groups) if kind is CacheType.F16 else np.abs(groups).max(-1, keepdims=True)
        error = np.abs(stored[9:].reshape(groups.shape) - groups)
        assert (error <= scale * (most + 2**-11 * (kind is CacheType.Q8_0))).all()
