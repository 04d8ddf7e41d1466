"""An engine that looks ahead: it verifies proposed tokens in the step that appends the one before them.

Whoever writes a text appends one token after the other and chooses each from the logits before it, as with any engine:
with samplers, grammars, stop strings, whatever it likes. Where the token is the one that was proposed, its logits are
there already; else what was evaluated behind the last token is forgotten. So the text is what it would be without
drafts, token by token, for the same draws: each is drawn from the model's own distribution and compared with the
proposal afterwards. A proposal is one token, not a distribution, and is accepted with the model's probability of it;
no rule of rejection could accept it more often.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_changes
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from powerinfer_cli.drafting.costs import PassCosts
from powerinfer_cli.drafting.drafter import Draft, Drafter
from powerinfer_cli.drafting.options import DraftOptions
from powerinfer_cli.drafting.pace import Pace
from powerinfer_cli.model import Model
from powerinfer_cli.placement import ActivationStatistics, Placement
from powerinfer_cli.runtime.backend import Logits
from powerinfer_cli.runtime.context.saved import Stored
from powerinfer_cli.runtime.engine import Change, Engine
from powerinfer_cli.runtime.executors import Executor
from powerinfer_cli.runtime.options import EngineOptions, LoadEvents
from powerinfer_cli.runtime.recorder import Tap
from powerinfer_cli.runtime.stats import Drafted
from powerinfer_cli.runtime.step import Answer, Piece, Wanted

__all__ = ["DraftingEngine"]

MOST_OWED = 4  # tokens that are read again beside a draft; more are read without one


@dataclass
class _Ahead:
    """What was evaluated behind a sequence's tokens. n: tokens of the sequence itself; at: accepted of the draft.

    rows: logits [1 + len(draft.ids), n_vocab] behind the token before the draft, and behind each of it; None: the step
    that evaluates them has not ended.
    """

    n: int
    draft: Draft
    rows: npt.NDArray[np.float32] | None = None
    at: int = 0

    @property
    def n_behind(self) -> int:
        return len(self.draft.ids) - self.at


class DraftingEngine(Engine):
    """An Engine whose single tokens, of `decode` and of stepwise pieces, are verified with drafts behind them.

    All it tells of its context leaves out what was not accepted.
    """

    def __init__(
        self,
        model: Model,
        options: EngineOptions,
        statistics: ActivationStatistics | None = None,
        events: LoadEvents | None = None,
        placement: Placement | None = None,
        executor: Executor | None = None,
        *,
        drafter: Callable[[Engine], Drafter],
        drafts: DraftOptions,
    ) -> None:
        """drafter: made once the engine stands, for its sequences."""
        options = with_changes(options, drafting=True)
        super().__init__(model, options, statistics, events, placement, executor=executor)
        self._most = min(drafts.most, self.most_stepwise - 1)
        self._ahead: list[_Ahead | None] = [None] * self.n_sequences
        self._owed: list[list[int]] = [[] for _ in range(self.n_sequences)]  # see _take_back
        self._drafter = drafter(self)
        # A device's sums depend on how many tokens are in a pass, so that the text would depend on a clock; of steps
        # that are on their way together a clock tells little.
        alone = super().n_groups == 1
        self._costs = PassCosts(self._drafter.cost, measured=alone and not self.devices)
        self._drafted = [Drafted()] * self.n_sequences
        self._usual = self._most, drafts.least
        self._limits = [self._usual] * self.n_sequences
        self._paces: list[dict[int, Pace]] = [{} for _ in range(self.n_sequences)]

    def begin_drafts(self, sequence: int, most: int | None = None, least: int | None = None) -> None:
        usual_most, usual_least = self._usual
        self._drafted[sequence] = Drafted()
        self._paces[sequence].clear()
        self._limits[sequence] = (
            usual_most if most is None else min(most, usual_most),
            usual_least if least is None else least,
        )

    def drafted(self, sequence: int = 0) -> Drafted:
        return self._drafted[sequence]

    def ahead(self, sequence: int, token: int) -> Logits | None:
        """Append a token that was foreseen: the logits that follow it; None where it was not (nothing happens)."""
        ahead = self._ahead[sequence]
        if ahead is None or ahead.rows is None or not ahead.n_behind or ahead.draft.ids[ahead.at] != token:
            return None
        ahead.at += 1
        ahead.n += 1
        drafted = self._drafted[sequence]
        self._drafted[sequence] = Drafted(drafted.proposed, drafted.accepted + 1, drafted.drafts)
        self.stats.trials.accept(sequence, ahead.at)
        found: Logits = ahead.rows[ahead.at]
        return found

    @property
    def n_groups(self) -> int:
        return super().n_groups if self._watch is None else 1  # who drafts by hidden states waits for each step's

    def _begin(self, pieces: Sequence[Piece]) -> Callable[[], list[Answer]]:
        found: dict[int, Answer] = {}
        for i, piece in enumerate(pieces):
            if _is_decoding(piece):
                found[i] = self.ahead(piece.sequence, piece.ids[0])
        left = [i for i in range(len(pieces)) if found.get(i) is None]
        if not left:
            return lambda: [found[i] for i in range(len(pieces))]
        for i in left:
            self._take_back(pieces[i].sequence, rejected=_is_decoding(pieces[i]))
            if not _is_decoding(pieces[i]):
                self._settle(pieces[i].sequence)
        needed = sum(len(pieces[i].ids) + len(self._owed[pieces[i].sequence]) for i in left)
        if needed > min(super().n_free, self.most_tokens):
            for sequence in range(self.n_sequences):
                self._settle(sequence)
        drafts = self._drafts([pieces[i] for i in left])
        asked = [self._with_draft(pieces[i], drafts.get(pieces[i].sequence)) for i in left]
        begin = perf_counter()
        take = super()._begin(asked)
        ahead = {
            i: self._look_ahead(piece.sequence, drafts.get(piece.sequence))
            for i, piece in zip(left, asked, strict=True)
        }

        def taken() -> list[Answer]:
            answers = take()
            if all(_is_decoding(pieces[i]) for i in left):
                self._costs.note_pass(sum(len(piece.ids) for piece in asked), perf_counter() - begin)
            for i, answer in zip(left, answers, strict=True):
                one = ahead[i]
                found[i] = answer if one is None or answer is None else self._note(pieces[i].sequence, one, answer)
            return [found[i] for i in range(len(pieces))]

        return taken

    def _look_ahead(self, sequence: int, draft: Draft | None) -> _Ahead | None:
        """A step has begun: its draft, if it has one, is behind the sequence's tokens now."""
        self._owed[sequence] = []
        if draft is None:
            return None
        n = len(draft.ids)
        self._ahead[sequence] = found = _Ahead(len(super().tokens_of(sequence)) - n, draft)
        drafted = self._drafted[sequence]
        self._drafted[sequence] = Drafted(drafted.proposed + n, drafted.accepted, drafted.drafts + 1)
        return found

    def _note(self, sequence: int, ahead: _Ahead, rows: npt.NDArray[np.float32]) -> Logits:
        """A draft is evaluated; the logits that follow the token before it. rows: behind all that was asked. It may
        have been taken back meanwhile.
        """
        rows = rows[-1 - len(ahead.draft.ids) :]
        if self._ahead[sequence] is ahead:
            ahead.rows = rows
        first: Logits = rows[0]
        return first

    def decode(self, token: int) -> Logits:
        following = self.step([Piece(0, (token,), Wanted.LAST, stepwise=True)])[0]
        assert following is not None
        return following

    def prefill(
        self,
        ids: Sequence[int],
        on_batch: Callable[[int, int], None] | None = None,
        change: Change | None = None,
        tails: Sequence[int] = (),
    ) -> Logits:
        self._settle(0)
        return super().prefill(ids, on_batch, change, tails)

    def logits(self, ids: Sequence[int], change: Change | None = None) -> Logits:
        self._settle(0)
        return super().logits(ids, change)

    def record(self, ids: Sequence[int], tap: Tap) -> None:
        self._settle(0)
        super().record(ids, tap)

    @property
    def n_past(self) -> int:
        ahead = self._ahead[0]
        return super().n_past if ahead is None else ahead.n

    @property
    def n_free(self) -> int:
        behind = sum(ahead.n_behind for ahead in self._ahead if ahead is not None)
        return super().n_free + behind - sum(map(len, self._owed))

    def tokens_of(self, sequence: int) -> Sequence[int]:
        ids, ahead, owed = super().tokens_of(sequence), self._ahead[sequence], self._owed[sequence]
        if owed:
            return [*ids, *owed]
        return ids if ahead is None or not ahead.n_behind else ids[: ahead.n]

    def room(self, sequence: int) -> int:
        own = self.n_ctx_sequence - len(self.tokens_of(sequence))
        return min(own, self.n_free) if self.options.unified else own

    def left(self, n: int, sequence: int = 0) -> int:
        self._settle(sequence)
        return super().left(n, sequence)

    def truncate(self, n: int, sequence: int = 0) -> int:
        self._take_back(sequence)
        if n <= len(super().tokens_of(sequence)):
            self._owed[sequence] = []
        self._settle(sequence)
        left = super().truncate(n, sequence)
        self._drafter.forget(sequence, left)
        return left

    def shift(self, n_keep: int, n_discard: int, sequence: int = 0) -> None:
        self._settle(sequence)
        self._drafter.forget(sequence, n_keep)
        super().shift(n_keep, n_discard, sequence)

    def save(self, sequence: int) -> dict[str, npt.NDArray[Any]]:
        self._settle(sequence)
        return super().save(sequence)

    def restore(self, sequence: int, ids: Sequence[int], stored: Stored) -> None:
        self._settle(sequence)
        self._drafter.forget(sequence, 0)
        super().restore(sequence, ids, stored)

    def close(self) -> None:
        self._drafter.close()
        super().close()

    def _settle(self, sequence: int) -> None:
        """Have the engine hold a sequence's tokens, and nothing more."""
        self._take_back(sequence)
        owed, self._owed[sequence] = self._owed[sequence], []
        if owed:
            self._forward([(sequence, owed)], stepwise=True, counted=[len(owed)])

    def _take_back(self, sequence: int, *, rejected: bool = False) -> None:
        """Forget what was evaluated behind a sequence's tokens. rejected: because another token comes.

        States of recurrent layers go back to before the draft: tokens of the sequence that are forgotten with it are
        owed, and read again with the next ones, which costs less than a pass for them alone.
        """
        ahead, self._ahead[sequence] = self._ahead[sequence], None
        if ahead is None:
            return
        self._pace(sequence, ahead.draft.kind).learn(ahead.at, rejected and ahead.n_behind > 0)
        if ahead.n_behind:
            held = list(super().tokens_of(sequence)[: ahead.n])
            self._owed[sequence] = held[super().truncate(ahead.n, sequence) :]

    def _pace(self, sequence: int, kind: int) -> Pace:
        paces = self._paces[sequence]
        if kind not in paces:
            paces[kind] = Pace(self._costs, self._most)
        return paces[kind]

    def _drafts(self, pieces: Sequence[Piece]) -> dict[int, Draft]:
        """For those that are decoded, as far as a pass and the cache have room."""
        decoding = [piece for piece in pieces if _is_decoding(piece)]
        if not decoding:
            return {}
        alone = sum(piece.is_stepwise for piece in pieces)
        spare = min(self.most_stepwise - alone, self.most_tokens - sum(len(piece.ids) for piece in pieces))
        owed = sum(len(self._owed[piece.sequence]) for piece in pieces)
        spare = min(spare - owed, self.n_free - sum(len(piece.ids) for piece in pieces) - self.n_sequences)
        limits = {piece.sequence: min(self._limit(piece.sequence), spare // len(decoding)) for piece in decoding}
        texts = {
            piece.sequence: [*self.tokens_of(piece.sequence), piece.ids[0]]
            for piece in decoding
            if limits[piece.sequence] > 0
        }

        def wish(sequence: int, kind: int) -> int:
            return min(limits[sequence], self._pace(sequence, kind).wish())

        wishes = {sequence: (lambda kind, own=sequence: wish(own, kind)) for sequence in texts}
        begin = perf_counter()
        found = self._drafter.propose(texts, wishes) if texts else {}
        self._costs.note_proposal(sum(len(draft.ids) for draft in found.values()), perf_counter() - begin)
        kept = {i: draft for i, draft in found.items() if draft.ids and len(draft.ids) >= self._limits[i][1]}
        for i in found.keys() - kept.keys():  # what was looked for in vain has cost something, too
            self._pace(i, found[i].kind).learn(0, rejected=True)
        return kept

    def _limit(self, sequence: int) -> int:
        """Tokens that may be evaluated behind the next one. The context's last ones are left: whether it shifts, or the
        text ends, is for others to say.
        """
        owed, longest = len(self._owed[sequence]), min(self.n_ctx_sequence, self.config.n_ctx_train)
        if owed > MOST_OWED:
            return 0
        most = min(self._limits[sequence][0], self.most_stepwise - 1 - owed)
        return min(most, longest - len(self.tokens_of(sequence)) - 3)

    def _with_draft(self, piece: Piece, draft: Draft | None) -> Piece:
        owed = self._owed[piece.sequence]
        if draft is None and not owed:
            return piece
        ids = (*owed, piece.ids[0], *(() if draft is None else draft.ids))
        wanted = Wanted.LAST if draft is None else Wanted.ALL
        return Piece(piece.sequence, ids, wanted, stepwise=True, counted=len(owed))


def _is_decoding(piece: Piece) -> bool:
    return piece.stepwise and len(piece.ids) == 1 and piece.wanted is Wanted.LAST
