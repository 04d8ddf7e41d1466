"""What a batch is, for every executor: one token, a few of as many sequences, or many."""

import pytest

from powerinfer_cli.kernels.few import FEW, ONE_BY_ONE
from powerinfer_cli.runtime.batch import Batch, BatchKind


@pytest.mark.parametrize(
    ("lengths", "kind"),
    [
        ([1], BatchKind.ONE),
        ([1, 1], BatchKind.FEW),
        ([1] * FEW, BatchKind.FEW),
        ([1] * (FEW + 1), BatchKind.MANY),
        ([2], BatchKind.MANY),
        ([1, 2], BatchKind.MANY),
        ([FEW], BatchKind.MANY),
    ],
)
def test_kinds(lengths: list[int], kind: BatchKind) -> None:
    batch = Batch.of([(sequence, [5] * length, 3) for sequence, length in enumerate(lengths)])
    assert batch.kind is kind
    assert len(batch) == sum(lengths)


def test_a_device_multiplies_fewer_one_by_one() -> None:
    assert ONE_BY_ONE <= FEW
