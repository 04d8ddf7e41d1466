"""Which groups are hot follows from counted tokens alone."""

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.placement import HEAT, LRU, Heat, HeatRule

Ints = npt.NDArray[np.int64]


def choices(seed: int, n_tokens: int, n_layers: int, n_groups: int, n_chosen: int, topics: int = 1) -> Ints:
    """[T, L, k] by a power law; the popular ones are others in each of so many stretches."""
    rng = np.random.default_rng(seed)
    law = np.log((np.arange(n_groups) + 1.0) ** -0.8)
    found = np.empty((n_tokens, n_layers, n_chosen), np.int64)
    for tokens in np.array_split(np.arange(n_tokens), topics):
        for layer in range(n_layers):
            scores = rng.permutation(law) + rng.gumbel(size=(len(tokens), n_groups))
            found[tokens, layer] = np.sort(np.argsort(-scores, axis=1)[:, :n_chosen], axis=1)
    return found


def hit_rate(heat: Heat, chosen: Ints) -> float:
    hits = 0
    for one in chosen:
        hits += int(np.take_along_axis(heat.hot, one, 1).sum())
        heat.add(one[None])
        heat.swaps()
    return hits / chosen.size


@given(st.integers(0, 999), st.integers(1, 5), st.integers(1, 40), st.floats(0, 3), st.data())
@settings(deadline=None, max_examples=40)
def test_swaps_are_few_worth_it_and_keep_the_number_of_hot_groups(
    seed: int, uploads: int, half_life: int, margin: float, data: st.DataObject
) -> None:
    n_groups = [9, 5]
    counts = [data.draw(st.integers(0, n)) for n in n_groups]
    hot = [np.arange(count, dtype=np.int32) for count in counts]
    rule = HeatRule(half_life, margin, uploads)
    heat, again = Heat(rule, hot, n_groups), Heat(rule, hot, n_groups)
    chosen = choices(seed, 60, 2, 5, 2)
    chosen[::3, 1, 0] = -1  # a token that uses less of the second layer
    uses = np.zeros((2, 9))
    for layer, groups in enumerate(hot):
        uses[layer, groups] = 1
    for begin, end in ((0, 1), (1, 2), (2, 30), (30, 31), (31, 60)):
        for t in range(begin, end):
            weight = 2 ** (t / half_life)  # as the rule says it, plainly
            for layer in range(2):
                uses[layer, chosen[t, layer][chosen[t, layer] >= 0]] += weight
            again.add(chosen[t : t + 1])  # token by token: the same to the bit
        heat.add(chosen[begin:end])
        before = heat.hot.copy()
        found = heat.swaps()
        assert found == again.swaps()
        for layer in range(2):
            own = [swap for swap in found if swap.layer == layer]
            assert len(own) <= uploads
            assert heat.hot[layer].sum() == counts[layer]
            assert not heat.hot[layer, n_groups[layer] :].any()
            for swap in own:
                assert before[layer, swap.hot]
                assert not before[layer, swap.cold]
                gained = uses[layer, swap.cold] - uses[layer, swap.hot]
                assert gained > (margin - 1e-9) * 2 ** (end / half_life)
            if len(own) < uploads and 0 < counts[layer] < n_groups[layer]:  # nothing that was worth it is left
                cold = uses[layer, : n_groups[layer]][~heat.hot[layer, : n_groups[layer]]].max()
                assert cold <= uses[layer][heat.hot[layer]].min() + (margin + 1e-9) * 2 ** (end / half_life)


def test_the_least_recently_used_group_goes() -> None:
    chosen = choices(3, 300, 1, 12, 1)
    heat = Heat(LRU, [np.arange(4, dtype=np.int32)], [12])
    last = dict.fromkeys(range(4), -1)
    for t, (group,) in enumerate(chosen[:, 0]):
        last[int(group)] = t
        heat.add(chosen[t : t + 1])
        heat.swaps()
        if len(last) > 8:
            assert set(np.flatnonzero(heat.hot[0])) == set(sorted(last, key=lambda one: -last[one])[:4])


@pytest.mark.parametrize("topics", [1, 5])
def test_heat_follows_what_drifts_and_costs_little_where_nothing_does(topics: int) -> None:
    chosen = choices(5, 2000, 2, 32, 4, topics)
    seen, left = chosen[:400], chosen[400:]
    uses = [np.bincount(seen[:, layer].ravel(), minlength=32) / len(seen) for layer in range(2)]
    hot = [np.sort(np.argsort(-one, kind="stable")[:12]).astype(np.int32) for one in uses]
    static = float(np.mean([np.isin(left[:, layer], hot[layer]) for layer in range(2)]))
    found = hit_rate(Heat(HEAT, hot, [32, 32], uses), left)
    if topics == 1:
        assert found > static - 0.015
    else:
        assert found > static + 0.1


def test_counted_groups_are_as_chosen_ones() -> None:
    chosen = choices(7, 100, 2, 8, 3)
    hot = [np.arange(3, dtype=np.int32)] * 2
    one, other = Heat(HEAT, hot, [8, 8]), Heat(HEAT, hot, [8, 8])
    counts = np.zeros((100, 2, 8))
    np.put_along_axis(counts, chosen, 1, 2)
    for t in range(100):
        one.add(chosen[t : t + 1])
        other.add_counts(counts[t : t + 1])
        assert one.swaps() == other.swaps()


@pytest.mark.parametrize("wrong", [{"half_life": 0}, {"margin": -1.0}, {"margin": float("nan")}, {"uploads": 0}])
def test_rules_that_cannot_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="no rule of heat"):
        HeatRule(**wrong)  # type: ignore[arg-type]  # one field each
