"""An engine's side that holds the tokens of its sequences: how many, going back, saving and restoring them."""

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from powerinfer_cli.runtime.backend import Backend
from powerinfer_cli.runtime.context.pages import PageTable
from powerinfer_cli.runtime.context.saved import Stored, fitted, layer_of
from powerinfer_cli.runtime.context.sequences import Sequences
from powerinfer_cli.runtime.context.states import LayerStates, States, regained_states

__all__ = ["HeldContext"]


class HeldContext:
    """What it needs of the engine it is a part of. _windowed: layers with a window."""

    _backend: Backend
    _pages: PageTable
    _sequences: Sequences
    _states: States | None
    _windowed: list[int]

    @property
    def n_ctx(self) -> int:
        """Tokens that the KV cache holds, of all sequences together."""
        return self._pages.n_ctx

    @property
    def n_sequences(self) -> int:
        return self._pages.n_sequences

    @property
    def keeps_all(self) -> bool:
        """Whether `truncate` always leaves what it is asked for."""
        return self._pages.windowed is None and self._states is None

    @property
    def n_past(self) -> int:
        """Tokens in the context so far."""
        return len(self.tokens)

    @property
    def tokens(self) -> Sequence[int]:
        """The ids in the context so far."""
        return self.tokens_of(0)

    @property
    def n_free(self) -> int:
        """Tokens that the KV cache still has room for, though not all of them for one sequence."""
        return self.n_ctx - self._pages.n_used

    def tokens_of(self, sequence: int) -> Sequence[int]:
        """The ids of a sequence so far."""
        return self._sequences.ids[sequence]

    def room(self, sequence: int) -> int:
        """How many tokens more a sequence may get now."""
        return self._pages.room(sequence)

    def left(self, n: int, sequence: int = 0) -> int:
        """How many of a sequence's first n tokens it can go on from: n, or 0 where layers with a window have lost what
        they would need. They have it still for about as many tokens behind as a batch has. Recurrent layers: as many as
        there is a saved state of.
        """
        if self._states is not None:
            n = self._states.left(sequence, len(self._sequences.ids[sequence]), n)
        return self._pages.left(sequence, n)

    def truncate(self, n: int, sequence: int = 0) -> int:
        """Forget all but a sequence's first n tokens, or all of them. How many are left, as `left` tells."""
        if self._states is None:
            return self._sequences.truncate(sequence, n)
        held = len(self._sequences.ids[sequence])
        left = self._sequences.truncate(sequence, self._states.left(sequence, held, n))
        self._states.go_back(sequence, held, left)
        return left

    def begin_prompt(self, n: int, sequence: int = 0, tails: Sequence[int] = ()) -> tuple[int, ...]:
        """n tokens are read into a sequence next. -> from how many before their end on they are best read apart from
        those before, descending: nowhere, but where there are recurrent layers. tails: as of `Engine.prefill`.
        """
        if self._states is None:
            return ()
        held = len(self._sequences.ids[sequence])
        return self._states.begin_prompt(sequence, held, held + n, tails)

    def mark(self, sequence: int) -> None:
        """`truncate` can come back to here, until the next mark, also where there are recurrent layers."""
        if self._states is not None:
            self._states.mark(sequence, len(self._sequences.ids[sequence]))

    def reset(self) -> None:
        """Forget the whole context."""
        self.truncate(0)

    def save(self, sequence: int) -> dict[str, npt.NDArray[Any]]:
        """What `restore` needs besides a sequence's tokens: the contents of its part of the KV cache."""
        windowed, n = self._pages.windowed, len(self.tokens_of(sequence))
        begin = 0 if windowed is None else windowed.begin(sequence)
        cells = self._backend.read_cells(self._pages.held(sequence, n, begin))
        return cells if self._states is None else cells | self._states.save(sequence)

    def saved_bytes(self, sequence: int) -> int:
        """Of what `save` would copy."""
        n = len(self.tokens_of(sequence))
        if n == 0:
            return 0
        windowed = self._pages.windowed
        begin = 0 if windowed is None else windowed.begin(sequence)
        total = 0 if self._states is None else self._states.saved_bytes(sequence)
        for name, part in self._backend.read_cells(self._pages.held(sequence, 1, 0)).items():  # of one position
            total += part.nbytes * (n - begin if layer_of(name) in self._windowed else n)
        return total

    def regained(self, n: int, length: int, stored: Stored) -> int:
        """What `left` would tell of n once a context of `length` tokens is restored from what was saved of it."""
        if self._states is not None:
            n = regained_states(n, length, stored)
        windowed = self._pages.windowed
        if n == 0 or windowed is None:
            return n
        begin, _ = fitted(windowed, self._windowed, length, stored)
        return n if begin <= windowed.first(n) else 0

    def restore(self, sequence: int, ids: Sequence[int], stored: Stored) -> None:
        """Let a sequence be the tokens that it was when `save` gave `stored`, in this engine or one like it.

        Raises:
            ContextFull: it has no room for them.
            PowerInferError: `stored` is not of so many tokens, or of another model or cache. The sequence is then what
                it was.
        """
        states: LayerStates = {}
        earlier: dict[int, LayerStates] = {}
        if self._states is not None:
            stored, states, earlier = self._states.split(stored, len(ids))
        self._sequences.take(sequence, ids)
        try:
            begin, found = fitted(self._pages.windowed, self._windowed, len(ids), stored)
            self._backend.write_cells(self._pages.held(sequence, len(ids), begin), found)
            self._sequences.become(sequence, ids, begin)
            if self._states is not None:
                self._states.become(sequence, states, earlier)
        finally:
            self._sequences.give_back()
