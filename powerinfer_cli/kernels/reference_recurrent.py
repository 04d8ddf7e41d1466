"""Operations of layers that keep a state of a sequence, in plain torch, float32. T tokens of one sequence."""

import torch
from torch import Tensor

__all__ = ["convolve"]


def convolve(x: Tensor, kept: Tensor, weight: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Causal, each channel by itself. x [T, C], kept [K - 1, C]: the inputs before these; weight [C, K], bias [C].

    What it makes [T, C], and what is to be kept.
    """
    whole = torch.cat((kept, x))
    y = torch.einsum("tck,ck->tc", whole.unfold(0, weight.shape[1], 1), weight)
    return y if bias is None else y + bias, whole[len(x) :]
