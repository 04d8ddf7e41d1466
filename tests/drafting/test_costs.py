"""What passes cost decides how many tokens are proposed."""

import pytest

from powerinfer_cli.drafting.costs import FURTHER, PassCosts
from powerinfer_cli.drafting.pace import Pace
from powerinfer_cli.kernels.few import FEW


def costs_of(passes: dict[int, float], proposing: float = 0.0, *, measured: bool = True) -> PassCosts:
    """After three passes of each, of which one was disturbed."""
    costs = PassCosts(proposing, measured=measured)
    for n, seconds in passes.items():
        for disturbed in (1, 50, 1):
            costs.note_pass(n, seconds * disturbed)
    return costs


def test_what_lies_between_and_behind_measured_passes() -> None:
    costs = costs_of({1: 0.01, 4: 0.013, 8: 0.025})
    assert [costs.passes[n] for n in (1, 2, 4, 6, 8, 9)] == pytest.approx([1, 1.1, 1.3, 1.9, 2.5, 2.5 + FURTHER])


def test_usual_costs_until_passes_are_measured() -> None:
    usual = [1 + FURTHER * n for n in range(FEW)]
    for costs in (PassCosts(), costs_of({4: 1.0}), costs_of({1: 0.01, 8: 0.5}, measured=False)):
        assert costs.passes[1:] == pytest.approx(usual)


def test_proposals_are_measured_beside_passes() -> None:
    costs = costs_of({1: 0.01}, 0.25)
    costs.note_proposal(0, 5.0)
    for seconds in (3.0, 0.02, 0.02):  # the first one reads the prompt
        assert costs.proposing == 0.25
        costs.note_proposal(4, seconds)
    assert costs.proposing == pytest.approx(0.5)


@pytest.mark.parametrize(("eight", "wanted"), [(1.1, 7), (2.4, 3), (7.0, 1)])
def test_dear_passes_make_short_drafts(eight: float, wanted: int) -> None:
    assert Pace(costs_of({1: 1.0, 8: eight}), 7).wish() == wanted


def test_where_no_draft_pays_it_pauses() -> None:
    pace = Pace(costs_of({1: 1.0, 2: 2.5, 8: 9.0}), 7)
    assert pace.wish() == 1
    for _ in range(20):
        pace.learn(1, rejected=False)
        assert sum(pace.wish() for _ in range(8)) == 0
        pace.wish()


def test_what_changes_is_seen_later() -> None:
    costs = costs_of({1: 1.0, 4: 1.2})
    for _ in range(9):
        costs.note_pass(4, 2.0)
    costs.note_pass(FEW + 1, 1.0)
    assert costs.passes[4] == pytest.approx(2.0)
