"""Which slot gets a task, and what the next step carries. Decisions only: no engine, no clock, no state."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from powerinfer_cli.runtime import common_prefix
from powerinfer_cli.runtime.whole_texts import n_whole

__all__ = [
    "LEAST_CHUNK",
    "LEAST_SIMILAR",
    "PROMPT_CHUNK",
    "SHORT_PROMPT",
    "Clearing",
    "Held",
    "Idle",
    "Load",
    "choose_slot",
    "plan_clearing",
    "plan_group",
    "plan_shift",
    "plan_step",
    "plan_whole",
    "reusable",
    "spared",
]

PROMPT_CHUNK = 64
"""Tokens of prompts in a step while others generate: they wait for no more than these between two of their tokens."""
SHORT_PROMPT = 512
"""Tokens of a prompt that does not wait for a longer one before it, of thousands perhaps: they share steps."""
LEAST_CHUNK = 3
"""Tokens of prompts that a step has room for: as many as may be left of one that is not cut to single tokens."""
LEAST_SIMILAR = 0.1
"""The share of a prompt that a slot must hold to be chosen for it, as llama-server has it: less is a common greeting,
which is not worth the rest of what that slot holds."""


@dataclass(frozen=True)
class Idle:
    """A slot that may be taken. ids: what its sequence holds; last_used: greater for later. left: how many of its first
    n it could go on from, as an engine's `left` tells.
    """

    id: int
    ids: Sequence[int]
    last_used: int
    left: Callable[[int], int] = lambda n: n


@dataclass(frozen=True)
class Load:
    """What a slot has to do. n_left: prompt tokens to be read, 0 for one that generates. since: greater for later, of
    a prompt when it came, of a generating slot when it was last part of a step. tails: from so many tokens before the
    prompt's end on they are read apart from those before, descending.
    """

    slot: int
    n_left: int
    since: int
    tails: Sequence[int] = ()


def reusable(prompt: Sequence[int], held: Sequence[int]) -> int:
    """How many of a prompt's tokens need not be read where a slot holds `held`.

    The last one has to be, for its logits; and never just two, whose first would be read alone: see `plan_step`.
    """
    return spared(common_prefix(prompt, held), len(prompt))


def spared(n_common: int, n_prompt: int) -> int:
    """The same where it is known how many tokens the two begin with together."""
    n = min(n_common, n_prompt - 1)
    return max(0, n - (n_prompt - n == 2))


def choose_slot(
    prompt: Sequence[int], idle: Sequence[Idle], id_slot: int = -1, *, reuse: bool = True, elsewhere: int = 0
) -> int | None:
    """The slot for a prompt; None where it has to wait.

    The one that is asked for; else the one with the longest common prefix, if that is worth something and can be gone
    on from; else one that holds nothing, so that embeddings, say, leave chats alone; else the one that has not been
    used for the longest time. reuse False: prefixes do not matter. elsewhere: so many of the prompt's tokens come with
    a text that can be put into any slot, which is done where that is worth something.
    """
    if id_slot >= 0:
        return next((slot.id for slot in idle if slot.id == id_slot), None)
    if not idle:
        return None
    held = {slot.id: _shared(prompt, slot) if reuse else 0 for slot in idle}
    best = min(idle, key=lambda slot: (-held[slot.id], slot.last_used, slot.id))
    worth = LEAST_SIMILAR * len(prompt)
    if held[best.id] > worth and elsewhere <= held[best.id] + worth:
        return best.id
    return min(idle, key=lambda slot: (len(slot.ids) > 0, slot.last_used, slot.id)).id


def _shared(prompt: Sequence[int], slot: Idle) -> int:
    """Tokens that a prompt has in common with what a slot holds, as far as the slot can go back to them."""
    known = reusable(prompt, slot.ids)
    left = slot.left(known)
    return common_prefix(prompt, slot.ids) if left == known else left


def plan_group(
    generating: Sequence[Load], reading: Sequence[Load], n_single: int, n_groups: int, *, prompts: bool
) -> tuple[list[Load], list[Load]]:
    """Who is in the next of `n_groups` steps that are on their way together: of all `n_single` that get a single token,
    there and in others, its part, those that have waited longest. prompts: whether others are in it at all; they are in
    one step at a time, so that the first is read before those behind it.
    """
    most = math.ceil(n_single / n_groups)
    singles = sorted([*generating, *(load for load in reading if load.n_left == 1)], key=lambda load: load.since)[:most]
    longer = [load for load in reading if load.n_left > 1] if prompts else []
    return [load for load in singles if not load.n_left], [*(load for load in singles if load.n_left), *longer]


def plan_step(generating: Sequence[Load], reading: Sequence[Load], most_tokens: int, room: int) -> dict[int, int]:
    """Tokens of each slot in the next step: {slot: how many}, as many as `most_tokens` and `room` allow.

    One token for each slot that generates, or is about to; where they are too many for a step, those that have waited
    longest. Then prompts in the order in which they came, each as far as it goes before the next one begins, so that
    the first is answered as soon as can be; but where it is long, short ones get up to half of what it would get.
    Prompts get PROMPT_CHUNK tokens altogether while somebody generates, otherwise the whole step. A prompt is begun or
    gone on with only while `room` holds all of its rest, and that of the first.
    The engine multiplies single tokens in another order than several, and an answer must depend neither on where
    company has cut its prompt nor on what a slot had read before. So a prompt's last token is always read apart, and
    none of the others is, where steps allow it; see also `reusable`.
    """
    singles = [*generating, *(load for load in reading if load.n_left == 1)]
    reading = [load for load in reading if load.n_left > 1]
    fitting = max(1, most_tokens - LEAST_CHUNK) if reading else most_tokens  # prompts must get on, too
    chosen = sorted(singles, key=lambda load: load.since)[: min(fitting, room)]
    shares = {load.slot: 1 for load in chosen}
    budget = most_tokens - len(shares)
    if singles:
        budget = min(budget, PROMPT_CHUNK)
    room -= len(shares)
    queue = sorted(reading, key=lambda load: load.since)
    if queue and queue[0].n_left > SHORT_PROMPT:
        short = [load for load in queue if load.n_left <= SHORT_PROMPT]
        beside = _fill(short, budget // 2, most_tokens, room - queue[0].n_left)
        shares |= beside
        budget -= sum(beside.values())
        room -= sum(load.n_left for load in short if load.slot in beside)
        queue = [load for load in queue if load.slot not in beside]
    return shares | _fill(queue, budget, most_tokens, room)


def plan_whole(reading: Sequence[Load], most_tokens: int) -> dict[int, int]:
    """The same where texts are read whole: as many as a step has room for, those that came first."""
    queue = sorted(reading, key=lambda load: load.since)
    n = n_whole((load.n_left for load in queue), len(queue), most_tokens)
    return {load.slot: load.n_left for load in queue[:n]}


def _fill(queue: Sequence[Load], budget: int, most_tokens: int, room: int) -> dict[int, int]:
    """Tokens of each prompt that gets any, one after another."""
    shares: dict[int, int] = {}
    for load in queue:
        if budget <= 0 or load.n_left > room:
            break
        n = _uncut(load.n_left, budget, most_tokens)
        if most_tokens >= 2 * LEAST_CHUNK:
            n = _before_tail(load, n)
        if n == 0:
            break
        shares[load.slot] = n
        budget -= n
        room -= load.n_left
    return shares


def _uncut(n_left: int, budget: int, most_tokens: int) -> int:
    """How many of a prompt's n_left tokens to read, `budget` at most: the last one alone, no other one alone."""
    before = n_left - 1
    n = min(before, budget)
    if before <= 1:
        return 1
    if most_tokens < 2 * LEAST_CHUNK:
        return n
    n -= before - n == 1
    return n if n > 1 else 0


def _before_tail(load: Load, n: int) -> int:
    """So many of a prompt's tokens, or less, so that its next tail is left; and never one before a tail alone."""
    before = load.n_left - max((tail for tail in load.tails if 2 <= tail <= load.n_left - 2), default=0)
    if before == load.n_left:
        return n
    n = min(n, before)
    n -= before - n == 1
    return n if n > 1 else 0


def plan_shift(n_past: int, n_ctx: int, n_keep: int, n_discard: int) -> tuple[int, int]:
    """(tokens at the beginning that stay, tokens behind them that go) for a full context, as llama-server counts.

    n_discard 0: half of what is not kept. At least one token stays behind the kept ones; nothing goes where only one
    is there.
    """
    keep = max(0, min(n_keep, n_ctx - 4, n_past))
    n_left = n_past - keep
    return keep, max(0, min(n_discard or n_left // 2, n_left - 1))


@dataclass(frozen=True)
class Held:
    """Tokens that a slot holds. needs: how many more it is to get; since: greater for later, when it came, or was last
    used.
    """

    slot: int
    n: int
    since: int
    needs: int = 0


@dataclass(frozen=True)
class Clearing:
    """Slots whose caches go: of idle ones, of prompts that begin anew later, of generating ones that have to end."""

    idle: tuple[int, ...] = ()
    rewound: tuple[int, ...] = ()
    ended: tuple[int, ...] = ()


def plan_clearing(n_free: int, idle: Sequence[Held], reading: Sequence[Held], generating: Sequence[Held]) -> Clearing:
    """What has to go so that a step fits a cache that all slots share, of which n_free tokens are free.

    Idle slots' caches go first, those longest unused before others, until each generating slot has its token and the
    first prompt all of its rest. Where not even the generating slots have theirs, or where none generates and the
    first prompt does not fit, prompts that are partly read make room, the latest first. The last means is to end
    those generating slots that began last.
    """
    first = min(reading, key=lambda one: one.since, default=None)
    wanted = len(generating) + (first.needs if first is not None else 0)
    dropped: list[int] = []
    for one in sorted(idle, key=lambda one: one.since):
        if n_free >= wanted:
            break
        if one.n:
            dropped.append(one.slot)
            n_free += one.n
    needed = len(generating) if generating else wanted
    rewound: list[int] = []
    for one in sorted(reading, key=lambda one: -one.since):
        if n_free >= needed or (one is first and not generating):
            break
        if one.n:
            rewound.append(one.slot)
            n_free += one.n
    ended: list[int] = []
    for one in sorted(generating, key=lambda one: -one.since):
        if n_free >= len(generating) - len(ended) or len(ended) == len(generating) - 1:
            break
        ended.append(one.slot)
        n_free += one.n
    return Clearing(tuple(dropped), tuple(rewound), tuple(ended))
