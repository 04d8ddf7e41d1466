"""As `triton_cases`: turning, storing and attention."""

from typing import Any

import pytest
import torch
from torch import Tensor

from powerinfer_cli.kernels.cache import PAGE, CacheType
from powerinfer_cli.kernels.device import DeviceCache, make_cache
from powerinfer_cli.kernels.device.cache import SPARE
from powerinfer_cli.model import NormKind, RopeStyle
from powerinfer_cli.model.blocks import HeadNorms, Norm, Temperature
from tests.helpers.kernels.device_data import normal, places
from tests.helpers.kernels.triton_twins import DEVICE, FAST, TWIN, close, in_nan, nan, there


def empty_cache(n_kv: int, n_cells: int, dim: int, types: tuple[CacheType, CacheType]) -> DeviceCache:
    cache = make_cache(n_kv, n_cells, dim, *types, DEVICE)
    for numbers, scales in ((cache.k, cache.k_scales), (cache.v, cache.v_scales)):
        (numbers if scales is None else scales).fill_(torch.nan)
    return cache


def past(n: int) -> Tensor:
    return torch.tensor([n], device=DEVICE)


LIMITS: list[dict[str, Any]] = [
    {"scale": 0.2, "window": 40},
    {"scale": 0.1, "window": 300, "softcap": 2.0, "alibi": 2.0, "temperature": Temperature(0.7, 64)},
    {"scale": 0.1, "window": 300, "sinks": True},
    {"scale": 0.1, "chunk": 40, "temperature": Temperature(0.7, 64, 1)},
    {"scale": 0.1},
]
TYPES = [(a, b) for a in CacheType for b in CacheType if a is b or a is CacheType.F16]


@pytest.mark.parametrize(
    ("style", "dim", "n_rot"), [*((style, 64, 64) for style in RopeStyle), (RopeStyle.NEOX, 96, 20), (None, 96, 20)]
)
@pytest.mark.parametrize("normed", ["", "rms values", "layer own", "layer after"])
def test_turning_and_storing(style: RopeStyle | None, dim: int, n_rot: int, normed: str) -> None:
    angles = normal(128, n_rot // 2, seed=9)
    cos, sin = (in_nan(angles.cos()), in_nan(angles.sin())) if style else (None, None)
    heads_of = (4, 2) if "own" in normed else (1, 1)
    kind_of_norm = NormKind.LAYER if "layer" in normed else NormKind.RMS
    weights = [in_nan(normal(n * dim, seed=3 + n)) for n in heads_of]
    when = {"after_rope": "after" in normed, "values": "values" in normed}
    norms = HeadNorms(*(Norm(kind_of_norm, 1e-6, w, None) for w in weights), **when)
    for types in TYPES if style is RopeStyle.NEOX else TYPES[:1]:
        results = []
        for ops in (FAST, TWIN):
            q, k, v = in_nan(normal(2, 4 * dim)), in_nan(normal(2, 2 * dim, seed=1)), in_nan(normal(2, 2 * dim, seed=2))
            cache, positions = empty_cache(2, 256, dim, types), torch.tensor([12, 127], device=DEVICE)
            cells = torch.tensor([200, 3], device=DEVICE)
            ops.rope_store(q, k, v, cache, positions, cells, cos, sin, style, norms=norms if normed else None)
            alone = in_nan(normal(2, 4 * dim))
            ops.rope_store(alone, None, None, cache, positions, cells, cos, sin, style, norms=norms if normed else None)
            assert torch.equal(alone, q)
            results.append((q, cache.k, cache.k_scales, cache.v, cache.v_scales))
        for kind, found, wanted in zip("qkkvv", *results, strict=True):
            if found is None:
                continue
            assert torch.equal(found.isnan(), wanted.isnan())
            # A byte may be rounded the other way, and so may a half.
            loss = 1 if found.dtype is torch.int8 else 1e-3 if found.dtype is torch.float16 else 1e-5
            difference = (found.double() - wanted.double()).nan_to_num().abs()
            assert float(difference.max()) <= loss * max(
                1.0, float(wanted.double().nan_to_num().abs().max()) * (loss < 1)
            ), kind
            assert float((difference > 0).double().mean()) < 0.01 or loss < 1, kind


@pytest.mark.parametrize(
    ("n_head", "n_kv", "dim", "types"), [*((1, 1, 32, types) for types in TYPES), (3, 1, 96, TYPES[0])]
)
def test_attention_of_a_token(types: tuple[CacheType, CacheType], n_head: int, n_kv: int, dim: int) -> None:
    """From the first position to the last of a context in several parts. Where pages lie makes no difference."""
    for n_past in (0, 300, 511):
        found = []
        for order in ([0, 1, 2, 3], [4, 0, 5, 2]):
            pages = torch.tensor(order, device=DEVICE)
            pages[n_past // PAGE + 1 :] = -1
            cache = empty_cache(n_kv, 6 * PAGE, dim, types)
            k, v = normal(n_past + 1, n_kv * dim, seed=1), normal(n_past + 1, n_kv * dim, seed=2)
            q, where = there(torch.zeros(n_past + 1, n_kv * dim)), places(pages, 0, n_past + 1)
            TWIN.rope_store(q, there(k), there(v), cache, *where, None, None, None)
            q, out = in_nan(normal(1, n_head * dim) * 2), nan(1, n_head * dim)
            sinks = in_nan(normal(n_head, seed=7) * 5)
            for limits in ({**one, "sinks": sinks} if "sinks" in one else one for one in LIMITS):
                assert FAST.attention(q, cache, past(n_past), pages, **limits, out=out) is out
                close(out, TWIN.attention(q, cache, past(n_past), pages, **limits), 2e-5)
            found.append(out)
        assert torch.equal(*found)


@pytest.mark.parametrize("border", [0, 2])
def test_a_part_of_the_pages(border: int) -> None:
    """The first are here, others elsewhere."""
    types, dim, n = (CacheType.F16, CacheType.Q8_0), 32, 301
    found = []
    for ops in (TWIN, FAST):
        cache, pages = empty_cache(1, border * PAGE + SPARE, dim, types), torch.tensor([1, 5, 0, -1], device=DEVICE)
        x = [there(normal(n, heads * dim, seed=heads)) for heads in (2, 1, 1)]
        for one, part in ((TWIN, slice(0, n - 2)), (ops, slice(n - 2, n))):
            where = (numbers[part] for numbers in places(pages, 0, n))
            one.rope_store(*(numbers[part] for numbers in x), cache, *where, None, None, None)
        q, sinks = in_nan(normal(1, 2 * dim)), in_nan(normal(2, seed=7))
        own = ops.attention(q, cache, past(n - 1), pages, scale=0.2, parts=True)
        other = in_nan(normal(1, 2 * (dim + 2), seed=3).abs())
        found.append((own, *(ops.join(own, one, sinks, nan(1, 2 * dim)) for one in (None, other))))
    for one, two in zip(*found, strict=True):
        close(one, two, 2e-5)


def test_attention_of_a_batch() -> None:
    cache, pages = empty_cache(2, 256, 32, (CacheType.F32, CacheType.F32)), torch.tensor([1, -1], device=DEVICE)
    q, k, v = in_nan(normal(5, 128)), in_nan(normal(5, 64, seed=1)), in_nan(normal(5, 64, seed=2))
    FAST.rope_store(q, k, v, cache, *places(pages, 0, 5), None, None, None)
    wanted = TWIN.attention(q, cache, past(0), pages, scale=0.2)
    close(FAST.attention(q, cache, past(0), pages, scale=0.2, limit=5), wanted)
