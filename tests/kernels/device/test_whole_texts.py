"""Attention of whole texts on devices, against the plain one."""

from typing import Any

import pytest
import torch

from powerinfer_cli.kernels import reference as plain
from powerinfer_cli.kernels.device import ops_for, whole_texts

OPS, DIM, N_HEAD, N_HEAD_KV = ops_for("cpu"), 16, 6, 2


@pytest.mark.parametrize(
    "how",
    [{}, {"reach": 5}, {"reach": 0}, {"alibi": 8.0}, {"softcap": 2.0}, {"softcap": 2.0, "reach": 40, "alibi": 8.0}],
)
@pytest.mark.parametrize("n", [1, 2, 77])
def test_texts(n: int, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All queries at once, and few at a time."""
    generator = torch.Generator().manual_seed(n)
    q, k, v = (torch.randn(n, heads * DIM, generator=generator) for heads in (N_HEAD, N_HEAD_KV, N_HEAD_KV))
    split = (x.view(n, -1, DIM) for x in (q, k, v))
    wanted = plain.attention(
        *split, 0.3, None, how.get("softcap"), how.get("alibi"), causal=False, reach=how.get("reach")
    )
    for scores in (whole_texts.SCRATCH_NUMBERS, 10 * N_HEAD * n, 1):
        monkeypatch.setattr(whole_texts, "SCRATCH_NUMBERS", scores)
        out = torch.full((n, N_HEAD * DIM), torch.nan)
        assert OPS.attention_of_text(q, k, v, DIM, scale=0.3, **how, out=out) is out
        torch.testing.assert_close(out, wanted)
