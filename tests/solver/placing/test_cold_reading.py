"""Pages of the KV cache against neurons and experts, byte for byte; and what attending to pages elsewhere takes."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from powerinfer_cli.opening.planning.cache_pages import with_fitting_pages
from powerinfer_cli.placement import (
    ActivationStatistics,
    LayerBytes,
    LayerPlacement,
    ModelBytes,
    Plan,
    Reservation,
    RowReading,
    no_neurons,
    reserve,
)
from solver.placing import Work, simulate
from solver.placing.cold_reading import cold_reading
from solver.placing.costs import always_active
from tests.helpers.placing.placement_problems import profile

MIB = 1 << 20
LAYER = LayerBytes(
    10 * MIB, MIB, 256 * MIB, 2 * MIB, 64, reading=RowReading.CHOSEN, chosen=8, n_pages=512, page=MIB // 2
)
SIZES = ModelBytes((LAYER,) * 4, 0, 0)


def test_what_is_not_there_is_read() -> None:
    counts = np.array([60.0, 20.0] + [0.0] * 62)
    first, second = ActivationStatistics((counts,) * 4, 100), ActivationStatistics((counts[::-1],) * 4, 100)
    for known in (first, second):
        cold = cold_reading(SIZES, known)
        assert cold(Reservation((0,) * 4, -1, (0,))) == pytest.approx(4 * 0.8 * 2 * MIB)
        assert cold(Reservation((0,) * 4, -1, (4 * 2 * MIB,))) == pytest.approx(4 * 0.2 * 2 * MIB)
        assert cold(Reservation((-1, -1, 0, 0), -1, (99 * MIB,))) == pytest.approx(2 * 0.8 * 2 * MIB)


@pytest.mark.parametrize(("share", "least"), [(0.9, 0.6), (0.125, 0.85), (0.01, 0.95)])
def test_pages_make_way_for_what_is_needed_more_often(share: float, least: float) -> None:
    """A page near the end of a context is seldom read: 8 experts are chosen that often, all others hardly ever."""
    counts = np.where(np.arange(64) < 8 / max(share, 0.125), share * 1000, 0.0)
    budget = 4 * (11 + 256) * MIB
    reserve_of = partial(reserve, budgets=(budget,))
    cold = cold_reading(SIZES, ActivationStatistics((counts,) * 4, 1000))
    pages = with_fitting_pages(SIZES, reserve_of, whole=False, cold=cold).layers[0].pages
    assert with_fitting_pages(SIZES, reserve_of, whole=False).layers[0].pages is None
    there = 512 if pages is None else pages
    assert least * 512 <= there < 512 - 8 * (share > 0.1)


def test_attention_on_both_sides() -> None:
    """By hand: a context of 256 MiB that is three quarters full, half of whose pages are elsewhere."""
    on = profile(gpu=1000.0 * MIB, cpu=100.0 * MIB, handover=0.5)
    layer = replace(LAYER, attention=0, predictor=0, pages=256, spare=0)
    sizes = ModelBytes((layer,), 0, 0)
    plan = Plan((1 << 40,), (LayerPlacement(0, no_neurons(), 256),), 0, "milp", "")

    def before(depth: float) -> float:
        work = Work(sizes, always_active(sizes.layers), "any", 0, depth)
        return simulate(plan, work, on).layers[0].before

    assert before(0.5) == pytest.approx(128 / 1000)
    assert before(0.75) == pytest.approx(64 / 100 + 0.5)
