"""Every operation of a layer in plain torch, float32, easy to check by eye. T tokens, H heads, D = head_dim."""

from typing import Any, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from powerinfer_cli.model import Activation, RopeStyle
from powerinfer_cli.model.blocks import (
    LEAST_SUM,
    LOWEST_SCORE,
    NEAR,
    XIELU,
    Curve,
    FatReLU,
    Gating,
    Router,
    Temperature,
    alibi_exponents,
)

__all__ = [
    "activate",
    "attention",
    "largest",
    "layer_norm",
    "neuron_values",
    "predict_active",
    "rms_norm",
    "rotate",
    "route",
    "sparse_ffn",
]


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last dimension."""
    return F.layer_norm(x, weight.shape, weight, bias, eps)


def activate(x: Tensor, activation: Activation, curve: Curve | None = None) -> Tensor:
    """act(x), elementwise."""
    match activation:
        case Activation.RELU | Activation.RELU_SQUARED:
            y = torch.relu(x)
            return y if activation is Activation.RELU else y.square()
        case Activation.FATRELU:
            if not isinstance(curve, FatReLU):
                raise ValueError("FATReLU without its threshold")
            return F.threshold(x, curve.threshold, 0.0)
        case Activation.SILU:
            return F.silu(x)
        case Activation.GELU | Activation.GELU_TANH:
            return F.gelu(x, approximate="none" if activation is Activation.GELU else "tanh")
        case Activation.XIELU:
            if not isinstance(curve, XIELU):
                raise ValueError("xIELU without its numbers")
            below = curve.fall * (torch.expm1(x.clamp(max=curve.eps)) - x)
            return torch.where(x > 0, curve.rise * x * x, below) + curve.beta * x
        case Activation.CLAMPED_SWISH:
            bounded = x.clamp(max=7.0)
            return bounded * torch.sigmoid(1.702 * bounded)
    assert_never(activation)


def neuron_values(
    gate: Tensor | None,
    up: Tensor,
    activation: Activation,
    *,
    relu_on_up: bool = False,
    curve: Curve | None = None,
) -> Tensor:
    """What neurons are: act(gate) * up, or act(gate) * relu(up), or act(up) where there is no gate."""
    if gate is None:
        return activate(up, activation, curve)
    if activation.bends_up:
        up = 1 + up.clamp(-7.0, 7.0)
    elif relu_on_up:
        up = torch.relu(up)
    return activate(gate, activation, curve) * up


def largest(values: Tensor, count: int) -> Tensor:
    """bool [T, n]: of each row of values [T, n] the `count` largest by size, with all as large as the least."""
    sizes = values.abs()
    return sizes >= sizes.topk(count, dim=1).values[:, -1:]


def rotate(x: Tensor, cos: Tensor, sin: Tensor, style: RopeStyle) -> Tensor:
    """Turn the first n_rot dimensions of each head. x [T, H, D]; cos, sin [T, n_rot / 2]; the rest passes through."""
    n_rot = 2 * cos.shape[-1]
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # [T, 1, n_rot / 2]
    turning = x[..., :n_rot]
    match style:
        case RopeStyle.INTERLEAVED:
            a, b = turning[..., 0::2], turning[..., 1::2]
            turned = torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)
        case RopeStyle.NEOX:
            a, b = turning.chunk(2, -1)
            turned = torch.cat((a * cos - b * sin, a * sin + b * cos), -1)
        case never:
            assert_never(never)
    return turned if n_rot == x.shape[-1] else torch.cat((turned, x[..., n_rot:]), -1)


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    alibi: float | None = None,
    temperature: Temperature | None = None,
    sinks: Tensor | None = None,
    chunk: int | None = None,
    *,
    causal: bool = True,
    reach: int | None = None,
) -> Tensor:
    """Attention of the last T of S positions. q [T, H, D]; k, v [S, H_kv, D] -> [T, H * D]

    H is a multiple of H_kv. Query t sees keys up to S - T + t, `window` of them or all, by softmax(score): scale q . k,
    or c tanh(scale q . k / c) with a softcap c, less, with alibi, a head's slope times the distance. sinks [H]: a
    further score of each head's, without a value. With a chunk it sees none before the last multiple of that. causal
    False: it sees all keys, or with a reach so many to each side of its own.
    """
    n_token, n_past = q.shape[0], k.shape[0] - q.shape[0]
    mask = torch.ones(n_token, k.shape[0], dtype=torch.bool)
    if causal:
        mask = mask.tril(n_past)
    elif reach is not None:
        mask = mask.tril(n_past + reach).triu(n_past - reach)
    if window is not None:
        mask = mask.triu(n_past - window + 1)
    own = torch.arange(n_past, k.shape[0])
    if chunk is not None:
        mask = mask & (torch.arange(k.shape[0]) >= (own // chunk * chunk).unsqueeze(1))
    if temperature is not None:
        q = q * torch.from_numpy(temperature.at(own.numpy())).view(-1, 1, 1)
    q, k, v = (t.transpose(0, 1) for t in (q, k, v))  # [H, T or S, D]
    k, v = (t.repeat_interleave(len(q) // len(t), 0) for t in (k, v))
    if softcap is None and alibi is None and sinks is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale).transpose(0, 1).flatten(1)
    scores = scale * (q @ k.transpose(1, 2))
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi is not None:
        slopes = 2.0 ** (-alibi * torch.from_numpy(alibi_exponents(len(q))))
        distances = (own.unsqueeze(1) - torch.arange(k.shape[1])).abs()
        scores = scores - (slopes.view(-1, 1, 1) * distances).float()
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        scores = torch.cat((scores, sinks.view(-1, 1, 1).expand(-1, n_token, 1)), -1)
    out = scores.softmax(-1)[..., : len(mask[0])] @ v
    return out.transpose(0, 1).flatten(1)


def route(logits: Tensor, router: Router[Any, Tensor]) -> tuple[Tensor, Tensor]:
    """Which experts each token needs, and how much they count: logits [T, E] -> int64 and float32 [T, n_chosen], the
    experts ascending. A logit that is no number is the lowest there is.
    """
    logits = logits.nan_to_num(nan=LOWEST_SCORE).clamp(LOWEST_SCORE, -LOWEST_SCORE)
    match router.gating:
        case Gating.SOFTMAX:
            scores = logits.softmax(-1)
        case Gating.SIGMOID:
            scores = logits.sigmoid()
        case Gating.SOFTMAX_OF_CHOSEN | Gating.NEAR:
            scores = logits
        case never:
            assert_never(never)
    ranked = scores if router.choice_bias is None else scores + router.choice_bias
    if router.n_groups > 1:
        groups = ranked.unflatten(1, (router.n_groups, -1))
        best = groups.topk(min(router.group_best, groups.shape[-1])).values.sum(-1).clamp(min=LOWEST_SCORE)
        out = best.sort(descending=True, stable=True).indices[:, router.n_groups_used :]
        ranked = groups.scatter(1, out.unsqueeze(-1).expand(-1, -1, groups.shape[-1]), LOWEST_SCORE).flatten(1)
    chosen = ranked.sort(descending=True, stable=True).indices[:, : router.n_chosen].sort().values
    weights = _near(logits, chosen) if router.gating is Gating.NEAR else scores.gather(1, chosen)
    if router.gating is Gating.SOFTMAX_OF_CHOSEN:
        weights = weights.softmax(-1)
    if router.normed:
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=LEAST_SUM)
    if router.gains is not None:
        weights = weights * router.gains[chosen]
    return chosen, router.scale * weights


def _near(logits: Tensor, chosen: Tensor) -> Tensor:
    """Each chosen one's softmax among those that are near it and no better. [T, n_chosen]"""
    own = logits.gather(1, chosen)
    better = (own.unsqueeze(1) > own.unsqueeze(2)) | ((own.unsqueeze(1) == own.unsqueeze(2)) & _before(chosen))
    left = torch.ones_like(logits, dtype=torch.bool).unsqueeze(1).repeat(1, chosen.shape[1], 1)
    left.scatter_(2, chosen.unsqueeze(1).expand_as(better), ~better)
    every, best = logits.unsqueeze(1), own.unsqueeze(2)
    near = best - every <= NEAR * torch.maximum(every.abs(), best)
    return (every - best).exp().masked_fill(~(left & near), 0).sum(-1).reciprocal()


def _before(chosen: Tensor) -> Tensor:
    """[k, k]: whether the second index comes before the first."""
    k = chosen.shape[1]
    return torch.ones(k, k, dtype=torch.bool, device=chosen.device).tril(-1)


def predict_active(x: Tensor, fc1: Tensor, fc2: Tensor, threshold: float) -> Tensor:
    """Which neurons the predictor lets through: fc2 @ relu(fc1 @ x) >= threshold. x [T, n_embd] -> bool [T, n_ff]"""
    return torch.relu(x @ fc1.T) @ fc2.T >= threshold


def sparse_ffn(
    x: Tensor,
    active: Tensor,
    gate: Tensor | None,
    up: Tensor,
    down_t: Tensor,
    *,
    activation: Activation = Activation.RELU,
    relu_on_up: bool = False,
    curve: Curve | None = None,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
) -> Tensor:
    """An FFN in which only active neurons count: every neuron computed, the others' activations set to 0.

    x [T, n_embd], active bool [T, n_ff], gate, up and down_t [n_ff, n_embd] -> [T, n_embd].
    """
    gates = None if gate is None else F.linear(x, gate, gate_bias)
    values = neuron_values(gates, F.linear(x, up, up_bias), activation, relu_on_up=relu_on_up, curve=curve)
    return (values * active) @ down_t
