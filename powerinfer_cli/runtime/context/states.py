"""What recurrent layers keep of sequences: states, which cannot be cut back, and those that were saved on the way.

A state is saved where a prompt begins behind other tokens, where it ends, and where it is likely to be gone back to:
before what opens the answer, which chat templates leave out once it is answered, and before the last question; and
within prompts every so many tokens. A sequence goes back to the last of these that is not behind where it is to end.
Before tokens that may have to be taken back, it is saved as well.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.model.blocks import Layer, recurrent_layers
from powerinfer_cli.runtime.batch import Batch, Segment
from powerinfer_cli.runtime.context.saved import Stored, saved_part

__all__ = ["BESIDE", "LayerStates", "States", "most_saved", "regained_states", "state_bytes"]

LayerStates: TypeAlias = Mapping[int, npt.NDArray[np.float32]]  # [numbers of its state], by layer

MOST_BYTES = 1 << 30  # of all that is saved
KEPT = 3  # that go with a saved context: of a prompt's end, of a few tokens before, and of its question
EARLIER = re.compile(r"\d{1,9}\.state@(\d{1,9})")
BESIDE = 3  # of a sequence besides: before what may be taken back, what is marked, and one that takes another's place
TAIL = 4  # tokens at a prompt's end, which are read apart at least: <think>, </think> and the empty lines behind them
NEAR = 16  # tokens behind another state, which are read again sooner than a pass is spent on a state of their own


class Keeper(Protocol):
    """Whoever has the states of sequences."""

    def read_states(self, sequence: int) -> LayerStates:
        """A copy of a sequence's."""

    def write_states(self, sequence: int, states: LayerStates) -> None:
        """Put back what `read_states` gave."""


def state_bytes(layers: Sequence[Layer[Any, Any]]) -> int:
    """Of one sequence."""
    return 4 * sum(one.state_size for one in recurrent_layers(layers).values())


def most_saved(layers: Sequence[Layer[Any, Any]], n_sequences: int, most: int) -> int:
    """States that are saved of each sequence, of which somebody wants so many at most."""
    return min(most, max(1, MOST_BYTES // max(1, state_bytes(layers) * n_sequences)))


@dataclass
class _History:
    """Of one sequence: saved states by position, ascending; one from before tokens that may be taken back; one that
    somebody asked for; where a prompt is to be saved; whether the last step read several tokens; whether a step has
    failed half-way.
    """

    saved: dict[int, LayerStates] = field(default_factory=dict)
    before: tuple[int, LayerStates] | None = None
    mark: tuple[int, LayerStates] | None = None
    places: frozenset[int] = frozenset()
    reading: bool = False
    spoilt: bool = False


class States:
    """Of all sequences. most: that are saved of each, as far as all of them need no more than MOST_BYTES; apart: tokens
    from one to the next within a prompt, at least.
    """

    def __init__(
        self, layers: Sequence[Layer[Any, Any]], keeper: Keeper, n_sequences: int, most: int, apart: int
    ) -> None:
        self._keeper, self._apart = keeper, max(1, apart)
        self._sizes = {number: one.state_size for number, one in recurrent_layers(layers).items()}
        self._most = most_saved(layers, n_sequences, most)
        self._said = False
        self._of = [_History() for _ in range(n_sequences)]

    @property
    def line(self) -> str:
        """For people: what states need."""
        one, n = 4 * sum(self._sizes.values()), len(self._of)
        return (
            f"recurrent layers: {len(self._sizes)}, {one / 2**20:.1f} MiB of states a sequence, "
            f"{n * one / 2**20:.1f} MiB of {n}; up to {self._most} saved of each"
        )

    def begin_prompt(self, sequence: int, n_past: int, n: int, tails: Sequence[int]) -> tuple[int, ...]:
        """Tokens [n_past, n) are read next. tails: where from it is likely to be gone back, as `Engine.prefill` says;
        -> where from tokens are to be read apart from those before, in the same way.
        """
        *others, last = tails or (TAIL,)
        last = max(TAIL, last)
        found = (*(one for one in others if last + 1 < one < n - n_past - NEAR), last)
        self._of[sequence].places = frozenset(n - one for one in found)
        return found

    def enter(self, batch: Batch) -> None:
        """Before a batch: save what may be gone back to."""
        for segment in batch.segments:
            self._enter(segment, batch.stepwise)

    def _enter(self, segment: Segment, stepwise: bool) -> None:
        one, at = self._of[segment.sequence], segment.n_past
        several = segment.n_tokens > 1 and not stepwise
        far = several and at - max(one.saved, default=0) >= self._apart
        due = far or at in one.places or several != one.reading  # a prompt begins, or it has ended
        if at and due and at not in one.saved:
            self._save(segment.sequence, at)
        one.before = (at, self._keeper.read_states(segment.sequence)) if stepwise and segment.n_tokens > 1 else None
        one.reading, one.spoilt = several and not (at in one.places and self._most == 1), True

    def leave(self, batch: Batch) -> None:
        """Behind a batch that has not failed."""
        for segment in batch.segments:
            self._of[segment.sequence].spoilt = False

    def _save(self, sequence: int, at: int) -> None:
        if not self._most:
            return
        saved = self._of[sequence].saved
        if len(saved) >= self._most:
            del saved[min(saved)]
        saved[at] = self._keeper.read_states(sequence)

    def left(self, sequence: int, length: int, n: int) -> int:
        """Of which of the first n of `length` tokens there is a state: how many these are at most."""
        one = self._of[sequence]
        if n == length and not one.spoilt:
            return n
        return max((at for at in (*one.saved, *(at for at, _ in _beside(one))) if at <= n), default=0)

    def mark(self, sequence: int, length: int) -> None:
        """Save the state of a sequence of so many tokens, in place of the one that was saved so before."""
        one = self._of[sequence]
        if not one.spoilt:
            one.mark = length, self._keeper.read_states(sequence)

    def say_once(self, note: Callable[[str], None]) -> None:
        """For people: why a context that is full is read anew."""
        if not self._said:
            note(
                "the context is full, and states of recurrent layers cannot be shifted: what is left of it is read anew"
            )
        self._said = True

    def go_back(self, sequence: int, length: int, n: int) -> None:
        """To n, which `left` has told."""
        one = self._of[sequence]
        if n and (n < length or one.spoilt):
            self._keeper.write_states(sequence, (one.saved | dict(_beside(one)))[n])
        saved = {at: state for at, state in one.saved.items() if at <= n}
        mark = one.mark if one.mark is not None and one.mark[0] <= n else None
        self._of[sequence] = _History(saved, mark=mark, places=one.places, reading=one.reading and n == length)

    def save(self, sequence: int) -> dict[str, npt.NDArray[Any]]:
        """What a sequence's states are now, and the last that were saved of it, by names for `split`."""
        saved = self._of[sequence].saved
        found = {"": self._keeper.read_states(sequence)} | {f"@{at}": saved[at] for at in sorted(saved)[-KEPT:]}
        return {f"{layer}.state{where}": state for where, states in found.items() for layer, state in states.items()}

    def saved_bytes(self, sequence: int) -> int:
        """Of what `save` would copy or keep alive."""
        return 4 * sum(self._sizes.values()) * (1 + min(KEPT, len(self._of[sequence].saved)))

    def split(self, stored: Stored, length: int) -> tuple[Stored, LayerStates, dict[int, LayerStates]]:
        """What a saved context of so many tokens has besides states, these, and earlier ones by position.

        Raises PowerInferError: they are not of this model.
        """
        places = sorted({int(found[1]) for found in map(EARLIER.fullmatch, stored) if found})
        if len(places) > KEPT or any(not 0 < at <= length for at in places):
            raise PowerInferError(
                f"a saved context is not for this model: it has states of other than its {length} tokens"
            )
        names = set[str]()

        def states(where: str) -> LayerStates:
            of = {number: f"{number}.state{where}" for number in self._sizes}
            names.update(of.values())
            return {number: saved_part(stored, of[number], (size,), "float32") for number, size in self._sizes.items()}

        now, earlier = states(""), {at: states(f"@{at}") for at in places}
        return {name: part for name, part in stored.items() if name not in names}, now, earlier

    def become(self, sequence: int, states: LayerStates, earlier: Mapping[int, LayerStates]) -> None:
        """A sequence is another one now."""
        self._keeper.write_states(sequence, states)
        self._of[sequence] = _History({at: earlier[at] for at in sorted(earlier)[-self._most :]} if self._most else {})


def regained_states(n: int, length: int, stored: Stored) -> int:
    """Of a saved context of `length` tokens: how many of its first n there is a state of, as `left` tells."""
    places = {int(found[1]) for found in map(EARLIER.fullmatch, stored) if found} | {length}
    return max((at for at in places if at <= n), default=0)


def _beside(one: _History) -> list[tuple[int, LayerStates]]:
    """What is saved of a sequence but for a while."""
    return [found for found in (one.before, one.mark) if found is not None]
