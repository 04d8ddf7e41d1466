"""exp, and the activations made of it, on 16 lanes."""

import numpy as np

from powerinfer_cli.kernels.jit import helper
from powerinfer_cli.kernels.simd import (
    absolute,
    f32,
    first,
    fma,
    maximum,
    nearest,
    power_of_two,
    reciprocal,
    splat,
    total,
    where_positive,
    zero,
)

__all__ = [
    "activated",
    "activated_number",
    "exp",
    "gelu",
    "gelu_tanh",
    "minimum",
    "relu",
    "silu",
    "softplus",
    "tanh",
    "xielu",
]

_LOG2_E = np.float32(1.4426950408889634)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # their sum is ln 2 to 35 bits


@helper
def minimum(x, y):
    """The smaller, lane by lane."""
    return zero() - maximum(zero() - x, zero() - y)


@helper
def exp(x):
    """e**x, relative error 2e-7, for x within -87..88; beyond, the value at that bound.

    x = n ln 2 + r, |r| <= ln 2 / 2; e**r by the polynomial of Cephes' expf.
    """
    x = minimum(maximum(x, splat(np.float32(-87.0))), splat(np.float32(88.0)))
    n = nearest(x * splat(_LOG2_E))
    r = fma(n, splat(-_LN2_HIGH), x)
    r = fma(n, splat(-_LN2_LOW), r)
    p = splat(np.float32(1.9875691500e-4))
    p = fma(p, r, splat(np.float32(1.3981999507e-3)))
    p = fma(p, r, splat(np.float32(8.3334519073e-3)))
    p = fma(p, r, splat(np.float32(4.1665795894e-2)))
    p = fma(p, r, splat(np.float32(1.6666665459e-1)))
    p = fma(p, r, splat(np.float32(5.0000001201e-1)))
    p = fma(p, r * r, r + splat(np.float32(1.0)))
    return p * power_of_two(n)


@helper
def relu(x):
    return maximum(x, zero())


@helper
def silu(x):
    """x / (1 + e**-x)"""
    return x * reciprocal(splat(np.float32(1.0)) + exp(zero() - x))


@helper
def softplus(x):
    """log(1 + e**x): Newton's steps from a guess that is off by 0.06 at most."""
    one = splat(np.float32(1.0))
    y = maximum(x, zero()) + splat(np.float32(0.6931472)) * exp(zero() - absolute(x))
    for _ in range(4):
        y = y - one + exp(zero() - y) + exp(x - y)
    return y


@helper
def gelu(x):
    """x (1 + erf(x / sqrt 2)) / 2, with erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7."""
    one = splat(np.float32(1.0))
    z = absolute(x) * splat(np.float32(0.7071067811865476))
    t = reciprocal(fma(z, splat(np.float32(0.3275911)), one))
    p = splat(np.float32(1.061405429))
    p = fma(p, t, splat(np.float32(-1.453152027)))
    p = fma(p, t, splat(np.float32(1.421413741)))
    p = fma(p, t, splat(np.float32(-0.284496736)))
    p = fma(p, t, splat(np.float32(0.254829592)))
    tail = p * t * exp(zero() - z * z)  # 1 - erf(z)
    return splat(np.float32(0.5)) * (x + absolute(x) * (one - tail))


@helper
def gelu_tanh(x):
    """x (1 + tanh(u)) / 2 = x / (1 + e**-2u), u = sqrt(2 / pi) (x + 0.044715 x**3)"""
    one = splat(np.float32(1.0))
    twice = x * fma(x * x, splat(np.float32(2 * 0.7978845608 * 0.044715)), splat(np.float32(2 * 0.7978845608)))
    return x * reciprocal(one + exp(zero() - twice))


@helper
def tanh(x):
    """1 - 2 / (1 + e**2x), absolute error 2e-7."""
    one = splat(np.float32(1.0))
    return one - splat(np.float32(2.0)) * reciprocal(one + exp(x + x))


@helper
def xielu(x, curve):
    """rise x**2 + beta x above 0, fall (e**min(x, eps) - 1 - x) + beta x elsewhere; curve: `curve_numbers`' address."""
    numbers = f32(curve)
    bounded = exp(minimum(x, splat(numbers[3])))
    below = splat(numbers[1]) * (bounded - splat(np.float32(1.0)) - x)
    return fma(splat(numbers[2]), x, where_positive(x, splat(numbers[0]) * x * x, below))


@helper
def fatrelu(x, curve):
    """x above the threshold, 0 elsewhere; curve: `curve_numbers`' address."""
    return where_positive(x - splat(f32(curve)[0]), x, zero())


@helper
def clamped_swish(x):
    """g sigmoid(1.702 g), g = min(x, 7)"""
    bounded = minimum(x, splat(np.float32(7.0)))
    return bounded * reciprocal(splat(np.float32(1.0)) + exp(bounded * splat(np.float32(-1.702))))


@helper
def activated(x, code, curve):
    """The activation of this code, one of ACTIVATION_CODES; curve: where it has numbers, their address."""
    if code == 0:
        return relu(x)
    if code == 1:
        return relu(x) * relu(x)
    if code == 2:
        return fatrelu(x, curve)
    if code == 3:
        return silu(x)
    if code < 6:
        return gelu(x) if code == 4 else gelu_tanh(x)
    return xielu(x, curve) if code == 6 else clamped_swish(x)


@helper
def gated(up, code, relu_on_up):
    """What the activation of this code multiplies."""
    if code == 7:
        most = splat(np.float32(7.0))
        return splat(np.float32(1.0)) + maximum(minimum(up, most), zero() - most)
    return relu(up) if relu_on_up else up


@helper
def activated_number(x, code, curve):
    """The same of a single number."""
    return total(first(activated(splat(x), code, curve), 1))
