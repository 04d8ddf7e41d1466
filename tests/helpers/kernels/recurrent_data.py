"""Operands for kernels of layers that keep a state of a sequence."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from powerinfer_cli.model import NormKind
from powerinfer_cli.model.blocks import Convolution, DeltaNet, Linear, Mamba2, Norm
from tests.helpers.kernels.device_data import normal

__all__ = ["convolution_of", "delta_net_of", "mamba2_of", "with_bias"]


def convolution_of(channels: int, length: int, seed: int = 0) -> Convolution[Tensor]:
    return Convolution(channels, length, normal(channels * length, seed=seed) / length**0.5)


def with_bias(convolution: Convolution[Tensor]) -> Convolution[Tensor]:
    return replace(convolution, bias=normal(convolution.channels, seed=9).to(convolution.weight.device))


def delta_net_of(
    n_keys: int, n_values: int, key_dim: int, value_dim: int, *, tiled: bool, device: torch.device | str = "cpu"
) -> DeltaNet[Any, Tensor]:
    """Without matrices. Heads decay at once, hardly, and between."""
    nothing: Any = None
    none = Linear(nothing, nothing)
    channels = 2 * n_keys * key_dim + n_values * value_dim
    decay = -torch.logspace(-8, 8, n_values, base=2.0)
    norm = Norm(NormKind.RMS, 1e-6, torch.ones(value_dim, device=device), None)
    sizes = n_keys, n_values, key_dim, value_dim, tiled
    convolution = convolution_of(channels, 4).map(lambda one: one.to(device))
    vectors = decay.to(device), normal(n_values, seed=2).to(device)
    return DeltaNet(*sizes, none, none, none, none, convolution, *vectors, norm, none)


def mamba2_of(
    n_heads: int, n_groups: int, value_dim: int, state_dim: int, device: torch.device | str = "cpu"
) -> Mamba2[Any, Tensor]:
    """Without matrices. Heads decay at once, hardly, and between."""
    nothing: Any = None
    none = Linear(nothing, nothing)
    convolution = convolution_of(n_heads * value_dim + 2 * n_groups * state_dim, 4).map(lambda one: one.to(device))
    decay = -torch.logspace(-8, 8, n_heads, base=2.0)
    vectors = decay.to(device), normal(n_heads, seed=2).to(device), normal(n_heads, seed=3).to(device)
    sizes = n_heads, n_groups, value_dim, state_dim
    return Mamba2(*sizes, none, none, none, convolution, *vectors, norm=None, output=none)
