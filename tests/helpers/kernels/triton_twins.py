"""Triton's operations and their twins, on a GPU or interpreted, and numbers for both; what must not be read is NaN."""

import os
from dataclasses import replace

import torch
from torch import Tensor

from powerinfer_cli.gguf_io import GGMLType
from powerinfer_cli.kernels.device import Ops, PlanarRows, ops_for
from tests.helpers.kernels.device_data import rows_of

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
FAST, TWIN = ops_for(DEVICE), Ops()


def there(x: Tensor) -> Tensor:
    return x.to(DEVICE)


def rows_there(rows: PlanarRows) -> PlanarRows:
    planes = {name: value.to(DEVICE) for name, value in vars(rows).items() if isinstance(value, Tensor)}
    return replace(rows, **planes)


def some_rows(kind: GGMLType, n_rows: int, n_cols: int, seed: int = 0) -> PlanarRows:
    return rows_there(rows_of(kind, n_rows, n_cols, seed)[0])


def in_nan(x: Tensor) -> Tensor:
    """A vector with NaN before and behind it."""
    room = torch.full((x.numel() + 512,), torch.nan, device=DEVICE)
    part = room[256:-256].view(x.shape)
    part.copy_(x)
    return part


def nan(*shape: int) -> Tensor:
    return in_nan(torch.full(shape, torch.nan))


def poisoned(rows: PlanarRows, where: Tensor) -> PlanarRows:
    """Rows whose number of any kind is NaN where told: floats' quants, others' scales."""
    name = "quants" if rows.scales is None else "super_scales" if rows.super_scales is not None else "scales"
    plane = getattr(rows, name).clone()
    plane[where.to(plane.device)] = torch.nan
    return replace(rows, **{name: plane})


def close(found: Tensor, wanted: Tensor, scale: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, rtol=scale, atol=scale * float(wanted.abs().max() + 1e-30))
