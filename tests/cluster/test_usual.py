"""How long is usual: what few times are below."""

import numpy as np

from powerinfer_cli.cluster.usual import MOST_KINDS, Usual


def test_few_are_sooner() -> None:
    usual, random = Usual(), np.random.default_rng(0)
    times = random.uniform(1.0, 2.0, 2000)
    for seconds in times:
        usual.note(1, float(seconds))
    assert 0.02 < np.mean(times < usual.of(1)) < 0.3


def test_it_follows_what_became_slower_or_faster() -> None:
    usual = Usual()
    for seconds in (1.0, *[3.0] * 100):
        usual.note(1, seconds)
    assert 2.9 < usual.of(1) <= 3.0
    for _ in range(10):
        usual.note(1, 1.0)
    assert 1.0 <= usual.of(1) < 1.01


def test_kinds_are_apart_and_bounded() -> None:
    usual = Usual()
    for kind in range(2 * MOST_KINDS):
        usual.note(kind, 1.0 + kind)
    assert usual.of(3) == 4.0
    assert usual.of(2 * MOST_KINDS - 1) == 0.0
