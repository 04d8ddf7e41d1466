"""An engine's one context, for texts one after the other."""

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from powerinfer_cli.errors import PowerInferError
from powerinfer_cli.runtime import Engine, Piece, Wanted, common_prefix
from powerinfer_cli.runtime.pooling import Pool
from powerinfer_cli.runtime.step import Answer
from powerinfer_cli.runtime.whole_texts import n_whole

__all__ = ["Context", "reusable"]

Logits = npt.NDArray[np.float32]


class Context:
    """Any thread may call it, one at a time goes ahead. Whoever reads a prompt has the context until another does."""

    def __init__(self, engine: Engine) -> None:
        self._engine: Engine | None = engine
        self._lock = threading.RLock()
        self._owner: object = None
        self._n_read = 0  # tokens that are there by batches, as those of a prompt

    @property
    def engine(self) -> Engine:
        """Raises PowerInferError: closed."""
        if self._engine is None:
            raise PowerInferError("the model is closed: open it again")
        return self._engine

    def read(self, owner: object, ids: Sequence[int], tails: Sequence[int] = ()) -> Logits:
        """Have the context hold a prompt; the logits [n_vocab] that follow it. tails: as of the engine's `prefill`.

        What it shares with the last prompt is not computed again, as far as the result is the same to the bit.
        """
        with self._lock:
            engine = self.engine
            self._owner = owner
            known = reusable(engine.tokens[: self._n_read], ids, engine.most_tokens)
            self._n_read = 0
            engine.begin_drafts(0)
            try:
                known = engine.truncate(known)
                logits = engine.prefill(ids[known:], tails=tails)
            except BaseException:
                engine.reset()
                raise
            self._n_read = len(ids) if len(ids) > 1 else 0
            return logits

    def append(self, owner: object, token: int) -> Logits | None:
        """The logits [n_vocab] behind one token more; None: the context is full.

        Raises PowerInferError: another text has the context now.
        """
        with self._lock:
            engine = self.engine
            if self._owner is not owner:
                raise PowerInferError(
                    "another text was begun with this model, which ends this one: "
                    "finish one first, or open the model once for each"
                )
            return engine.decode(token) if engine.room(0) else None

    def hidden(self, texts: Sequence[Sequence[int]], pooling: str) -> list[npt.NDArray[np.floating]]:
        """Hidden states behind the last norm, pooled: of each text [1, n_embd], or [T, n_embd] for "none"."""
        with self._lock:
            self._owner, self._n_read = None, 0
            if self.engine.config.causal:
                return [self._hidden_of_one(ids, pooling) for ids in texts]
            return self._hidden_of_whole(texts, pooling)

    def _hidden_of_one(self, ids: Sequence[int], pooling: str) -> npt.NDArray[np.floating]:
        engine, pool = self.engine, Pool(pooling)
        try:
            engine.reset()
            for start in range(0, len(ids), engine.most_tokens):
                piece = Piece(0, ids[start : start + engine.most_tokens], Wanted.HIDDEN)
                pool.add(_rows(engine.step([piece])[0]))
        finally:
            engine.reset()
        return pool.result

    def _hidden_of_whole(self, texts: Sequence[Sequence[int]], pooling: str) -> list[npt.NDArray[np.floating]]:
        """As many texts in a step as there is room for."""
        engine, found = self.engine, list[npt.NDArray[np.floating]]()
        while len(found) < len(texts):
            n = n_whole(map(len, texts[len(found) :]), engine.n_sequences, engine.most_tokens)
            step = [Piece(i, ids, Wanted.HIDDEN) for i, ids in enumerate(texts[len(found) : len(found) + n])]
            for rows in engine.step(step):
                pool = Pool(pooling)
                pool.add(_rows(rows))
                found.append(pool.result)
        return found

    def close(self) -> None:
        """End its threads, and let go of its memory. Waits for the step that is under way."""
        with self._lock:
            engine, self._engine, self._owner = self._engine, None, None
            if engine is not None:
                engine.close()


def _rows(answer: Answer) -> npt.NDArray[np.float32]:
    assert answer is not None  # it was asked for
    return answer


def reusable(held: Sequence[int], ids: Sequence[int], most: int) -> int:
    """How many of a prompt's tokens need not be evaluated, of those that are held from another one by batches.

    A batch of one token is computed in another way, equal up to rounding. So that the same prompt has the same text
    whatever came before, no token is left alone that would not be without anything held. most: tokens of a batch.
    """
    shared = common_prefix(held, ids)
    if most == 2:  # the last one of an odd number is alone
        return max(0, min(shared, len(ids) - 2 + len(ids) % 2)) // 2 * 2
    return max(0, min(shared, len(ids) - 2))
