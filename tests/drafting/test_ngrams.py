from powerinfer_cli.drafting import NgramDrafter
from powerinfer_cli.drafting.costs import PassCosts
from powerinfer_cli.drafting.pace import Pace


def proposed(drafter: NgramDrafter, ids: list[int], most: int = 8) -> tuple[list[int], int] | None:
    found = drafter.propose({0: ids}, {0: lambda kind: most})
    return (list(found[0].ids), found[0].kind) if found else None


def test_the_longest_match_wins_and_of_equals_the_latest() -> None:
    drafter = NgramDrafter(1, 2, 4)
    assert proposed(drafter, [1, 2, 3, 4]) is None
    assert proposed(drafter, [9, 1, 2, 7, 7, 1, 2, 8, 8, 5, 1, 2]) == ([8, 8, 5, 1], 2)
    drafter.forget(0, 0)
    assert proposed(drafter, [9, 1, 2, 7, 7, 1, 2, 8, 8, 9, 1, 2]) == ([7, 7, 1, 2], 2)
    drafter.forget(0, 3)
    assert proposed(drafter, [9, 1, 2, 6, 1, 2]) == ([6, 1, 2, 6], 2)  # it goes on in the period of its end


def test_limits() -> None:
    ids = [1, 2, 3, 1, 2, 3, 1, 2]
    assert proposed(NgramDrafter(1, 2, 1), ids) == ([3], 3)
    assert proposed(NgramDrafter(1, 2, 9, min_hits=3), ids) is None
    assert proposed(NgramDrafter(1, 2, 9, min_hits=2), ids, 2) == ([3, 1], 3)
    assert proposed(NgramDrafter(1, 6, 9), ids) is None


def test_what_is_rejected_pauses_and_what_is_accepted_grows() -> None:
    good, bad = Pace(PassCosts(), 15), Pace(PassCosts(), 15)
    for _ in range(10):
        n = good.wish()
        good.learn(n, rejected=False)
    assert good.wish() == 15
    asked = [bad.wish() for _ in range(400) if not bad.learn(0, rejected=True)]
    assert sum(asked) < 20
    bad.learn(12, rejected=False)
    assert max(bad.wish() for _ in range(300)) > 1
