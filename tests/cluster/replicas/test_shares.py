"""What each replica gets of GPUs."""

import pytest

from powerinfer_cli.cluster.replicas.shares import Wanted, shared
from powerinfer_cli.errors import PowerInferError


@pytest.mark.parametrize(
    ("replicas", "gpus", "share"), [(2, 0, 0.0), (2, 2, 1.0), (2, 5, 2.0), (4, 2, 0.5), (3, 1, 0.3333), (3, 2, 0.5)]
)
def test_gpus_are_divided_where_nobody_says(replicas: int, gpus: int, share: float) -> None:
    fleet = shared(Wanted(replicas, replicas), gpus)
    assert (fleet.gpus, fleet.least, fleet.most) == (share, replicas, replicas)


def test_too_few_gpus_are_a_line() -> None:
    with pytest.raises(PowerInferError, match=r"no free GPU for replica 3 of 3: each takes 0.6, and Ray has 2 free"):
        shared(Wanted(3, 3, gpus=0.6), 2)
    with pytest.raises(PowerInferError, match="no free GPU for replica 1 of 1"):
        shared(Wanted(gpus=1.0), 0)


def test_no_more_replicas_come_than_there_is_room_for() -> None:
    assert shared(Wanted(1, 8, gpus=0.5), 2).most == 4
    assert shared(Wanted(1, 8, gpus=0.0), 2).most == 8
