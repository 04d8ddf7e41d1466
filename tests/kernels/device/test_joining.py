"""Attention whose first pages lie on a device and whose others in main memory: both parts joined are as one."""

from typing import Any

import numpy as np
import pytest
import torch

from powerinfer_cli.kernels.cache import PAGE, CacheType, KeysValues, Shape
from powerinfer_cli.kernels.cpu.attention.operation import attention
from powerinfer_cli.kernels.cpu.attention.rope import rope
from powerinfer_cli.kernels.cpu.vectors import Vectors
from powerinfer_cli.kernels.device import make_cache, ops_for
from powerinfer_cli.kernels.device.cache import SPARE
from powerinfer_cli.model.blocks import Temperature
from tests.helpers.kernels.device_data import normal, places
from tests.helpers.kernels.kernel_runs import run, state_of
from tests.helpers.rounding import Interval
from tests.helpers.rounding import attention as wanted

N_KV, N_HEAD, DIM = 2, 6, 32
SINKS = torch.tensor([0.0, -3.0, 2.0, 30.0, -40.0, 1.0])
PAGES = [3, 0, 4, 1]  # of which those below a border lie on the device
OPS = ops_for("cpu")
LOSS = {CacheType.F32: 0.0, CacheType.F16: 2e-3, CacheType.Q8_0: 4e-2}
KINDS = [(CacheType.F32, CacheType.F32), (CacheType.F16, CacheType.Q8_0), (CacheType.Q8_0, CacheType.F16)]


@pytest.mark.parametrize("border", [0, 2])
@pytest.mark.parametrize(("n_token", "n_past"), [(1, 450), (5, 126), (140, 250)])
@pytest.mark.parametrize(
    ("types", "bends"),
    [
        (KINDS[0], {}),
        (KINDS[1], {"softcap": 2.0, "sinks": SINKS}),
        (KINDS[2], {"window": 140, "alibi": 8.0}),
        (KINDS[1], {"chunk": 200, "temperature": Temperature(0.7, 32, 1)}),
    ],
)
def test_parts_are_as_one(
    border: int, n_token: int, n_past: int, types: tuple[CacheType, CacheType], bends: dict[str, Any]
) -> None:
    n = n_past + n_token
    q, k, v = normal(n_token, N_HEAD * DIM), normal(n, N_KV * DIM, seed=1), normal(n, N_KV * DIM, seed=2)
    device = make_cache(N_KV, PAGE * border + SPARE, DIM, *types, "cpu")
    host = KeysValues.make(Shape(N_HEAD, N_KV, DIM, PAGE * (5 - border)), *types, origin=PAGE * border)
    for part in (device.k, device.v, host.k, host.v, host.k_scales, host.v_scales):
        part[:] = torch.nan if part.dtype in (torch.float32, torch.float16, np.float32, np.float16) else 99
    pages = torch.tensor(PAGES)
    OPS.rope_store(torch.zeros(n, N_HEAD * DIM), k, v, device, *places(pages, 0, n), None, None, None)
    run(rope(state_of(n, 0, PAGES), np.zeros((n, N_HEAD * DIM), np.float32), k.numpy(), v.numpy(), host, None, None))

    scale, sinks = DIM**-0.5, bends.get("sinks")
    limits = {name: value for name, value in bends.items() if name != "sinks"}
    own = OPS.attention(q, device, torch.tensor([n_past]), pages, scale=scale, **limits, parts=True)
    temperature = limits.pop("temperature", None)
    if temperature is not None:
        limits["temperatures"] = temperature.at(np.arange(n_past, n))
    other = Vectors(own.shape[1], np.full(own.shape, np.nan, np.float32), np.empty((0, 0), np.uint8))
    run(attention(state_of(n_token, n_past, PAGES), q.numpy(), host, other, 2, scale=scale, **limits, parts=True))
    found = OPS.join(own, torch.from_numpy(other.floats), sinks, torch.full_like(q, torch.nan))

    of_twin = {"cap" if name == "softcap" else name: value for name, value in bends.items()}
    if sinks is not None:
        of_twin["sinks"] = sinks.numpy()
    exact = wanted(*(x.view(len(x), -1, DIM).numpy() for x in (q, k, v)), **of_twin)
    Interval(exact.value, exact.radius + max(LOSS[one] for one in types)).check(found.numpy())
