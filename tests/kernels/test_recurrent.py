"""The delta rule, and Mamba-2's scan: their recurrent and their chunked forms are each other's test; at the edges all
numbers stay finite.
"""

from collections.abc import Iterator

import pytest
import torch

from powerinfer_cli.kernels.reference_recurrent import delta_rule, delta_rule_in_chunks, scan, scan_in_chunks


def drawn(n: int, heads: int, k: int, v: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(seed)
    q, keys = (torch.nn.functional.normalize(torch.randn(n, heads, k), dim=-1) for _ in range(2))
    return q * k**-0.5, keys, torch.randn(n, heads, v)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small products: threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@torch.inference_mode()
def both(n: int, log_g: torch.Tensor, beta: torch.Tensor, size: int = 64) -> None:
    heads = log_g.shape[1]
    q, k, v = drawn(n, heads, 24, 20)
    first = torch.randn(heads, 24, 20)
    states = first.clone(), first.clone()
    slow = delta_rule(q, k, v, log_g.exp(), beta, states[0])
    fast = delta_rule_in_chunks(q, k, v, log_g, beta, states[1], size)
    for one, two in ((slow, fast), states):
        assert one.isfinite().all()
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


@pytest.mark.parametrize(("n", "size"), [(1, 64), (67, 64), (50, 7), (4000, 64)])
def test_chunks_do_not_drift(n: int, size: int) -> None:
    torch.manual_seed(n)
    both(n, -torch.rand(n, 2) * 0.2, torch.rand(n, 2), size)


@pytest.mark.parametrize("log_g", [0.0, -1e-7, -80.0, -1e4])
@pytest.mark.parametrize("beta", [0.0, 1e-7, 1.0])
def test_edges(log_g: float, beta: float) -> None:
    both(130, torch.full((130, 2), log_g), torch.full((130, 2), beta))


@torch.inference_mode()
def both_scans(n: int, log_g: torch.Tensor, size: int = 64) -> None:
    heads = log_g.shape[1]
    c, b, v = drawn(n, heads, 24, 20)
    first = torch.randn(heads, 24, 20)
    states = first.clone(), first.clone()
    slow, fast = scan(v, b, c, log_g, states[0]), scan_in_chunks(v, b, c, log_g, states[1], size)
    for one, two in ((slow, fast), states):
        assert one.isfinite().all()
        torch.testing.assert_close(two, one, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


@pytest.mark.parametrize(("n", "size"), [(1, 64), (67, 64), (50, 7), (4000, 64)])
def test_chunks_of_scans_do_not_drift(n: int, size: int) -> None:
    torch.manual_seed(n)
    both_scans(n, -torch.rand(n, 2) * 0.2, size)


@pytest.mark.parametrize("log_g", [0.0, -1e-7, -80.0, -1e4])
def test_edges_of_scans(log_g: float) -> None:
    both_scans(130, torch.full((130, 2), log_g))
