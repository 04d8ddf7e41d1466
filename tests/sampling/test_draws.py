from __future__ import annotations

import numpy as np
import pytest

from powerinfer_cli.sampling.draws import RANDOM_SEED, Draws, pick, resolve_seed
from powerinfer_cli.sampling.history import History


def test_the_twister_is_the_standard_one() -> None:
    # The C++ standard: the 10000th number of mt19937 with seed 5489 is 4123659995. Two numbers make a double.
    draws = Draws(5489)
    doubles = [draws.double() for _ in range(5000)]
    assert int(doubles[-1] * 2**32) == 4123659995
    draws = Draws(5489)
    singles = [draws.single() for _ in range(10000)]
    assert singles[-1] == np.float32(4123659995 / 2**32)


def test_draws_are_seeded_and_can_be_taken_back() -> None:
    assert Draws(7).double() == Draws(7).double()
    assert Draws(7).double() != Draws(8).double()
    draws = Draws(7)
    with draws.rewound():
        first = draws.double()
    assert draws.double() == first


@pytest.mark.parametrize("seed", [-1, RANDOM_SEED])
def test_random_seeds(seed: int) -> None:
    taken = {resolve_seed(seed) for _ in range(8)}
    assert len(taken) > 1
    assert all(0 <= one < RANDOM_SEED for one in taken)
    assert resolve_seed(0) == 0


@pytest.mark.parametrize(
    ("uniform", "index"), [(0.0, 1), (0.24, 1), (0.26, 3), (0.74, 3), (0.76, 4), (0.9999999999999999, 4)]
)
def test_pick_passes_over_the_impossible(uniform: float, index: int) -> None:
    assert pick(np.array([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], np.float32), uniform) == index


@pytest.mark.parametrize("window", [0, 1, 3, 700])
def test_history_remembers_the_last_tokens(window: int) -> None:
    history, said = History(window), list(range(5000))
    for token in said:
        history.append(token)
    for n in {0, min(1, window), window // 2, window}:
        assert history.last(n).tolist() == said[len(said) - n :]
    history.clear()
    assert history.last(window).tolist() == []
