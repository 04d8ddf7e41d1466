from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from powerinfer_cli.sampling import DEFAULT_SAMPLERS, SamplerOptions, build_sampler
from powerinfer_cli.sampling.candidates import Candidates, from_logits, largest, softmax
from powerinfer_cli.sampling.truncation import exclude_top_choices, min_p, tail_free, top_k, top_p, typical
from tests.sampling.helpers import INF

VALUES = st.floats(-30, 30, width=32) | st.just(-INF) | st.sampled_from([0.0, -0.0, 1.0])


@st.composite
def candidates(draw: st.DrawFn) -> Candidates:
    values = draw(st.lists(VALUES, min_size=1, max_size=40).filter(lambda one: max(one) > -INF))
    return from_logits(np.array(values, np.float32))


@st.composite
def options(draw: st.DrawFn) -> SamplerOptions:
    share, small, size = st.floats(0, 1), st.floats(-1, 2), st.floats(0, 2)
    return SamplerOptions(
        seed=draw(st.integers(0, 2**32 - 2)),
        min_keep=draw(st.integers(0, 5)),
        top_k=draw(st.integers(-1, 50)),
        top_p=draw(share),
        min_p=draw(share),
        typ_p=draw(share),
        tfs_z=draw(share),
        xtc_probability=draw(share),
        xtc_threshold=draw(st.floats(0, 0.6)),
        temp=draw(size),
        dynatemp_range=draw(size),
        dynatemp_exponent=draw(st.floats(0, 3)),
        penalty_last_n=draw(st.integers(-1, 4)),
        penalty_repeat=draw(st.floats(0.5, 3)),
        penalty_freq=draw(small),
        penalty_present=draw(small),
        dry_multiplier=draw(small),
        dry_base=draw(st.floats(1, 4)),
        dry_allowed_length=draw(st.integers(0, 3)),
        dry_sequence_breakers=(),
        adaptive_target=draw(st.floats(-1, 1)),
        adaptive_decay=draw(st.floats(0, 0.99)),
        mirostat=draw(st.sampled_from([0, 0, 0, 1, 2])),
        mirostat_tau=draw(st.floats(0, 9)),
        top_n_sigma=draw(small),
        samplers=tuple(draw(st.permutations((*DEFAULT_SAMPLERS, "adaptive_p")))[: draw(st.integers(0, 11))]),
    )


@settings(deadline=None, max_examples=150)
@given(candidates(), options(), st.lists(st.integers(0, 39), max_size=8))
def test_any_chain_samples_a_possible_token(start: Candidates, chosen: SamplerOptions, said: list[int]) -> None:
    sampler = build_sampler(chosen, n_vocab=start.size, n_ctx_train=6)
    for token in said:
        sampler.accept(token % start.size)
    for _ in range(3):
        ids, probs = sampler.probabilities(start.logits)
        assert abs(float(probs.sum()) - 1.0) < 1e-5
        assert (start.logits[ids] > -INF).all()
        token = sampler.sample(start.logits)
        assert token in ids
        sampler.accept(token)


@settings(deadline=None)
@given(candidates(), st.floats(0, 1, exclude_max=True))
def test_top_p_keeps_the_smallest_set(start: Candidates, p: float) -> None:
    probs = np.sort(softmax(start).astype(np.float64))[::-1]
    n = top_p(start, p).size
    assert n == start.size or probs[:n].sum() >= p - 1e-6
    assert n == 1 or probs[: n - 1].sum() < p + 1e-6


@settings(deadline=None)
@given(candidates(), st.integers(1, 50))
def test_top_k_keeps_the_largest(start: Candidates, k: int) -> None:
    best = sorted(zip((-start.logits).tolist(), start.ids.tolist(), strict=True))[:k]
    assert top_k(start, k).ids.tolist() == [token for _, token in best]


@settings(deadline=None)
@given(
    candidates(),
    st.floats(0, 1.2),
    st.integers(0, 5),
    st.booleans(),
    st.sampled_from([top_p, min_p, typical, tail_free, exclude_top_choices]),
)
def test_what_is_left_is_a_part_and_not_too_small(
    start: Candidates,
    value: float,
    min_keep: int,
    ordered: bool,
    sampler: Callable[[Candidates, float, int], Candidates],
) -> None:
    if ordered:
        start = largest(start, start.size)
    before = dict(zip(start.ids.tolist(), start.logits.tolist(), strict=True))
    left = sampler(start, value, min_keep)
    possible = int(np.count_nonzero(softmax(start)))
    assert left.size >= min(max(min_keep, 1), possible)
    assert len(set(left.ids.tolist())) == left.size
    assert all(before[token] == logit for token, logit in zip(left.ids.tolist(), left.logits.tolist(), strict=True))
    if left.sorted:
        assert (left.logits[:-1] >= left.logits[1:]).all()
    assert softmax(left).max() > 0
