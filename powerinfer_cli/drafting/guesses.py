"""A model's own layer behind its last one proposes: of what the model made of a token, and of the token that came
behind it, it makes the one that comes next (DeepSeek-V3 2024, section 2.2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from powerinfer_cli.drafting.chain import Following, likeliest_chains
from powerinfer_cli.drafting.drafter import Draft, Wish
from powerinfer_cli.drafting.room import fitting
from powerinfer_cli.runtime import Engine, Piece, Wanted
from powerinfer_cli.runtime.backend import Hidden
from powerinfer_cli.runtime.batch import Batch

__all__ = ["GuessingDrafter"]

MOST_WAITING = 64 << 20  # bytes of hidden states of a sequence that are read later, so that no prompt waits for that


@dataclass
class _Text:
    """Of one sequence. The layer has read tokens [begin + 1, at + 1) and the hidden states of those before them.

    ids, rows: tokens from `at` on and their hidden states, which wait to be read; the first one's id says nothing.
    """

    begin: int = 0
    at: int = 0
    ids: list[int] = field(default_factory=list)
    rows: list[Hidden] = field(default_factory=list)  # [n_embd] each

    @property
    def end(self) -> int:
        """Of how many tokens of the text hidden states are known."""
        return self.at + len(self.ids)


class GuessingDrafter:
    """A Drafter. From the second token on that it proposes, hidden states are the layer's own."""

    def __init__(self, trunk: Engine, layer: Engine, p_min: float, cost: float) -> None:
        """layer: over a model of `read_guesser`, made for drafting, with as many sequences as the trunk has."""
        self.cost = cost
        self._layer, self._p_min = layer, p_min
        self._texts = [_Text() for _ in range(layer.n_sequences)]
        self._last: dict[int, Hidden] = {}
        self._most = max(layer.most_tokens, MOST_WAITING // (4 * layer.config.n_embd))
        layer.watch_hidden(self._note)
        trunk.watch_hidden(self._learn)

    def propose(self, texts: Mapping[int, Sequence[int]], wishes: Mapping[int, Wish]) -> dict[int, Draft]:
        most: dict[int, int] = {}
        for i, ids in texts.items():
            self._cut(i, len(ids) - 1)
            if self._texts[i].end == len(ids) - 1:
                n = min(wishes[i](0), self._layer.n_ctx_sequence - len(ids) - 1)
                most |= {i: n} if n > 0 else {}
        lengths = {i: self._texts[i].end + 1 - self._texts[i].begin + n for i, n in most.items()}
        room_for = fitting(self._layer, lengths, self._begin_anew)
        most = {i: n for i, n in most.items() if i in room_for}
        following = self._read({i: texts[i][-1] for i in most})
        chains = likeliest_chains(following, most, self._append, self._p_min, self.cost)
        return {i: Draft(ids) for i, ids in chains.items()}

    def forget(self, sequence: int, n: int) -> None:
        self._cut(sequence, n)

    def close(self) -> None:
        self._layer.close()

    def _note(self, batch: Batch, hidden: Hidden) -> None:
        for segment in batch.segments:
            self._last[segment.sequence] = hidden[segment.end - 1]

    def _learn(self, batch: Batch, hidden: Hidden) -> None:
        """The trunk has read tokens. Where a text goes on from what nobody has seen, it begins anew."""
        for segment in batch.segments:
            i, n = segment.sequence, segment.n_past + segment.counted
            self._cut(i, n)
            if self._texts[i].end != n:
                self._begin_anew(i, _Text(n, n))
            text, part = self._texts[i], slice(segment.begin + segment.counted, segment.end)
            text.ids += batch.ids[part].tolist()
            text.rows += list(hidden[part])
            if len(text.ids) > self._most:
                self._read_now(i)

    def _begin_anew(self, sequence: int, text: _Text | None = None) -> None:
        self._layer.truncate(0, sequence)
        self._texts[sequence] = text or _Text()

    def _cut(self, sequence: int, n: int) -> None:
        """The text has n tokens now. The hidden state of the last one may be lost: zeros stand for it."""
        text = self._texts[sequence]
        if n >= text.at:
            del text.ids[n - text.at :], text.rows[n - text.at :]
        elif n > text.begin:
            text.at, text.ids, text.rows = n - 1, [0], [np.zeros(self._layer.config.n_embd, np.float32)]
        else:
            self._texts[sequence] = _Text()
        kept = self._texts[sequence].at - self._texts[sequence].begin
        if kept < len(self._layer.tokens_of(sequence)):
            self._layer.truncate(kept, sequence)

    def _read_now(self, sequence: int) -> None:
        """All that waits but the last, whose next token is not known. Where it has no room, the text begins there."""
        text = self._texts[sequence]
        if len(text.ids) - 1 > self._layer.room(sequence):
            self._begin_anew(sequence, _Text(text.end - 1, text.end - 1, text.ids[-1:], text.rows[-1:]))
            return
        ids, rows = text.ids[1:], np.stack(text.rows[:-1])
        most = self._layer.most_tokens
        for begin in range(0, len(ids), most):
            part = slice(begin, begin + most)
            self._layer.step([Piece(sequence, ids[part], Wanted.NOTHING, hidden=rows[part])])
        text.at, text.ids, text.rows = text.end - 1, text.ids[-1:], text.rows[-1:]

    def _read(self, following: Mapping[int, int]) -> Following:
        """Read all that waits, with the token that comes behind each text; the logits behind that."""
        pieces = []
        for i, token in following.items():
            if len(self._texts[i].ids) > self._layer.most_stepwise:
                self._read_now(i)
            text = self._texts[i]
            pieces.append(Piece(i, [*text.ids[1:], token], stepwise=True, hidden=np.stack(text.rows)))
            text.at, text.ids, text.rows = text.end, [], []
        return self._step(pieces)

    def _append(self, tokens: Mapping[int, int]) -> Following:
        return self._step([Piece(i, [token], hidden=self._last[i][None]) for i, token in tokens.items()])

    def _step(self, pieces: Sequence[Piece]) -> Following:
        if not pieces:
            return {}
        answers = self._layer.step(pieces)
        return {piece.sequence: answer for piece, answer in zip(pieces, answers, strict=True) if answer is not None}
