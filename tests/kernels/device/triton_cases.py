"""Triton's kernels against their twins: on a GPU, or under TRITON_INTERPRET=1 (see test_triton.py) on the CPU.

What must not be read is NaN, as is all that is to be written.
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from powerinfer_cli.gguf_io import BLOCK, GGMLType
from powerinfer_cli.kernels.cpu.sparse.asking import ALWAYS, ASK, NEVER
from powerinfer_cli.kernels.device import Ops, triton_products
from powerinfer_cli.kernels.device.planar import LAYOUTS
from powerinfer_cli.kernels.few import ONE_BY_ONE
from powerinfer_cli.model import Activation, NormKind
from powerinfer_cli.model.blocks import Linear, Neurons
from tests.helpers.kernels.device_data import f32_rows, neurons_of, normal
from tests.helpers.kernels.triton_twins import (
    DEVICE,
    FAST,
    INTERPRETED,
    TWIN,
    close,
    in_nan,
    nan,
    poisoned,
    some_rows,
    there,
)
from tests.helpers.rounding import Interval, curve_of

KINDS = [(True, False), (True, True), (False, False)]  # gated, relu_on_up
N = 12  # neurons
BOTH_WAYS = [GGMLType.F32, GGMLType.F16, GGMLType.Q4_0, GGMLType.Q4_K, GGMLType.Q8_0]  # every kind of plane


def test_which_kernels_these_are() -> None:
    assert FAST.name.startswith("Triton")
    assert TWIN.name == "torch"


@pytest.mark.parametrize("kind", LAYOUTS)
def test_products_and_numbers(kind: GGMLType) -> None:
    n_cols = 3 * BLOCK[kind][0] if BLOCK[kind][0] > 1 else 333
    rows, x, bias = some_rows(kind, 7, n_cols), in_nan(normal(n_cols)), in_nan(normal(7, seed=1))
    out = nan(7)
    assert FAST.matvec(rows, x, bias, out) is out
    close(out, TWIN.matvec(rows, x, bias))
    torch.testing.assert_close(FAST.dequantize(rows), TWIN.dequantize(rows), rtol=1e-6, atol=0)
    halves = FAST.dequantize(rows, torch.float16)
    assert halves.dtype is torch.float16
    close(halves.float(), TWIN.dequantize(rows), 1e-3)


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_long_rows(kind: GGMLType) -> None:
    """More of a row than a program reads at a time, and not a whole number of times."""
    rows, x = some_rows(kind, 3, 256 * 37), in_nan(normal(256 * 37))
    wanted = Interval.of(x.cpu()).matmul(TWIN.dequantize(rows).cpu())
    wanted.check(FAST.matvec(rows, x).cpu())
    wanted.check(TWIN.matvec(rows, x).cpu())


@pytest.mark.parametrize("at_once", [2, 4])
def test_several_rows_to_a_program(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And one left over. Of what lies behind the result, nothing is written."""
    monkeypatch.setattr(triton_products, "rows_at_once", lambda n_rows: at_once)
    for kind in (GGMLType.F32, GGMLType.Q4_1):
        rows, x = some_rows(kind, 9, 96), in_nan(normal(96))
        room = torch.full((16,), torch.nan, device=DEVICE)
        FAST.matvec(rows, x, out=room[:9])
        close(room[:9], TWIN.matvec(rows, x))
        assert room[9:].isnan().all()


def test_rows_at_once_leave_every_multiprocessor_work() -> None:
    assert [triton_products.rows_at_once(n) for n in (1, 1023, 1024, 4095, 4096, 128000)] == [1, 1, 2, 2, 4, 4]


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_chosen_rows(kind: GGMLType) -> None:
    n_cols = 2 * max(BLOCK[kind][0], 20)
    rows, x = some_rows(kind, 9, n_cols), in_nan(normal(n_cols))
    indices = torch.tensor([7, -1, 0, 7, 3], device=DEVICE)
    wanted = TWIN.chosen_rows(rows, x, indices)
    unread = torch.ones(9, dtype=torch.bool)
    unread[[0, 3, 7]] = False
    close(FAST.chosen_rows(poisoned(rows, unread), x, indices), wanted)


@pytest.mark.parametrize("kind", [GGMLType.F16, GGMLType.Q4_0])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_predictor(kind: GGMLType, threshold: float) -> None:
    fc1, fc2 = some_rows(kind, 32, 64), some_rows(kind, 24, 32, seed=1)
    x = in_nan(normal(64, seed=2) * (1 if kind is GGMLType.F16 else 100))
    wanted = TWIN.predict(fc1, fc2, x, threshold)
    assert 3 < int(wanted.sum()) < 21
    out = torch.full((24,), 9, dtype=torch.uint8, device=DEVICE)
    assert FAST.predict(fc1, fc2, x, threshold, out=out) is out
    assert torch.equal(out, wanted)
    modes = there(torch.from_numpy(np.random.default_rng(3).choice([NEVER, ASK, ALWAYS], 24).astype(np.uint8)))
    wanted = TWIN.predict(fc1, fc2, x, threshold, modes)
    assert torch.equal(FAST.predict(fc1, poisoned(fc2, modes != ASK), x, threshold, modes), wanted)


class FFN:
    """A random FFN."""

    def __init__(self, kind: GGMLType, n_embd: int, *, gated: bool = True, biased: bool = False, n: int = N) -> None:
        self.gate = some_rows(kind, n, n_embd) if gated else None
        self.up, self.down_t = some_rows(kind, n, n_embd, 1), some_rows(kind, n, n_embd, 2)
        self.options: dict[str, Any] = {}
        if biased:
            self.options = {"up_bias": in_nan(normal(n, seed=4))}
            if gated:
                self.options["gate_bias"] = in_nan(normal(n, seed=5))

    def run(self, ops: Ops, x: Tensor, mask: Tensor | None, **more: Any) -> tuple[Tensor, int]:
        entries, out = more.pop("entries", None), more.pop("out", None)
        neurons = neurons_of(self.gate, self.up, self.down_t, **self.options, **more)
        y, fired = ops.sparse_ffn(x, mask, neurons, entries=entries, out=out)
        assert (fired.dtype, fired.shape) == (torch.int64, (1,))
        return y, int(fired)

    def check(self, x: Tensor, mask: Tensor | None, **more: Any) -> None:
        (y, fired), (wanted, wanted_fired) = self.run(FAST, x, mask, **more), self.run(TWIN, x, mask, **more)
        assert fired == wanted_fired
        close(y, wanted)


def some_mask(n: int, share: float = 0.4, seed: int = 8) -> Tensor:
    return there(torch.from_numpy((np.random.default_rng(seed).random(n) < share).astype(np.uint8)))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_ffn_of_every_type(kind: GGMLType) -> None:
    n_embd = BLOCK[kind][0] * 2 if BLOCK[kind][0] > 1 else 77
    FFN(kind, n_embd).check(in_nan(normal(n_embd, seed=3)), some_mask(N))


@pytest.mark.parametrize(("gated", "relu_on_up"), KINDS)
@pytest.mark.parametrize("biased", [False, True])
def test_ffn_of_every_kind(gated: bool, relu_on_up: bool, biased: bool) -> None:
    ffn, x = FFN(GGMLType.Q8_0, 64, gated=gated, biased=biased), in_nan(normal(64, seed=3))
    for mask in (some_mask(N), some_mask(N, 0.0), None):
        ffn.check(x, mask, relu_on_up=relu_on_up)
    neurons = there(torch.from_numpy(np.random.default_rng(1).permutation(30)[:N]))
    ffn.check(x, some_mask(30), relu_on_up=relu_on_up, entries=neurons)


@pytest.mark.parametrize(
    "activation", [kind for kind in Activation if kind is not Activation.RELU and not kind.bends_up]
)
@pytest.mark.parametrize("gated", [True, False])
def test_ffn_of_other_activations(activation: Activation, gated: bool) -> None:
    ffn, x = FFN(GGMLType.F16, 40, gated=gated), in_nan(normal(40, seed=3))
    for mask in (some_mask(N), None):
        ffn.check(x, mask, activation=activation)


@pytest.mark.parametrize("kind", BOTH_WAYS)
def test_rows_without_effect_are_not_read(kind: GGMLType) -> None:
    """Rows of neurons that do not count; and the other rows of those whose gate is closed."""
    n_embd = max(64, BLOCK[kind][0])
    ffn, x, mask = FFN(kind, n_embd), in_nan(normal(n_embd, seed=3)), some_mask(N)
    assert ffn.gate is not None
    is_open = (TWIN.matvec(ffn.gate, x) > 0) & (mask != 0)
    assert 0 < int(is_open.sum()) < int(mask.sum())
    clean = ffn.run(FAST, x, mask)
    ffn.gate = poisoned(ffn.gate, mask == 0)
    ffn.up, ffn.down_t = poisoned(ffn.up, ~is_open), poisoned(ffn.down_t, ~is_open)
    y, fired = ffn.run(FAST, x, mask)
    assert torch.equal(y, clean[0])
    assert fired == clean[1] == int(is_open.sum())


def test_ffn_of_many_neurons_and_wide_rows() -> None:
    """Several ranges, several blocks of columns, more listed rows than are read at a time; no neurons at all."""
    ffn, x = FFN(GGMLType.F16, 1100, n=40), in_nan(normal(1100, seed=3))
    ffn.check(x, some_mask(40, 0.9))
    none = f32_rows(there(torch.empty(0, 8)))
    y, fired = FAST.sparse_ffn(
        there(normal(8)), some_mask(4), neurons_of(none, none, none), entries=there(torch.tensor([]).long())
    )
    assert (y.tolist(), fired.tolist()) == ([0.0] * 8, [0])


def test_ffn_is_put_where_told() -> None:
    ffn, x, out = FFN(GGMLType.Q4_0, 64), in_nan(normal(64)), nan(64)
    y, _ = ffn.run(FAST, x, None, out=out)
    assert y is out
    close(out, ffn.run(TWIN, x, None)[0])


@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize(("gated", "relu_on_up"), KINDS)
def test_activated(activation: Activation, gated: bool, relu_on_up: bool) -> None:
    gate, up, out = in_nan(normal(2, 601)) if gated else None, in_nan(normal(2, 601, seed=1) * 5), nan(2, 601)
    options: dict[str, Any] = {"relu_on_up": relu_on_up, "curve": curve_of(activation)}
    assert FAST.activated(gate, up, activation, **options, out=out) is out
    close(out, TWIN.activated(gate, up, activation, **options), 1e-6)


@pytest.mark.parametrize("kind", NormKind)
@pytest.mark.parametrize("n_adds", [0, 1, 2])
def test_norm_of_a_sum(kind: NormKind, n_adds: int) -> None:
    for shape in ((2, 77), (300,)):
        xs = [in_nan(normal(*shape) + 1) for _ in range(2)]
        adds = tuple(in_nan(normal(*shape, seed=2 + i)) for i in range(n_adds))
        weight, bias, out = in_nan(normal(shape[-1], seed=9)), in_nan(normal(shape[-1], seed=8)), nan(*shape)
        for given in (bias, None):
            xs = [in_nan(normal(*shape) + 1) for _ in range(2)]
            assert FAST.add_norm(xs[0], adds, weight, given, 1e-3, kind, out, scale=0.5) is out
            close(out, TWIN.add_norm(xs[1], adds, weight, given, 1e-3, kind, scale=0.5))
            assert torch.equal(xs[0], xs[1])
            if not adds:
                assert FAST.add_norm(xs[1], (), weight, given, 1e-3, kind, xs[1]) is xs[1]  # in place
                close(xs[1], out)


@pytest.mark.parametrize("kind", [GGMLType.Q8_0, GGMLType.Q4_K, GGMLType.F32])
def test_heads(kind: GGMLType) -> None:
    rows, x = some_rows(kind, 3 * 9, 256), in_nan(normal(2, 3, 256))
    close(FAST.multiply_heads(rows, x), TWIN.multiply_heads(rows, x))


@pytest.mark.parametrize("kind", [GGMLType.Q4_K, GGMLType.F32])
@pytest.mark.parametrize("n_token", [2, ONE_BY_ONE + 3])
def test_batches(kind: GGMLType, n_token: int) -> None:
    """Few tokens one by one; many go through torch's products of what Triton dequantised."""
    gate, up, down_t = (some_rows(kind, 12, 256, seed) for seed in range(3))
    x, mask = in_nan(normal(n_token, 256)), torch.stack([some_mask(12, seed=i) for i in range(n_token)])
    loss = 1e-5 if INTERPRETED or kind is GGMLType.F32 else 1e-2
    bias, out = in_nan(normal(12, seed=4)), nan(n_token, 12)
    assert FAST.matmul(gate, x, bias, out) is out
    close(out, TWIN.matmul(gate, x, bias), loss)
    (y, fired), (wanted, wanted_fired) = (
        ops.sparse_ffn_batch(x, mask, neurons_of(gate, up, down_t)) for ops in (FAST, TWIN)
    )
    close(y, wanted, loss)
    assert torch.equal(fired, wanted_fired)


@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.F16, GGMLType.Q4_0])
def test_a_few_are_what_each_is_alone(kind: GGMLType) -> None:
    """To the bit; but products with halves are made for all together."""
    gate, up, down_t = (some_rows(kind, 6, 64, seed) for seed in range(3))
    fc1, fc2 = some_rows(kind, 32, 64, 5), some_rows(kind, 6, 32, 6)
    x, mask = in_nan(normal(2, 64)), torch.stack([some_mask(6, 0.7, seed=i) for i in range(2)])
    neurons = neurons_of(gate, up, down_t)
    y, fired = FAST.sparse_ffn_batch(x, mask, neurons)
    alone = [FAST.sparse_ffn(x[t], mask[t], neurons) for t in range(2)]
    assert torch.equal(y, torch.stack([one for one, _ in alone]))
    assert torch.equal(fired, torch.cat([count for _, count in alone]))
    predicted = FAST.predict(fc1, fc2, x, 0.1)
    assert torch.equal(predicted, torch.stack([FAST.predict(fc1, fc2, x[t], 0.1) for t in range(2)]))


@pytest.mark.parametrize(
    ("kind", "n_token"),
    [(kind, n) for kind in BOTH_WAYS if kind is not GGMLType.F16 for n in (2, 7)] + [(GGMLType.Q4_0, ONE_BY_ONE)],
)
def test_products_of_a_few_are_what_each_is_alone(kind: GGMLType, n_token: int) -> None:
    """To the bit; but products with halves are made for all together."""
    rows, x, bias = some_rows(kind, 9, 512), in_nan(normal(n_token, 512)), in_nan(normal(9, seed=4))
    out = FAST.matmul(rows, x, bias, nan(n_token, 9))
    assert torch.equal(out, torch.stack([FAST.matvec(rows, x[t], bias) for t in range(n_token)]))


@pytest.mark.parametrize(
    ("kind", "activation", "on_input"),
    [
        (GGMLType.F16, Activation.SILU, False),
        (GGMLType.F16, Activation.RELU, True),
        (GGMLType.Q4_0, Activation.CLAMPED_SWISH, False),
    ],
)
def test_experts(kind: GGMLType, activation: Activation, on_input: bool) -> None:
    """Three slots; of those chosen one has none, and nobody has chosen the one that is in the last slot."""
    n_embd, ff = (12, 7) if BLOCK[kind][0] == 1 else (32, 32)
    wide, also, down = (
        some_rows(kind, 3 * n, m, seed) for seed, (n, m) in enumerate(((ff, n_embd), (ff, n_embd), (n_embd, ff)))
    )
    wide, also, down = (
        poisoned(rows, torch.arange(rows.n_rows) >= rows.n_rows // 3 * 2) for rows in (wide, also, down)
    )
    biases = [None] * 3 if on_input else [there(normal(rows.n_rows)) for rows in (wide, also, down)]
    linears = [Linear(rows, bias) for rows, bias in zip((wide, also, down), biases, strict=True)]
    neurons = Neurons(3 * ff, *linears, False, activation)
    slots = torch.tensor([-1, 1, 2, -1, 0], device=DEVICE)
    chosen = torch.tensor([[0, 1, 4], [0, 3, 3]], device=DEVICE)
    x, weights, out = there(0.1 * normal(2, n_embd, seed=5)), there(normal(2, 3, seed=6)), there(normal(2, n_embd))
    found, wanted = out.clone(), out.clone()
    assert TWIN.add_experts(x, chosen, weights, slots, neurons, wanted, on_input=on_input) is wanted
    for t in range(2):
        one = out[t : t + 1].clone()
        TWIN.add_experts(x[t : t + 1], chosen[t : t + 1], weights[t : t + 1], slots, neurons, one, on_input=on_input)
        close(one[0], wanted[t])
    assert FAST.add_experts(x, chosen, weights, slots, neurons, found, on_input=on_input) is found
    close(found, wanted)
    assert (found[0] != out[0]).any()
    assert torch.equal(found[1], out[1])  # whose experts are all elsewhere


@pytest.mark.parametrize("kind", [GGMLType.F32, GGMLType.Q4_0])
def test_up_rows_of_closed_neurons_are_not_read(kind: GGMLType) -> None:
    """Of experts with exact zeros; the twin reads them."""
    n_embd = ff = 32
    wide, also, down = (some_rows(kind, 2 * ff, n_embd, seed) for seed in range(3))
    x, weights = there(0.1 * normal(1, n_embd, seed=5)), there(normal(1, 2, seed=6))
    closed = TWIN.multiply(wide, x)[0].cpu() <= 0
    assert closed.any()
    assert not closed.all()
    chosen, slots = torch.tensor([[0, 1]], device=DEVICE), torch.tensor([1, 0], device=DEVICE)
    found, wanted = torch.zeros_like(x), torch.zeros_like(x)
    for ops, up, out in ((FAST, poisoned(also, closed), found), (TWIN, also, wanted)):
        linears = [Linear(rows, None) for rows in (wide, up, down)]
        neurons = Neurons(2 * ff, *linears, False, Activation.RELU)
        ops.add_experts(x, chosen, weights, slots, neurons, out, on_input=False)
    assert (wanted != 0).any()
    close(found, wanted)
