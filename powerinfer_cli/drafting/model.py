"""A small model proposes: what it finds likeliest, as long as it is sure enough."""

from collections.abc import Mapping, Sequence

import numpy as np

from powerinfer_cli.drafting.drafter import Draft, Wish
from powerinfer_cli.runtime import Engine, Piece
from powerinfer_cli.runtime.backend import Logits

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
        found: dict[int, list[int]] = {i: [] for i in left}
        following = self._read({i: texts[i] for i in left})
        for i in left:
            engine.mark(i)
        chances = dict.fromkeys(left, 1.0)
        while following:
            going: dict[int, int] = {}
            for i, logits in following.items():
                token, chance = _likeliest(logits)
                chances[i] *= chance
                if chance < self._p_min or chances[i] < self.cost:
                    continue
                found[i].append(token)
                if len(found[i]) < left[i]:
                    going[i] = token
            following = self._step([Piece(i, (token,)) for i, token in going.items()])
        return {i: Draft(ids) for i, ids in found.items()}

    def forget(self, sequence: int, n: int) -> None:
        self._known[sequence] = min(self._known[sequence], n)

    def close(self) -> None:
        self._engine.close()

    def _read(self, texts: Mapping[int, Sequence[int]]) -> dict[int, Logits]:
        """Have the engine hold the texts; the logits behind each."""
        following: dict[int, Logits] = {}
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

    def _step(self, pieces: Sequence[Piece]) -> dict[int, Logits]:
        if not pieces:
            return {}
        answers = self._engine.step(pieces)
        return {piece.sequence: answer for piece, answer in zip(pieces, answers, strict=True) if answer is not None}


def _likeliest(logits: Logits) -> tuple[int, float]:
    token = int(np.argmax(logits))
    return token, 1.0 / float(np.exp(logits - logits[token]).sum())
