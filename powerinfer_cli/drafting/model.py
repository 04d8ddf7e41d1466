"""A small model proposes: what it finds likeliest, as long as it is sure enough."""

from collections.abc import Mapping, Sequence

from powerinfer_cli.drafting.chain import Following, likeliest_chains
from powerinfer_cli.drafting.drafter import Draft, Wish
from powerinfer_cli.drafting.room import fitting
from powerinfer_cli.runtime import Engine, Piece

__all__ = ["ModelDrafter"]


class ModelDrafter:
    """A Drafter with an engine of its own, in which each sequence has the same number."""

    def __init__(self, engine: Engine, p_min: float, cost: float) -> None:
        """engine: made for drafting. p_min: a less likely token is not proposed."""
        self.cost = cost
        self._engine, self._p_min = engine, p_min
        self._known = [0] * engine.n_sequences  # first tokens that the engine has as the text has them

    def propose(self, texts: Mapping[int, Sequence[int]], wishes: Mapping[int, Wish]) -> dict[int, Draft]:
        engine = self._engine
        wanted = {sequence: wishes[sequence](0) for sequence in texts}
        room = engine.n_ctx_sequence
        wanted = {i: min(n, room - len(texts[i]) - 1) for i, n in wanted.items()}
        left = {i: n for i, n in wanted.items() if n > 0}
        room_for = fitting(engine, {i: len(texts[i]) + n for i, n in left.items()}, lambda i: self.forget(i, 0))
        left = {i: n for i, n in left.items() if i in room_for}
        following = self._read({i: texts[i] for i in left})
        for i in left:
            engine.mark(i)
        found = likeliest_chains(following, left, self._append, self._p_min, self.cost)
        return {i: Draft(ids) for i, ids in found.items()}

    def forget(self, sequence: int, n: int) -> None:
        known = min(self._known[sequence], n, len(self._engine.tokens_of(sequence)))
        self._known[sequence] = self._engine.truncate(known, sequence)

    def close(self) -> None:
        self._engine.close()

    def _read(self, texts: Mapping[int, Sequence[int]]) -> Following:
        """Have the engine hold the texts; the logits behind each."""
        following: Following = {}
        short = []
        for i, ids in texts.items():
            held = self._engine.tokens_of(i)
            n = self._known[i]
            while n < min(len(held), len(ids) - 1) and held[n] == ids[n]:
                n += 1
            n = self._engine.truncate(n, i)
            self._known[i] = len(ids)
            if len(ids) - n <= self._engine.most_stepwise:
                short.append(Piece(i, ids[n:], stepwise=True))
                continue
            most = self._engine.most_tokens
            for begin in range(n, len(ids), most):
                following |= self._step([Piece(i, ids[begin : begin + most])])
        return following | self._step(short)

    def _append(self, tokens: Mapping[int, int]) -> Following:
        return self._step([Piece(i, (token,)) for i, token in tokens.items()])

    def _step(self, pieces: Sequence[Piece]) -> Following:
        if not pieces:
            return {}
        answers = self._engine.step(pieces)
        return {piece.sequence: answer for piece, answer in zip(pieces, answers, strict=True) if answer is not None}
