"""The torch twins against the plain operations on float64 or float32 weights."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels import reference as plain
from powerinfer_cli.kernels.cache import PAGE, CacheType
from powerinfer_cli.kernels.cpu.sparse.asking import ALWAYS, NEVER
from powerinfer_cli.kernels.device import DeviceCache, PlanarRows, cache_bytes, make_cache, ops_for, reference_attention
from powerinfer_cli.kernels.device import reference as twins
from powerinfer_cli.kernels.device.planar import LAYOUTS
from powerinfer_cli.model import Activation, NormKind, RopeStyle
from powerinfer_cli.model.blocks import HeadNorms, Norm, Temperature
from tests.helpers.dispatch import DispatchMode
from tests.helpers.kernels.device_data import f32_rows, neurons_of, normal, places, rows_of
from tests.helpers.rounding import Interval, attention, sparse_ffn

OPS = ops_for("cpu")
KINDS = [(True, False), (True, True), (False, False)]  # gated, relu_on_up


@pytest.mark.parametrize("kind", LAYOUTS)
def test_products(kind: GGMLType, monkeypatch: pytest.MonkeyPatch) -> None:
    n_cols = BLOCK[kind][0] * 2 + (3 if LAYOUTS[kind].is_float else 0)
    monkeypatch.setattr(twins, "CHUNK_NUMBERS", 4 * n_cols)  # several pieces, the last of one row
    rows, weights = rows_of(kind, 13, n_cols)
    x, bias, back = normal(5, n_cols), normal(13, seed=1), normal(5, 13, seed=2)
    Interval.of(x[0]).matmul(weights, bias).check(OPS.matvec(rows, x[0], bias))
    Interval.of(x).matmul(weights, bias).check(OPS.matmul(rows, x, bias))
    Interval.of(back).matmul(weights.T).check(OPS.matmul_t(rows, back))
    out = torch.full((5, 13), torch.nan)
    assert OPS.matmul(rows, x, out=out) is out
    Interval.of(x).matmul(weights).check(out)
    out = torch.full((13,), torch.nan)
    assert OPS.matvec(rows, x[0], out=out) is out
    assert torch.isfinite(out).all()
    assert torch.isfinite(OPS.matmul_t(rows, back, out=torch.full((5, n_cols), torch.nan))).all()


def test_chosen_rows() -> None:
    rows, weights = rows_of(GGMLType.Q5_1, 9, 64)
    x, out = normal(64), torch.full((4,), torch.nan)
    assert OPS.chosen_rows(rows, x, torch.tensor([8, -1, 0, 8]), out) is out
    wanted = weights[[8, 0, 0, 8]]
    wanted[1] = 0
    Interval.of(x).matmul(wanted).check(out)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6])
def test_products_of_halves(dtype: torch.dtype, scale: float) -> None:
    """As on CUDA: inputs beyond float16's range, or far below, lose no more than a half's rounding."""
    x, weights = normal(4, 96) * scale, normal(96, 7, seed=1).to(dtype)
    x[1] = 0
    wanted = x.double() @ weights.double()
    error = (twins.product(x, weights) - wanted).abs()
    assert (error <= torch.finfo(dtype).eps * (x.abs().double() @ weights.abs().double())).all()


def test_what_products_are_computed_in() -> None:
    rows = f32_rows(normal(2, 32))
    assert twins.compute_dtype(rows) is torch.float32
    meta = torch.zeros(2, 32, device="meta")
    assert twins.compute_dtype(PlanarRows(GGMLType.Q4_0, 2, 32, meta)) is torch.float32


@pytest.mark.parametrize("threshold", [0.0, 0.7])
def test_predictor(threshold: float) -> None:
    (fc1, w1), (fc2, w2) = rows_of(GGMLType.F16, 9, 31), rows_of(GGMLType.F16, 45, 9, seed=1)
    x, modes = normal(6, 31, seed=2), torch.from_numpy(np.random.default_rng(3).integers(0, 3, 45).astype(np.uint8))
    wanted = plain.predict_active(x, w1, w2, threshold)
    assert torch.equal(OPS.predict(fc1, fc2, x, threshold).bool(), wanted)
    found = torch.full((45,), 7, dtype=torch.uint8)
    assert OPS.predict(fc1, fc2, x[2], threshold, out=found) is found
    assert torch.equal(found, wanted[2].to(torch.uint8))
    wanted[:, modes == NEVER] = False
    wanted[:, modes == ALWAYS] = True
    assert torch.equal(OPS.predict(fc1, fc2, x, threshold, modes).bool(), wanted)


@pytest.mark.parametrize(("gated", "relu_on_up"), KINDS)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("picked", [False, True])
def test_relu_ffn(gated: bool, relu_on_up: bool, with_bias: bool, picked: bool) -> None:
    (gate, wg), (up, wu), (down, wd) = (rows_of(GGMLType.Q8_0, 37, 64, seed) for seed in range(3))
    gate_bias, up_bias = (normal(37, seed=4), normal(37, seed=5)) if with_bias else (None, None)
    x, mask = normal(3, 64), normal(3, 90, seed=7) > 0
    entries = torch.from_numpy(np.random.default_rng(1).permutation(90)[:37]) if picked else None
    counted = mask[:, entries] if picked else mask[:, :37]
    gates = (wg, gate_bias) if gated else (None, None)
    options = {"gate_bias": gates[1], "up_bias": up_bias, "relu_on_up": relu_on_up}
    wanted = sparse_ffn(x, counted, gates[0], wu, wd, **options)
    wanted.check(plain.sparse_ffn(x, counted, gates[0], wu, wd, **options))
    first, first_bias = (wg, gate_bias) if gated else (wu, up_bias)
    fires = counted.numpy() & Interval.of(x).matmul(first, first_bias).is_positive
    given = (mask if picked else counted.contiguous()).to(torch.uint8)
    rows = neurons_of(gate if gated else None, up, down, **options)
    y, fired = OPS.sparse_ffn_batch(x, given, rows, entries=entries)
    wanted.check(y)
    assert (fired.tolist(), fired.dtype) == (fires.sum(1).tolist(), torch.int64)
    out = torch.full((64,), torch.nan)
    y, fired = OPS.sparse_ffn(x[1], given[1], rows, entries=entries, out=out)
    wanted[1].check(out)
    assert torch.equal(y, out)
    assert fired.tolist() == [int(fires[1].sum())]


@pytest.mark.parametrize("activation", [kind for kind in Activation if not (kind.has_exact_zeros or kind.bends_up)])
@pytest.mark.parametrize("gated", [False, True])
def test_other_activations_count_every_neuron_of_the_mask(activation: Activation, gated: bool) -> None:
    gate, up, down_t, x = normal(20, 8), normal(20, 8, seed=1), normal(20, 8, seed=2), normal(2, 8, seed=3)
    mask = (normal(2, 20, seed=4) > 0).to(torch.uint8)
    weights = (gate if gated else None, up, down_t)
    rows = (f32_rows(gate) if gated else None, f32_rows(up), f32_rows(down_t))
    neurons = neurons_of(*rows, activation=activation)
    y, fired = OPS.sparse_ffn_batch(x, mask, neurons)
    sparse_ffn(x, mask, *weights, activation=activation).check(y)
    assert fired.tolist() == mask.sum(1).tolist()
    y, fired = OPS.sparse_ffn_batch(x, None, neurons)
    sparse_ffn(x, torch.ones_like(mask), *weights, activation=activation).check(y)
    assert fired.tolist() == [20, 20]


@pytest.mark.parametrize("gated", [False, True])
def test_squared_relu_opens_as_relu_does(gated: bool) -> None:
    gate, up, down_t, x = normal(20, 8), normal(20, 8, seed=1), normal(20, 8, seed=2), normal(2, 8, seed=3)
    rows = (f32_rows(gate) if gated else None, f32_rows(up), f32_rows(down_t))
    y, fired = OPS.sparse_ffn_batch(x, None, neurons_of(*rows, activation=Activation.RELU_SQUARED))
    everyone = torch.ones(2, 20, dtype=torch.uint8)
    sparse_ffn(x, everyone, gate if gated else None, up, down_t, activation=Activation.RELU_SQUARED).check(y)
    assert fired.tolist() == OPS.sparse_ffn_batch(x, None, neurons_of(*rows))[1].tolist()
    assert 0 < fired.sum().item() < 40


def test_no_neurons_are_no_ffn() -> None:
    """As on a GPU that holds none of a layer's."""
    none = f32_rows(torch.empty(0, 8))
    empty = torch.zeros(0, dtype=torch.int64)
    mask = torch.ones(1, 12, dtype=torch.uint8)
    y, fired = OPS.sparse_ffn(normal(8), mask[0], neurons_of(none, none, none), entries=empty)
    assert (y.tolist(), fired.tolist()) == ([0.0] * 8, [0])
    y, fired = OPS.sparse_ffn_batch(normal(3, 8), mask.expand(3, 12), neurons_of(none, none, none), entries=empty)
    assert (y.abs().sum().item(), fired.tolist()) == (0.0, [0] * 3)


@pytest.mark.parametrize("kind", NormKind)
@pytest.mark.parametrize("shape", [(33,), (3, 33)])
def test_norm_of_a_sum(kind: NormKind, shape: tuple[int, ...]) -> None:
    x, adds, weight, bias = normal(*shape), (normal(*shape, seed=1), normal(*shape, seed=2)), normal(33), normal(33)
    total = x + 0.5 * adds[0] + 0.5 * adds[1]
    wanted = plain.rms_norm(total, weight, 1e-3) + bias
    if kind is NormKind.LAYER:
        wanted = plain.layer_norm(total, weight, bias, 1e-3)
    out = torch.full(shape, torch.nan)
    assert OPS.add_norm(x, adds, weight, bias, 1e-3, kind, out, scale=0.5) is out
    torch.testing.assert_close(out, wanted)
    torch.testing.assert_close(x, total)
    torch.testing.assert_close(OPS.add_norm(x, (), weight, None, 1e-3, NormKind.RMS), plain.rms_norm(x, weight, 1e-3))


class Asked(DispatchMode):
    """Fails where an operation's result has to come back from the device: a CUDA graph cannot record that."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        assert func.name() not in {"aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select", "aten::equal"}
        indices = args[1] if func.name() == "aten::index.Tensor" else ()
        assert all(i is None or i.dtype is not torch.bool for i in indices)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.Q4_K, GGMLType.IQ4_NL])
def test_one_token_asks_nothing_of_the_device(kind: GGMLType) -> None:
    (fc1, _), (fc2, _), (up, _) = rows_of(kind, 256, 256), rows_of(kind, 60, 256), rows_of(kind, 60, 256)
    x, modes = normal(256), torch.ones(60, dtype=torch.uint8)
    cos, n_past, neurons = normal(N_CTX, DIM // 2), torch.tensor([5]), torch.arange(60)
    pages = torch.tensor([0, 2, -1])
    with Asked():
        mask = OPS.predict(fc1, fc2, x, 0.1, modes)
        for activation in (Activation.RELU, Activation.SILU):
            OPS.sparse_ffn(x, mask, neurons_of(up, up, up, activation=activation), entries=neurons)
        OPS.chosen_rows(up, x, neurons)
        OPS.add_norm(x, (x.clone(),), x, None, 1e-5, NormKind.RMS)
        for kind_of_cache in CacheType:
            cache = make_cache(4, 3 * PAGE, DIM, kind_of_cache, kind_of_cache, "cpu")
            q = x.view(1, 256)
            OPS.rope_store(q, q[:, :128].clone(), q[:, 128:], cache, n_past, n_past, cos, cos, RopeStyle.NEOX)
            OPS.attention(q, cache, n_past, pages, scale=0.2, window=4, softcap=3.0)


def test_the_check_for_questions_finds_them() -> None:
    for ask in (lambda: torch.ones(3).nonzero(), lambda: torch.ones(1).item(), lambda: normal(3)[normal(3) > 0]):
        with Asked(), pytest.raises(AssertionError):
            ask()


N_CTX, DIM = 300, 32
SINKS = torch.tensor([0.0, -3.0, 2.0, 30.0, -40.0, 1.0])
PAGES = torch.tensor([3, 0, 2, -1])  # of a sequence
N_CELLS = 4 * PAGE
PASTS = [(1, 0), (1, 77), (5, 0), (7, 60), (140, 126), (1, 255), (20, 280)]  # tokens, positions before


def filled(n_kv: int, types: tuple[CacheType, CacheType], k: Tensor, v: Tensor, n_past: int) -> DeviceCache:
    """A cache of keys and values [S, n_kv * DIM], those from n_past on stored behind the others; NaN beyond them."""
    cache = make_cache(n_kv, N_CELLS, DIM, *types, "cpu")
    for numbers, scales in ((cache.k, cache.k_scales), (cache.v, cache.v_scales)):
        (numbers if scales is None else scales).fill_(torch.nan)
    for begin, end in ((0, n_past), (n_past, len(k))):
        if begin < end:
            q, where = torch.zeros(end - begin, n_kv * DIM), places(PAGES, begin, end - begin)
            OPS.rope_store(q, k[begin:end].clone(), v[begin:end], cache, *where, None, None, None)
    return cache


PLAIN = (CacheType.F32, CacheType.F32)
OTHERS = [(a, b) for a in CacheType for b in CacheType if (a is b or a is CacheType.F16) and (a, b) != PLAIN]
LIMITS: list[tuple[int, dict[str, Any]]] = [
    (1, {}),
    (2, {"window": 40}),
    (6, {"softcap": 2.0}),
    (6, {"window": 130, "softcap": 9.0}),
    (2, {"alibi": 8.0, "softcap": 4.0}),
    (3, {"alibi": 4.0, "temperature": Temperature(0.7, 32)}),
    (2, {"sinks": SINKS, "window": 40}),
    (2, {"chunk": 100, "temperature": Temperature(0.7, 32, 1)}),
    (6, {"sinks": SINKS, "softcap": 2.0}),
]


# Numbers are read in one place for all: each limit with those that lose nothing, each other type with some.
@pytest.mark.parametrize(
    ("types", "n_kv", "limits"),
    [*((PLAIN, *limits) for limits in LIMITS), *((types, *limits) for types in OTHERS for limits in LIMITS[::7])],
)
def test_attention_over_the_cache(
    types: tuple[CacheType, CacheType],
    n_kv: int,
    limits: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one, and with heads one or two at a time."""
    monkeypatch.setattr(reference_attention, "SCRATCH_NUMBERS", 2 * 70 * DIM)
    for n_token, n_past in PASTS:
        seen = n_past + n_token
        q, k, v = normal(n_token, 6 * DIM), normal(seen, n_kv * DIM, seed=1), normal(seen, n_kv * DIM, seed=2)
        cache = filled(n_kv, types, k, v, n_past)
        of_twin = {"cap" if name == "softcap" else name: value for name, value in limits.items()}
        exact = attention(*(x.view(len(x), -1, DIM) for x in (q, k, v)), **of_twin)
        loss = {CacheType.F32: 0.0, CacheType.F16: 2e-3, CacheType.Q8_0: 4e-2}  # of what is stored
        wanted = Interval(exact.value, exact.radius + max(loss[types[0]], loss[types[1]]))
        out = torch.full_like(q, torch.nan)
        assert OPS.attention(q, cache, torch.tensor([n_past]), PAGES, scale=DIM**-0.5, **limits, out=out) is out
        wanted.check(out)
        known = OPS.attention(q, cache, torch.tensor([n_past]), PAGES, scale=DIM**-0.5, **limits, limit=seen)
        wanted.check(known)


@pytest.mark.parametrize("style", RopeStyle)
@pytest.mark.parametrize("n_rot", [DIM, 10])
@pytest.mark.parametrize("normed", ["", "rms values", "layer own", "after"])
def test_turning_and_storing(style: RopeStyle, n_rot: int, normed: str) -> None:
    angles = normal(N_CTX, n_rot // 2, seed=9)
    cos, sin = angles.cos(), angles.sin()
    positions, cells = torch.tensor([70, 255, 3]), torch.tensor([5, 1, 140])  # of several sequences
    q, k, v = normal(3, 4 * DIM), normal(3, 2 * DIM, seed=1), normal(3, 2 * DIM, seed=2)
    own = normed == "layer own"  # of each head
    weights = normal(4 * DIM if own else DIM, seed=3), normal(2 * DIM if own else DIM, seed=4)
    kind, after = NormKind.LAYER if own else NormKind.RMS, normed == "after"
    when = {"after_rope": after, "values": "values" in normed}
    norms = HeadNorms(*(Norm(kind, 1e-6, w, None) for w in weights), **when) if normed else None

    def wanted_of(x: Tensor, weight: Tensor) -> Tensor:
        heads = x.view(3, -1, DIM)
        heads = plain.rotate(heads, cos[positions], sin[positions], style) if after else heads
        if normed:
            ones = torch.ones(DIM)
            heads = plain.layer_norm(heads, ones, None, 1e-6) if own else plain.rms_norm(heads, ones, 1e-6)
            heads = heads * weight.view(-1, DIM)
        return heads if after else plain.rotate(heads, cos[positions], sin[positions], style)

    wanted_q, wanted_k = wanted_of(q, weights[0]), wanted_of(k, weights[1])
    cache = make_cache(2, 2 * PAGE, DIM, CacheType.F32, CacheType.F32, "cpu")
    given, given_q = v.clone(), q.clone()
    OPS.rope_store(q, k.clone(), v, cache, positions, cells, cos, sin, style, norms=norms)
    torch.testing.assert_close(q.view(3, 4, DIM), wanted_q)
    torch.testing.assert_close(cache.k[:, cells], wanted_k.transpose(0, 1))
    values = plain.rms_norm(given.view(3, 2, DIM), torch.ones(DIM), 1e-6) if "values" in normed else given
    torch.testing.assert_close(cache.v[:, cells], values.view(3, 2, DIM).transpose(0, 1))
    torch.testing.assert_close(v, values.view(v.shape))
    for untouched in (cache.k, cache.v):
        assert untouched.index_fill(1, cells, 0).count_nonzero() == 0
    alone, before = given_q.clone(), cache.k.clone()
    OPS.rope_store(alone, None, None, cache, positions, cells, cos, sin, style, norms=norms)
    torch.testing.assert_close(alone, q)
    assert torch.equal(cache.k, before)


@pytest.mark.parametrize("types", [(a, b) for a in CacheType for b in CacheType])
def test_cache_bytes_are_those_of_the_tensors(types: tuple[CacheType, CacheType]) -> None:
    assert make_cache(3, 64, 96, *types, "cpu").nbytes == cache_bytes(3, 64, 96, *types)
