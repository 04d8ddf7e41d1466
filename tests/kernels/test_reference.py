"""The plain operations against their formulas, written out."""

import cmath
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from powerinfer_cli.kernels.reference import (
    activate,
    attention,
    layer_norm,
    neuron_values,
    predict_active,
    rms_norm,
    rotate,
    sparse_ffn,
)
from powerinfer_cli.model import Activation, Rope, RopeScaling, RopeStyle
from powerinfer_cli.model.blocks import Temperature
from tests.helpers import rounding

PLAIN = {
    "style": RopeStyle.NEOX,
    "n_rot": 16,
    "base": 10000.0,
    "scaling": RopeScaling.LINEAR,
    "factor": 1.0,
    "n_ctx_original": 64,
    "attn_factor": 1.0,
    "yarn_attn_factor": None,
    "log_multiplier": 0.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
}
YARN = PLAIN | {"scaling": RopeScaling.YARN, "factor": 4.0}


def rope(**changes: object) -> Rope:
    return Rope(**(PLAIN | changes))  # type: ignore[arg-type]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def test_rms_norm() -> None:
    x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 10.0])
    divisor = math.sqrt((9 + 16) / 2 + 0.5)
    assert rms_norm(x, weight, 0.5)[0].tolist() == pytest.approx([3 / divisor, 40 / divisor])


def test_layer_norm() -> None:
    x, weight, bias = torch.tensor([[1.0, 5.0]]), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.25])
    divisor = math.sqrt(4 + 0.5)  # mean 3, variance 4
    assert layer_norm(x, weight, bias, 0.5)[0].tolist() == pytest.approx([-2 / divisor, 4 / divisor + 0.25])
    assert layer_norm(x, weight, None, 0.5)[0].tolist() == pytest.approx([-2 / divisor, 4 / divisor])


def test_activations() -> None:
    values = [-3.0, -0.5, 0.0, 0.5, 3.0]
    x = torch.tensor(values)
    assert activate(x, Activation.RELU).tolist() == [0, 0, 0, 0.5, 3]
    assert activate(x, Activation.SILU).tolist() == pytest.approx([v / (1 + math.exp(-v)) for v in values])
    gelu = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in values]
    assert activate(x, Activation.GELU).tolist() == pytest.approx(gelu, abs=1e-6)
    by_tanh = [v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) / 2 for v in values]
    assert activate(x, Activation.GELU_TANH).tolist() == pytest.approx(by_tanh, abs=1e-6)
    assert activate(x, Activation.RELU_SQUARED).tolist() == [0, 0, 0, 0.25, 9]


def test_plain_and_linear_frequencies() -> None:
    wanted = [10000.0 ** (-2 * i / 16) for i in range(8)]
    assert rope().frequencies(64).tolist() == pytest.approx(wanted)
    assert rope(factor=2.5).frequencies(64).tolist() == pytest.approx([w / 2.5 for w in wanted])


def test_divisors_of_a_file() -> None:
    divisors = np.array([1.0, 1, 1, 2, 4, 8, 8, 8])
    plain = rope().frequencies(64)
    assert rope(divisors=divisors).frequencies(64).tolist() == pytest.approx((plain / divisors).tolist())


def test_divisors_of_short_and_long_contexts() -> None:
    """64 positions are the original context."""
    short, long = np.full(8, 2.0), np.full(8, 3.0)
    both = rope(scaling=RopeScaling.LONGROPE, divisors=short, long_divisors=long)
    plain = rope().frequencies(64)
    assert both.frequencies(64).tolist() == pytest.approx((plain / 2).tolist())
    assert both.frequencies(65).tolist() == pytest.approx((plain / 3).tolist())


def test_yarn_frequencies_by_hand() -> None:
    """beta_fast 4 turns in 64 positions at pair 0.8, beta_slow 0.1 at pair 4.02: a ramp from 0 to 5."""
    config = rope(**(YARN | {"beta_fast": 4.0, "beta_slow": 0.1}))
    plain = [10000.0 ** (-2 * i / 16) for i in range(8)]
    ramp = [min(1.0, i / 5) for i in range(8)]
    wanted = [p * (1 - r) + p / 4 * r for p, r in zip(plain, ramp, strict=True)]
    assert config.frequencies(64).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        (PLAIN, 1.0),
        (PLAIN | {"attn_factor": 1.5, "factor": 8.0}, 1.5),
        (YARN, 0.1 * math.log(4) + 1),
        (YARN | {"factor": 1.0}, 1.0),
        (YARN | {"attn_factor": 1.5}, 1.5 * (0.1 * math.log(4) + 1)),
        (YARN | {"yarn_attn_factor": 1.25}, 1.25),
        (YARN | {"log_multiplier": 0.5}, (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1)),
    ],
)
def test_magnitude(changes: dict[str, object], wanted: float) -> None:
    assert rope(**changes).magnitude == pytest.approx(wanted)


@pytest.mark.parametrize("n_rot", [2, 6, 10])
@pytest.mark.parametrize("style", RopeStyle)
def test_rotation_is_a_complex_product(style: RopeStyle, n_rot: int) -> None:
    x, angles = normal(3, 2, 10), normal(3, n_rot // 2, seed=1)
    turned = rotate(x, angles.cos(), angles.sin(), style)
    for token in range(3):
        for pair in range(n_rot // 2):
            i, j = (2 * pair, 2 * pair + 1) if style is RopeStyle.INTERLEAVED else (pair, pair + n_rot // 2)
            z = complex(x[token, 1, i], x[token, 1, j]) * cmath.exp(1j * angles[token, pair].item())
            assert turned[token, 1, [i, j]].tolist() == pytest.approx([z.real, z.imag], abs=1e-5)
    assert torch.equal(turned[..., n_rot:], x[..., n_rot:])


@pytest.mark.parametrize(("n_token", "n_past"), [(1, 0), (1, 6), (4, 0), (3, 5)])
@pytest.mark.parametrize("n_head_kv", [1, 2, 6])
def test_attention(n_token: int, n_past: int, n_head_kv: int) -> None:
    q, k, v = (
        normal(n_token, 6, 5),
        normal(n_past + n_token, n_head_kv, 5, seed=1),
        normal(n_past + n_token, n_head_kv, 5),
    )
    out, exact = attention(q, k, v, 5**-0.5), rounding.attention(q, k, v)
    assert out.shape == (n_token, 30)
    exact.check(out)
    q, k, v = q.double(), k.double(), v.double()
    for t in range(n_token):
        for head in range(6):
            kv, seen = head * n_head_kv // 6, n_past + t + 1
            scores = [math.exp((q[t, head] @ k[s, kv]).item() / math.sqrt(5)) for s in range(seen)]
            wanted = sum(score * v[s, kv] for s, score in enumerate(scores)) / sum(scores)
            np.testing.assert_allclose(exact.value[t, 5 * head : 5 * head + 5], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("n_head", [1, 4, 6])
def test_scores_by_position(n_head: int) -> None:
    """They fall with distance, and grow with the query's own position, which is 2, 3 or 4 times as long as 3."""
    q, k, v = normal(3, n_head, 5), normal(8, 1, 5, seed=1), normal(8, 1, 5, seed=2)
    bends = {"alibi": 3.0, "temperature": Temperature(0.5, 3)}
    exact = rounding.attention(q, k, v, **bends)
    exact.check(attention(q, k, v, 5**-0.5, **bends))
    slopes = {1: [1], 4: [0.25, 0.5, 0.75, 1], 6: [0.25, 0.5, 0.75, 1, 0.125, 0.375]}[n_head]
    q, k, v = q.double(), k.double(), v.double()
    for t, position in enumerate((5, 6, 7)):
        grown = 1 + 0.5 * math.log(1 + position // 3)
        for head, slope in enumerate(slopes):
            sizes = [(grown * q[t, head] @ k[s, 0]).item() / math.sqrt(5) for s in range(position + 1)]
            weights = [math.exp(size - 2 ** (-3 * slope) * (position - s)) for s, size in enumerate(sizes)]
            wanted = sum(weight * v[s, 0] for s, weight in enumerate(weights)) / sum(weights)
            np.testing.assert_allclose(exact.value[t, 5 * head : 5 * head + 5], wanted, rtol=1e-9, atol=1e-12)


def test_the_future_is_not_seen() -> None:
    q, k, v = normal(4, 2, 8), normal(6, 2, 8, seed=1), normal(6, 2, 8, seed=2)
    out = attention(q, k, v, 8**-0.5)
    k[4:], v[4:] = 50.0, 1e6  # positions of the last two tokens
    assert torch.equal(attention(q, k, v, 8**-0.5)[:2], out[:2])
    rounding.attention(q[:2], k[:4], v[:4]).check(out[:2])


def test_prediction_compares_the_raw_logit() -> None:
    fc1, fc2 = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    x = torch.tensor([[0.5, -3.0], [0.0, 0.25]])  # logits (0.5, 0, -0.5) and (0, 0.5, -0.25)
    assert predict_active(x, fc1, fc2, 0.5).tolist() == [[True, False, False], [False, True, False]]
    assert predict_active(x, fc1, fc2, 0.0).tolist() == [[True, True, False], [True, True, False]]


def test_clamped_swish() -> None:
    """gpt-oss's, of numbers on both sides of its bounds."""
    gate, up = torch.tensor([-20.0, -1.0, 0.0, 2.0, 7.0, 9.0]), torch.tensor([1.0, -9.0, 3.0, 8.0, -7.0, 0.5])
    wanted = []
    for g, u in zip(gate.tolist(), up.tolist(), strict=True):
        bounded = min(g, 7.0)
        wanted.append(bounded / (1 + math.exp(-1.702 * bounded)) * (1 + max(-7.0, min(u, 7.0))))
    np.testing.assert_allclose(neuron_values(gate, up, Activation.CLAMPED_SWISH), wanted, rtol=1e-6)


@pytest.mark.parametrize("n_head", [1, 4])
def test_sinks(n_head: int) -> None:
    """A score more in each head's softmax."""
    q, k, v = normal(3, n_head, 5), normal(8, 1, 5, seed=1), normal(8, 1, 5, seed=2)
    sinks = torch.tensor([0.0, -3.0, 2.0, 30.0])[:n_head]
    exact = rounding.attention(q, k, v, sinks=sinks)
    exact.check(attention(q, k, v, 5**-0.5, sinks=sinks))
    q, k, v = q.double(), k.double(), v.double()
    for t, position in enumerate((5, 6, 7)):
        for head, sink in enumerate(sinks.tolist()):
            weights = [math.exp((q[t, head] @ k[s, 0]).item() / math.sqrt(5)) for s in range(position + 1)]
            wanted = sum(weight * v[s, 0] for s, weight in enumerate(weights)) / (sum(weights) + math.exp(sink))
            np.testing.assert_allclose(exact.value[t, 5 * head : 5 * head + 5], wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize("relu_on_up", [True, False])
@pytest.mark.parametrize("activation", [kind for kind in Activation if not kind.bends_up])
def test_sparse_ffn_neuron_by_neuron(gated: bool, relu_on_up: bool, activation: Activation) -> None:
    act = {
        Activation.RELU: lambda v: max(v, 0.0),
        Activation.RELU_SQUARED: lambda v: max(v, 0.0) ** 2,
        Activation.FATRELU: lambda v: v if v > 0.25 else 0.0,
        Activation.SILU: lambda v: v / (1 + math.exp(-v)),
        Activation.GELU: lambda v: v * (1 + math.erf(v / 2**0.5)) / 2,
        Activation.GELU_TANH: lambda v: v * (1 + math.tanh((2 / math.pi) ** 0.5 * (v + 0.044715 * v**3))) / 2,
        Activation.XIELU: lambda v: (
            0.7 * v * v + 0.4 * v if v > 0 else 0.9 * (math.exp(min(v, -0.05)) - 1 - v) + 0.4 * v
        ),
    }[activation]
    x, gate, up, down_t = normal(3, 4), normal(7, 4, seed=1), normal(7, 4, seed=2), normal(7, 4, seed=3)
    gate_bias, up_bias = normal(7, seed=4), normal(7, seed=5)
    active = normal(3, 7, seed=6) > 0
    gates = (gate, gate_bias) if gated else (None, None)
    given = (x, active, gates[0], up, down_t)
    kind = {"activation": activation, "relu_on_up": relu_on_up, "gate_bias": gates[1], "up_bias": up_bias}
    y, exact = sparse_ffn(*given, **kind, curve=rounding.curve_of(activation)), rounding.sparse_ffn(*given, **kind)
    exact.check(y)
    x, gate, up, down_t, gate_bias, up_bias = (t.double() for t in (x, gate, up, down_t, gate_bias, up_bias))
    wanted = torch.zeros(3, 4, dtype=torch.float64)
    for t in range(3):
        for n in active[t].nonzero()[:, 0].tolist():
            value = float(up[n] @ x[t] + up_bias[n])
            if not gated:
                value = act(value)
            elif relu_on_up:
                value = max(value, 0.0)
            if gated:
                value = value * act(float(gate[n] @ x[t] + gate_bias[n]))
            wanted[t] += value * down_t[n]
    np.testing.assert_allclose(exact.value, wanted, rtol=1e-9, atol=1e-12)
