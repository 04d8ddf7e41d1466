"""Decisions: which slot, how much of whose tokens, what has to go."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from powerinfer_cli.runtime import common_prefix
from powerinfer_cli.serving.slots.scheduler import (
    LEAST_CHUNK,
    Clearing,
    Held,
    Idle,
    Load,
    choose_slot,
    plan_clearing,
    plan_shift,
    plan_step,
    reusable,
)

IDS = st.lists(st.integers(0, 2), max_size=20)


def test_the_longest_prefix_wins_then_the_one_unused_for_longest() -> None:
    idle = [Idle(0, [1, 2, 9], 5), Idle(1, [1, 2, 3, 9], 7), Idle(2, [], 6), Idle(3, [1, 2, 3], 8)]
    assert choose_slot((1, 2, 3, 4), idle) == 1
    assert choose_slot((1, 2, 3, 4), idle[2:]) == 3
    assert choose_slot((7, 8), idle) == 2  # it holds nothing
    assert choose_slot((7, 8), [*idle[:2], idle[3]]) == 0
    assert choose_slot((1, 2, 3, 4), idle, reuse=False) == 2
    assert choose_slot((1, 2, 3, 4), idle, id_slot=2) == 2
    assert choose_slot((1, 2, 3, 4), idle[:2], id_slot=2) is None
    assert choose_slot((1,), []) is None


@pytest.mark.parametrize(
    ("n_left", "n"), [(20, 16), (600, 512), (517, 511), (516, 512), (6, 2), (5, 4), (4, 3), (1, 1)]
)
def test_a_tail_is_read_apart(n_left: int, n: int) -> None:
    """And none of a prompt's tokens alone but the last, where the rest of it has several."""
    assert plan_step([], [Load(0, n_left, 1, tails=(4,))], 512, 1000) == {0: n}


def test_several_tails_come_one_after_the_other() -> None:
    n_left, read = 40, []
    while n_left:
        read.append(plan_step([], [Load(0, n_left, 1, tails=(30, 12))], 512, 1000)[0])
        n_left -= read[-1]
    assert read == [10, 18, 11, 1]


def test_a_prefix_that_a_slot_cannot_go_back_to_counts_for_nothing() -> None:
    idle = [Idle(0, [1, 2, 3, 4, 9], 5, lambda n: 0), Idle(1, [1, 2, 7], 7), Idle(2, [], 6)]
    assert choose_slot((1, 2, 3, 4, 5), idle) == 1
    assert choose_slot((1, 2, 3, 4, 5), [idle[0], idle[2]]) == 2


def test_a_common_greeting_is_not_worth_a_conversation() -> None:
    idle = [Idle(0, [1, *range(500, 900)], 9), Idle(1, [], 0)]
    assert choose_slot((1, *range(100, 120)), idle) == 1
    assert choose_slot((1, 500, 501, *range(100, 120)), idle) == 0


def test_one_token_for_each_that_generates_and_a_chunk_of_the_first_prompt() -> None:
    generating, reading = [Load(0, 0, 3), Load(2, 0, 1)], [Load(1, 500, 9), Load(3, 100, 8)]
    assert plan_step(generating, reading, 512, 10_000) == {0: 1, 2: 1, 3: 64}
    assert plan_step(generating, [Load(1, 500, 9), Load(3, 10, 8)], 512, 10_000) == {0: 1, 2: 1, 3: 9, 1: 55}
    assert plan_step([], reading, 512, 10_000) == {3: 99, 1: 413}
    assert plan_step(generating, reading, 16, 10_000) == {0: 1, 2: 1, 3: 14}


def test_short_prompts_share_steps_with_a_long_one_before_them() -> None:
    long, short, other = Load(1, 8000, 1), Load(2, 300, 2), Load(3, 20, 3)
    assert plan_step([], [long, short, other], 512, 10_000) == {2: 256, 1: 256}
    assert plan_step([], [long, other, short], 512, 10_000) == {2: 256, 1: 256}
    assert plan_step([Load(0, 0, 0)], [long, other], 512, 10_000) == {0: 1, 3: 19, 1: 45}
    assert plan_step([], [long, Load(2, 7000, 2), other], 512, 20_000) == {3: 19, 1: 493}
    assert plan_step([], [long, other], 512, 8019) == {1: 512}  # where room is scarce, it is the first one's
    assert plan_step([], [long, other], 512, 8020) == {3: 19, 1: 493}
    assert plan_step([], [short, long], 512, 10_000) == {1: 256, 2: 256}


def test_a_step_too_small_for_all_takes_turns() -> None:
    generating = [Load(0, 0, 3), Load(2, 0, 1), Load(4, 0, 2)]
    assert plan_step(generating, [], 2, 100) == {2: 1, 4: 1}
    assert plan_step(generating, [Load(1, 5, 9)], 2, 100) == {2: 1, 1: 1}
    assert plan_step(generating, [Load(1, 5, 9)], 1, 100) == {2: 1}


def test_a_prompt_waits_for_room_for_all_of_it() -> None:
    assert plan_step([Load(0, 0, 0)], [Load(1, 20, 1), Load(2, 2, 2)], 512, 20) == {0: 1}
    assert plan_step([Load(0, 0, 0)], [Load(1, 20, 1), Load(2, 2, 2)], 512, 21) == {0: 1, 1: 19}


@given(
    st.lists(st.integers(0, 50), max_size=5),
    st.lists(st.tuples(st.integers(1, 300) | st.integers(1, 2000), st.integers(0, 50)), max_size=4),
    st.integers(1, 128) | st.integers(1, 1024),
    st.integers(1, 400) | st.integers(1, 4000),
)
def test_a_step_keeps_its_bounds(since: list[int], prompts: list[tuple[int, int]], most: int, room: int) -> None:
    generating = [Load(i, 0, n) for i, n in enumerate(since)]
    reading = [Load(10 + i, n, order) for i, (n, order) in enumerate(prompts)]
    shares = plan_step(generating, reading, most, room)
    left = {load.slot: load.n_left or 1 for load in (*generating, *reading)}
    assert all(1 <= n <= left[slot] for slot, n in shares.items())
    assert sum(shares.values()) <= min(most, room)
    singles = [load for load in (*generating, *reading) if load.n_left <= 1]
    first = min(reading, key=lambda load: load.since, default=None)
    assert bool(shares) == bool(singles or (first is not None and first.n_left <= room))


def test_idle_caches_go_first_and_no_more_than_needed() -> None:
    idle = [Held(0, 50, 9), Held(1, 30, 4), Held(2, 0, 1)]
    assert plan_clearing(100, idle, [Held(3, 0, 5, 80)], [Held(4, 9, 1)]) == Clearing()
    assert plan_clearing(60, idle, [Held(3, 0, 5, 80)], [Held(4, 9, 1)]) == Clearing(idle=(1,))
    assert plan_clearing(10, idle, [Held(3, 0, 5, 80)], [Held(4, 9, 1)]) == Clearing(idle=(1, 0))


def test_then_prompts_begin_anew_and_the_latest_texts_end() -> None:
    generating = [Held(0, 40, 1), Held(1, 20, 3), Held(2, 30, 2)]
    assert plan_clearing(2, [], [Held(3, 10, 5, 80), Held(4, 0, 6, 5)], generating) == Clearing(rewound=(3,))
    assert plan_clearing(2, [], [], generating) == Clearing(ended=(1,))
    assert plan_clearing(0, [], [], generating[:1]) == Clearing()  # it alone: its own context is full
    assert plan_clearing(10, [], [Held(3, 10, 5, 80), Held(4, 60, 6, 5)], []) == Clearing(rewound=(4,))


@pytest.mark.parametrize(
    ("n_past", "n_ctx", "n_keep", "n_discard", "expected"),
    [
        (255, 256, 1, 0, (1, 127)),
        (255, 256, 0, 10, (0, 10)),
        (255, 256, 300, 0, (252, 1)),
        (255, 256, 100, 500, (100, 154)),
        (3, 4, 3, 0, (0, 1)),
        (1, 2, 0, 0, (0, 0)),
    ],
)
def test_what_a_shift_drops(n_past: int, n_ctx: int, n_keep: int, n_discard: int, expected: tuple[int, int]) -> None:
    assert plan_shift(n_past, n_ctx, n_keep, n_discard) == expected


@given(
    st.lists(st.integers(1, 90), max_size=5),
    st.lists(st.tuples(st.integers(0, 60), st.integers(1, 99) | st.integers(1, 1599)), max_size=4),
    st.lists(st.integers(0, 90), max_size=3),
    st.integers(1, 64),
    st.sampled_from([100, 1600]),
)
def test_a_shared_cache_never_comes_to_a_halt(
    texts: list[int], prompts: list[tuple[int, int]], caches: list[int], most: int, n_ctx: int
) -> None:
    generating = [Held(i, n, i) for i, n in enumerate(texts)]
    reading = [Held(10 + i, n, 10 + i, rest) for i, (n, rest) in enumerate(prompts) if n + rest <= n_ctx]
    idle = [Held(20 + i, n, i) for i, n in enumerate(caches)]
    free = n_ctx - sum(one.n for one in (*generating, *reading, *idle))
    if free < 0:
        return
    clearing = plan_clearing(free, idle, reading, generating)
    gone = {*clearing.idle, *clearing.rewound, *clearing.ended}
    free += sum(one.n for one in (*generating, *reading, *idle) if one.slot in gone)
    left = [Load(one.slot, 0, one.since) for one in generating if one.slot not in gone]
    rests = [Load(one.slot, one.needs + one.n * (one.slot in gone), one.since) for one in reading]
    shares = plan_step(left, rests, most, free)
    assert sum(shares.values()) <= free
    assert bool(shares) == bool(left or rests) or (len(left) == 1 and free == 0)
    assert len(clearing.ended) < max(1, len(generating))


@given(st.integers(1, 300), st.integers(0, 20), st.integers(2 * LEAST_CHUNK, 128))
def test_no_single_token_is_cut_off(n_prompt: int, n_generating: int, most: int) -> None:
    """Wherever company has a prompt cut, no piece is of one token; and it is read to its end."""
    generating, left, pieces = [Load(i + 1, 0, i) for i in range(n_generating)], n_prompt, []
    while left:
        pieces.append(plan_step(generating, [Load(0, left, 0)], most, 10**6)[0])
        left -= pieces[-1]
    assert pieces[-1] == 1
    assert min(pieces[:-1], default=2) > 1 or n_prompt == 2


@given(st.integers(500, 3000), st.integers(2, 600), st.integers(0, 2), st.integers(2 * LEAST_CHUNK, 600))
def test_no_single_token_is_cut_off_where_steps_are_shared(long: int, short: int, generating: int, most: int) -> None:
    left, pieces = {10: long, 11: short}, dict[int, list[int]]({10: [], 11: []})
    while left:
        reading = [Load(slot, n, slot) for slot, n in left.items()]
        shares = plan_step([Load(i, 0, i) for i in range(generating)], reading, most, 10**6)
        assert set(shares) & set(left)
        for slot in set(shares) & set(left):
            pieces[slot].append(shares[slot])
            left[slot] -= shares[slot]
        left = {slot: n for slot, n in left.items() if n}
    for one, total in ((pieces[10], long), (pieces[11], short)):
        assert (sum(one), one[-1]) == (total, 1)
        assert min(one[:-1], default=2) > 1 or total == 2


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_what_a_slot_holds_does_not_change_how_the_rest_is_read(prompt: list[int], held: list[int]) -> None:
    n = reusable(prompt, held)
    assert prompt[:n] == held[:n]
    assert len(prompt) - n != 2 or n == 0
    assert n >= min(common_prefix(prompt, held), len(prompt) - 1) - 1
